"""The calls that were made, in a store or in memory: looked up by key, and written several at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.vlm.verdicts import UNREAD
from prefenvs.preferences import Oracle
from prefenvs.store import (
    Call,
    Spending,
    Store,
    add_calls,
    answered_before,
    called_queries,
    find_replies,
    list_calls,
    sum_calls,
)

_Result = TypeVar("_Result")
NONSENSE = 20
"""Replies that are no verdict before a model, which has given none yet, is asked no more."""


class Records:
    """Keep calls so that none is made twice; for use within one event loop.

    The store is read and written in a thread of its own. Calls that end while the disk is busy are written together,
    so that the disk's delay limits the wait for a reply but not how many replies a second can be taken.
    """

    def __init__(self, store: Store | None, run: str) -> None:
        self.store, self.run = store, run
        self._memory: dict[str, Call] = {}
        self._unwritten: list[tuple[Call | None, Call | None, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._clerk = ThreadPoolExecutor(1, "vlm-records")

    @property
    def spent(self) -> Spending:
        """What the calls of this run in the store have used."""
        return Spending() if self.store is None else sum_calls(self.store, self.run)

    @property
    def called(self) -> set[str]:
        """The queries of this run that the store has calls for."""
        return set() if self.store is None else called_queries(self.store, self.run)

    async def find(self, key: str) -> Call | None:
        """Return the call with this key that had a reply, if there is one."""
        store = self.store
        if store is None:
            return self._memory.get(key)
        found = await self._do(partial(find_replies, store, [key]))
        return found.get(key)

    async def add(self, call: Call, ended: Call | None = None) -> Call:
        """Keep a call and return it; it is on the disk then. `ended`: the same call as it was noted while under way."""
        if self.store is None:
            if call.reply is not None:
                self._memory[call.key] = call
            return call
        await self._put(call, ended)
        return call

    async def drop(self, begun: Call) -> None:
        """Forget a call that was noted as under way and turned out to cost nothing."""
        if self.store is not None:
            await self._put(None, begun)

    async def answered_before(self, model: str, settings: str) -> bool:
        """Tell whether the model has ever replied under these settings."""
        store = self.store
        if store is None:
            return any(call.tokens_in and call.prompt.endswith(settings) for call in self._memory.values())
        return await self._do(partial(answered_before, store, model, settings))

    def close(self) -> None:
        """End the thread; the store stays open."""
        self._clerk.shutdown()

    async def _put(self, call: Call | None, ended: Call | None) -> None:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unwritten.append((call, ended, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        # A cancelled query must not take back what has been paid for.
        await asyncio.shield(written)

    async def _write(self) -> None:
        store = self.store
        assert store is not None
        while self._unwritten:
            batch, self._unwritten = self._unwritten, []
            calls = [call for call, _, _ in batch if call is not None]
            ended = [old for _, old, _ in batch if old is not None]
            try:
                await self._do(partial(add_calls, store, calls, ended))
            except Exception as error:
                for _, _, written in batch:
                    written.set_exception(error)
            else:
                for _, _, written in batch:
                    written.set_result(None)
        self._writer = None

    async def _do(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._clerk, work)


def count_unread(oracle: Oracle) -> int:
    """Return how many of a model's replies were none that could be read."""
    reasons = Counter[str](getattr(oracle, "reasons", ()))
    return sum(reasons[reason] for reason in UNREAD)


def last_reply(store: Store, run: str) -> str:
    """Quote a model's last reply, for a message; empty where there is none."""
    replies = [call.reply for call in list_calls(store, run) if call.reply]
    return f", the last is {' '.join(replies[-1].split())[:160]!r}" if replies else ""


def refuse_nonsense(oracle: Oracle, answers: int, store: Store, run: str) -> None:
    """Raise a PrefenvsError where a model has given so many answers, and none that is a verdict."""
    if answers >= NONSENSE and count_unread(oracle) == answers:
        raise PrefenvsError(
            f"none of the first {answers} replies is a verdict{last_reply(store, run)}: mend the prompts "
            "(--copy-prompts), raise --vlm-max-tokens, or choose another model"
        )
