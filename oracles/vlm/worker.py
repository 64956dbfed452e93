"""The thread in which a model is asked, so that training goes on meanwhile."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.vlm.budget import Exhausted
from prefenvs.oracles.vlm.client import Failed, Rejected
from prefenvs.oracles.vlm.rating import AHEAD, NotRecorded, Rating
from prefenvs.oracles.vlm.verdicts import Judgement
from prefenvs.preferences import Query

OUTAGE = 30.0
"""Seconds until a server that was given up is tried again."""
ROUNDS = 2
"""How often a query that fails while others do not is asked, each time with all attempts."""
IN_A_ROW = 5
"""Queries that fail one after the other before it is the server's fault, although it answers."""


@dataclass(frozen=True)
class Trouble:
    """Why queries stay unanswered.

    kind: "outage", the server is down and will be tried again; "budget", it is used up; "fatal", nothing will change
    without the user; "replay", the recording does not hold the query.
    """

    kind: str
    message: str


@dataclass
class _Failure:
    """How often a query has failed, and how many others had been answered when it first began."""

    rounds: int
    answered: int


class Worker:
    """Judge queries in a thread of its own, in the order in which they came, many at a time.

    Judgements come out of `ready`. A query that could not be judged goes back to its place and waits there until the
    trouble is over. If it fails while others are answered, it is asked once more after them and then skipped.
    """

    def __init__(self, make_rating: Callable[[], Rating], concurrency: int) -> None:
        self.ready: queue.SimpleQueue[tuple[Query, Judgement]] = queue.SimpleQueue()
        self.trouble: Trouble | None = None
        self.idle = threading.Event()
        self._make_rating = make_rating
        self._tasks = AHEAD * concurrency
        self._waiting: deque[Query] = deque()
        self._missing: list[Query] = []
        self._answered = 0
        self._failures: dict[str, _Failure] = {}
        self._in_a_row: set[str] = set()
        self._under_way: set[asyncio.Task[None]] = set()
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
        under_way = self._under_way
        try:
            while not self._stopping:
                self._wake.clear()
                # After a failure one at a time, until it is known whose fault it is.
                while (
                    self._waiting and self.trouble is None and len(under_way) < (1 if self._in_a_row else self._tasks)
                ):
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
        answered = self._answered
        try:
            self._take(query, await rating.judge(query))
        except NotRecorded:
            self._missing.append(query)
        except Exhausted as error:
            trouble = Trouble("budget", f"the budget is used up: {error}")
            self._waiting.appendleft(query)
        except Failed as error:
            try:
                trouble = await self._blame(rating, query, error, answered)
            except PrefenvsError as other:
                trouble = Trouble("fatal", str(other))
                self._waiting.appendleft(query)
        except Exception as error:
            told = str(error) if isinstance(error, PrefenvsError) else ""
            trouble = Trouble("fatal", told or f"a query could not be judged: {type(error).__name__}: {error}")
            self._waiting.appendleft(query)
        if trouble is not None and not self._stopping:
            if self.trouble is None and trouble.kind == "outage":
                self._loop.call_later(OUTAGE, self._forget_outage)
            self.trouble = self.trouble or trouble
        assert self._wake is not None
        # After the task has ended and left the set of those under way.
        self._loop.call_soon(self._wake.set)

    def _take(self, query: Query, judgement: Judgement) -> None:
        self.ready.put((query, judgement))
        if not judgement.cached:
            # Whatever else has failed, the server answers.
            self._answered += 1
            self._in_a_row.clear()
            self._failures.pop(query.id, None)
            self._forget_outage()

    async def _blame(self, rating: Rating, query: Query, error: Failed, answered: int) -> Trouble | None:
        """Find out whether a query has failed by itself or by the server's fault, and return the trouble if it is that.

        The query goes to the end of those that wait, so that others are tried before it is asked again, or is skipped.
        """
        rejected = isinstance(error, Rejected)
        trouble = Trouble("fatal" if rejected else "outage", str(error))
        failure = self._failures.setdefault(query.id, _Failure(0, answered))
        failure.rounds += 1
        if self._answered == answered and not rejected and (error.busy or not await rating.answers()):
            self._waiting.appendleft(query)
            return trouble
        proven = self._answered > 0 or await rating.answered_before()
        self._in_a_row.add(query.id)
        failing = len(self._in_a_row)
        alone = rejected or failing == 1 or self._answered > failure.answered
        if failure.rounds >= ROUNDS and proven and alone and not error.busy and failing < IN_A_ROW:
            self.ready.put((query, await rating.give_up(query, str(error))))
            self._in_a_row.discard(query.id)
            del self._failures[query.id]
            return None
        self._waiting.append(query)
        limit = IN_A_ROW if proven or not rejected else 2
        nothing_else = failure.rounds >= ROUNDS and len(self._waiting) <= failing
        # Those under way may still show that it is not the server's fault.
        last = len(self._under_way) <= 1
        return trouble if last and (failing >= limit or nothing_else) else None

    def _forget_outage(self) -> None:
        if self.trouble is not None and self.trouble.kind == "outage":
            self.trouble = None
            if self._wake is not None:
                self._wake.set()
