"""One query to one judgement: draw, look into the store, set money aside, call the model, write down, read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time as clock
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from oracles.vlm.budget import Purse
from oracles.vlm.client import ModelClient, Unavailable, request_settings
from oracles.vlm.config import VLMConfig
from oracles.vlm.pictures import Pictures
from oracles.vlm.prompts import fill, read_prompts
from oracles.vlm.records import Records
from oracles.vlm.verdicts import IDENTICAL, SCHEMA, Judgement, Opinion, read_structured, read_verdict
from prefenvs.preferences import Query
from prefenvs.store import Call, Spending
from prefenvs.tasks import Task

AHEAD = 2
"""Queries in preparation for each call that may be under way, so that no slot waits for a picture."""
_Result = TypeVar("_Result")


class NotRecorded(Exception):
    """A replay came to a call that the store has no reply to."""


@dataclass
class _Case:
    """One query while it is judged: what was used for it, and what has been drawn and set aside."""

    query: Query
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    called: bool = False
    ticket: int | None = None
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    identical: bool = False


class Rating:
    """Judge queries of one task with one model; lives in one event loop."""

    def __init__(self, task: Task, model: str, config: VLMConfig, records: Records) -> None:
        self.task, self.model, self.config, self.records = task, model, config, records
        self.prompts = read_prompts(config.prompts)
        self.purse = Purse(config.budget, records.spent)
        self._client = None if config.replay else ModelClient(model, config)
        self._pictures = Pictures(task, config.view)
        self._artist = ThreadPoolExecutor(1, "vlm-pictures")
        self._picture_tokens = config.picture_tokens
        self._under_way: dict[str, asyncio.Future[Call]] = {}

    async def judge(self, query: Query) -> Judgement:
        """Return the judgement of a query of two segments.

        Raises PrefenvsError, Unavailable, `Exhausted` or NotRecorded where there is none; what was paid for until then
        is in the records, and is not paid again.
        """
        case, begun = _Case(query), clock.monotonic()
        try:
            opinions = [await self._opinion(case, shown) for shown in self._orders(query)]
        finally:
            if case.ticket is not None:
                used = Spending(int(case.called), case.tokens_in, case.tokens_out, case.cost)
                await self.purse.settle(case.ticket, used)
        seconds = clock.monotonic() - begun
        spent = case.tokens_in, case.tokens_out, case.cost
        return Judgement(query.id, tuple(opinions), *spent, seconds, cached=not case.called)

    def stop(self) -> None:
        """Begin no further call; those that wait for another attempt are given up, those under way end."""
        if self._client is not None:
            self._client.stop()

    async def close(self) -> None:
        """Free connections and the renderer."""
        if self._client is not None:
            await self._client.close()
        await self._draw(self._pictures.close)
        self._artist.shutdown()

    def _orders(self, query: Query) -> list[tuple[int, int]]:
        if self.config.order == "both":
            return [(0, 1), (1, 0)]
        swapped = self.config.order == "mixed" and int(query.id[-1], 16) % 2 == 1
        return [(1, 0) if swapped else (0, 1)]

    async def _opinion(self, case: _Case, shown: tuple[int, int]) -> Opinion:
        """Put one query to the model in one order."""
        texts = {"task": self.config.sentence or self.task.sentence, "shown": self.config.view.describe()}
        segments = {name: case.query.segments[i] for name, i in zip(("first", "second"), shown, strict=True)}
        names = {
            name: [{"type": "segment", "segment": segment.hash, "view": self.config.view.name}]
            for name, segment in segments.items()
        }
        single = self.config.stages == "one"
        prompt = fill(self.prompts["combined" if single else "analysis"], texts, names)
        reply = await self._call(case, prompt, SCHEMA if single else None)
        read: tuple[float | None, str]
        if single or reply.finish == IDENTICAL:
            read = read_structured(reply.reply or "", reply.finish, self.config.answer == "probability")
            return Opinion(shown, *read)
        if reply.finish in ("refusal", "content_filter"):
            return Opinion(shown, *read_verdict("", reply.finish))
        # A description that was cut off is still a description.
        prompt = fill(self.prompts["verdict"], texts | {"analysis": reply.reply or ""}, {})
        verdict = await self._call(case, prompt, None)
        return Opinion(shown, *read_verdict(verdict.reply or "", verdict.finish))

    async def _call(self, case: _Case, prompt: list[dict[str, Any]], schema: dict[str, Any] | None) -> Call:
        """Return the reply to a prompt: the one in the records, or else a new one."""
        settings = request_settings(self.config, schema) | {"extra": dict(self.config.extra)}
        settings["limit"] = settings.pop("max_completion_tokens", None) or settings.pop("max_tokens")
        about = json.dumps({"prompt": prompt, "settings": settings}, sort_keys=True)
        key = hashlib.sha256(f"{self.model}\n{about}".encode()).hexdigest()
        # Two queries may come to the same prompt at the same time.
        while key in self._under_way:
            await asyncio.wait([self._under_way[key]])
        self._under_way[key] = asyncio.get_running_loop().create_future()
        try:
            known = await self.records.find(key)
            if known is not None:
                return known
            if self._client is None:
                raise NotRecorded(case.query.id)
            return await self._pay(case, key, about, prompt, schema)
        finally:
            self._under_way.pop(key).cancel()

    async def _pay(
        self, case: _Case, key: str, about: str, prompt: list[dict[str, Any]], schema: dict[str, Any] | None
    ) -> Call:
        """Make a call and write it down."""
        assert self._client is not None
        shows = any(part["type"] == "segment" for part in prompt)
        if shows and not case.parts:
            await self._draw(lambda: self._prepare(case))
        if shows and case.identical:
            return await self.records.add(self._note(case, key, about, "", IDENTICAL))
        guess = self._estimate(case, prompt)
        if case.ticket is None:
            calls = (2 if self.config.stages == "two" else 1) * len(self._orders(case.query))
            # A second stage reads what the first one wrote.
            tokens_in = calls * guess + calls * self.config.max_tokens
            case.ticket = await self.purse.reserve(tokens_in, calls * self.config.max_tokens)
        parts = [piece for part in prompt for piece in (case.parts[part["segment"]] if "segment" in part else [part])]
        content: Any = parts if shows else "\n".join(part["text"] for part in parts)
        begun = clock.monotonic()
        try:
            reply = await self._client.complete([{"role": "user", "content": content}], schema)
        except Unavailable as failure:
            if failure.charged:
                used = failure.charged * guess, failure.charged * self.config.max_tokens
                await self.records.add(
                    self._note(case, key, about, None, str(failure), *used, clock.monotonic() - begun)
                )
            raise
        tokens_in = guess if reply.tokens_in is None else reply.tokens_in
        tokens_out = self.config.max_tokens if reply.tokens_out is None else reply.tokens_out
        if shows and reply.tokens_in is not None:
            pictures = 2 * self.config.view.pictures
            self._picture_tokens = max(self._picture_tokens, -(-reply.tokens_in // pictures))
        return await self.records.add(
            self._note(case, key, about, reply.text, reply.finish, tokens_in, tokens_out, reply.seconds)
        )

    def _note(
        self,
        case: _Case,
        key: str,
        about: str,
        reply: str | None,
        finish: str,
        tokens_in: int = 0,
        tokens_out: int = 0,
        seconds: float = 0.0,
    ) -> Call:
        """Write a call to the query's account, and return its record."""
        cost = self.config.budget.price(tokens_in, tokens_out)
        case.called = case.called or finish != IDENTICAL
        case.tokens_in += tokens_in
        case.tokens_out += tokens_out
        case.cost += cost
        about_query = key, self.records.run, case.query.id, self.model, about
        return Call(*about_query, reply, finish, tokens_in, tokens_out, cost, seconds, clock.time())

    def _estimate(self, case: _Case, prompt: list[dict[str, Any]]) -> int:
        """Tokens that a prompt takes at most: a token is three letters or more on average, in any model's English."""
        letters = sum(len(str(part["text"])) for part in prompt if part["type"] == "text")
        shown = len([part for part in prompt if part["type"] == "segment"]) * self.config.view.pictures
        return letters // 3 + 32 + shown * self._picture_tokens

    def _prepare(self, case: _Case) -> None:
        """Draw a query's segments; runs in the pictures' thread."""
        frames = {segment.hash: self._pictures.draw(segment) for segment in case.query.segments}
        first, second = (frames[segment.hash] for segment in case.query.segments)
        case.identical = np.array_equal(first, second)
        for segment in case.query.segments:
            case.parts[segment.hash] = self._pictures.encode(segment, frames[segment.hash])
        self._pictures.check_size([part for parts in case.parts.values() for part in parts])

    async def _draw(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._artist, work)
