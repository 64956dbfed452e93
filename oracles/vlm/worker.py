"""The thread in which a model is asked, so that training goes on meanwhile."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oracles.vlm.budget import Exhausted
from oracles.vlm.client import Unavailable
from oracles.vlm.rating import AHEAD, NotRecorded, Rating
from oracles.vlm.verdicts import Judgement
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query

OUTAGE = 30.0
"""Seconds until a server that was given up is tried again."""


@dataclass(frozen=True)
class Trouble:
    """Why queries stay unanswered.

    kind: "outage", the server is down and will be tried again; "budget", it is used up; "fatal", nothing will change
    without the user; "replay", the recording does not hold the query.
    """

    kind: str
    message: str


class Worker:
    """Judge queries in a thread of its own, in the order in which they came, many at a time.

    Judgements come out of `ready`. A query that could not be judged goes back to its place and waits there until the
    trouble is over.
    """

    def __init__(self, make_rating: Callable[[], Rating], concurrency: int) -> None:
        self.ready: queue.SimpleQueue[tuple[Query, Judgement]] = queue.SimpleQueue()
        self.trouble: Trouble | None = None
        self.idle = threading.Event()
        self._make_rating = make_rating
        self._tasks = AHEAD * concurrency
        self._waiting: deque[Query] = deque()
        self._missing: list[Query] = []
        self._busy = 0
        self._stopping = False
        self._unheard = 0
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._wake: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="vlm", daemon=True)
        self._thread.start()

    def put(self, queries: Sequence[Query]) -> None:
        """Hand over queries."""

        def add() -> None:
            self._waiting.extend(queries)
            if self.trouble is not None and self.trouble.kind == "replay":
                self.trouble = None

        self._tell(add)

    def retry(self) -> None:
        """Try again now what stands still because of an outage."""
        self._tell(self._forget_outage)

    @property
    def ended(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def left(self) -> list[Query]:
        """Return the queries that have not been judged, once the thread has ended."""
        return [*self._waiting, *self._missing]

    def close(self, patience: float) -> None:
        """Begin nothing more, let calls under way end for at most `patience` seconds, and end the thread."""
        if self._thread.is_alive():
            self._tell(lambda: setattr(self, "_stopping", True))
            self._thread.join(patience)

    def _tell(self, change: Callable[[], None]) -> None:
        def apply() -> None:
            change()
            with self._lock:
                self._unheard -= 1
            if self._wake is not None:
                self._wake.set()

        with self._lock:
            self._unheard += 1
            self.idle.clear()
        try:
            self._loop.call_soon_threadsafe(apply)
        except RuntimeError:  # the thread has ended
            change()
            self.idle.set()

    def _rest(self) -> None:
        """Let those who wait know that nothing is under way, unless something new is on its way here."""
        with self._lock:
            if not self._unheard:
                self.idle.set()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()
            self.idle.set()

    async def _main(self) -> None:
        self._wake = asyncio.Event()
        try:
            rating = self._make_rating()
        except PrefenvsError as error:
            self.trouble = Trouble("fatal", str(error))
            return
        under_way: set[asyncio.Task[None]] = set()
        try:
            while not self._stopping:
                self._wake.clear()
                while self._waiting and self.trouble is None and len(under_way) < self._tasks:
                    task = asyncio.create_task(self._judge(rating, self._waiting.popleft()))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                if not under_way and (not self._waiting or self.trouble is not None):
                    if self._missing and self.trouble is None:
                        # Only now, as the others may have been recorded.
                        lacks = "with these settings, prompts and model are not in the recording"
                        self.trouble = Trouble("replay", f"{len(self._missing)} queries {lacks}")
                    self._rest()
                await self._wake.wait()
            rating.stop()
            if under_way:
                await asyncio.wait(under_way)
        finally:
            await rating.close()
            rating.records.close()

    async def _judge(self, rating: Rating, query: Query) -> None:
        """Judge one query; what stands in its way becomes the worker's trouble."""
        trouble: Trouble | None = None
        try:
            judgement = await rating.judge(query)
        except NotRecorded:
            self._missing.append(query)
        except Exhausted as error:
            trouble = Trouble("budget", f"the budget is used up: {error}")
        except Unavailable as error:
            trouble = Trouble("outage", str(error))
        except PrefenvsError as error:
            trouble = Trouble("fatal", str(error))
        except Exception as error:
            trouble = Trouble("fatal", f"a query could not be judged: {type(error).__name__}: {error}")
        else:
            self.ready.put((query, judgement))
        if trouble is not None:
            self._waiting.appendleft(query)
        if trouble is not None and not self._stopping:
            if self.trouble is None and trouble.kind == "outage":
                self._loop.call_later(OUTAGE, self._forget_outage)
            self.trouble = self.trouble or trouble
        assert self._wake is not None
        # After the task has ended and left the set of those under way.
        self._loop.call_soon(self._wake.set)

    def _forget_outage(self) -> None:
        if self.trouble is not None and self.trouble.kind == "outage":
            self.trouble = None
            if self._wake is not None:
                self._wake.set()
