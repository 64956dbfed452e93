"""One query to one judgement: draw, look into the store, set money aside, call the model, write down, read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time as clock
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from prefenvs.oracles.vlm.budget import Purse
from prefenvs.oracles.vlm.client import Failed, ModelClient, Reply, request_settings
from prefenvs.oracles.vlm.config import VLMConfig
from prefenvs.oracles.vlm.pictures import Pictures
from prefenvs.oracles.vlm.prompts import fill, read_prompts
from prefenvs.oracles.vlm.records import Records
from prefenvs.oracles.vlm.verdicts import (
    FAILED,
    SCHEMA,
    WRONG_FORM,
    Judgement,
    Opinion,
    read_structured,
    read_verdict,
)
from prefenvs.preferences import Query
from prefenvs.store import Call, Spending
from prefenvs.store.calls import IDENTICAL, UNDER_WAY
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
    asked: Call | None = None
    estimated: bool = False

    def book(self, call: Call) -> None:
        """Write what a call took to the query's account."""
        self.called = True
        self.tokens_in += call.tokens_in
        self.tokens_out += call.tokens_out
        self.cost += call.cost


class _Attempts:
    """The attempts at one call: each is set aside in the purse and written down before it is made."""

    def __init__(self, purse: Purse, records: Records, case: _Case, most: Call) -> None:
        """most: the call with the tokens and the money that an attempt may take."""
        self.purse, self.records, self.case, self.most = purse, records, case, most
        self.begun: Call | None = None

    async def reserve(self) -> None:
        """Set aside what another attempt may cost, beside what has been used for the query."""
        assert self.case.ticket is not None
        tokens = self.case.tokens_in + self.most.tokens_in, self.case.tokens_out + self.most.tokens_out
        await self.purse.raise_to(self.case.ticket, *tokens)

    async def begin(self) -> None:
        """Write down that an attempt is about to be made."""
        self.begun = await self.records.add(replace(self.most, time=clock.time()))

    async def fail(self, reason: str, charged: bool) -> None:
        """Write down that it failed, or forget it if it cost nothing."""
        assert self.begun is not None
        if not charged:
            await self.records.drop(self.begun)
            return
        now = clock.time()
        self.case.book(self.most)
        self.case.estimated = True
        await self.records.add(replace(self.most, finish=reason, seconds=now - self.begun.time, time=now), self.begun)

    async def end(self, reply: Reply, tokens_in: int, tokens_out: int, cost: float) -> Call:
        """Write down the reply."""
        about: dict[str, Any] = {"finish": reply.finish, "tokens_in": tokens_in, "tokens_out": tokens_out, "cost": cost}
        call = replace(self.most, reply=reply.text, seconds=reply.seconds, time=clock.time(), **about)
        self.case.book(call)
        return await self.records.add(call, self.begun)


class Rating:
    """Judge queries of one task with one model; lives in one event loop."""

    def __init__(self, task: Task, model: str, config: VLMConfig, records: Records) -> None:
        self.task, self.model, self.config, self.records = task, model, config, records
        self.prompts = read_prompts(config.prompts)
        self.purse = Purse(config.budget, records.spent, records.called)
        self._client = None if config.replay else ModelClient(model, config)
        self._pictures = Pictures(task, config.view)
        self._artist = ThreadPoolExecutor(1, "vlm-pictures")
        self._picture_tokens = config.picture_tokens
        self._under_way: dict[str, asyncio.Future[Call]] = {}
        self._failed: dict[str, Call] = {}

    async def judge(self, query: Query) -> Judgement:
        """Return the judgement of a query of two segments.

        Raises PrefenvsError, `Failed`, `Exhausted` or NotRecorded where there is none; what was paid for until then
        is in the records, and is not paid again.
        """
        case, begun = _Case(query), clock.monotonic()
        try:
            opinions: list[Opinion] = []
            for shown in self._orders(query):
                opinions.append(await self._opinion(case, shown))
                if opinions[-1].reason.startswith(FAILED):
                    break
        except Failed:
            if case.asked is not None:
                self._failed[query.id] = case.asked
            raise
        finally:
            if case.ticket is not None:
                used = Spending(int(case.called), case.tokens_in, case.tokens_out, case.cost)
                await self.purse.settle(case.ticket, used)
        seconds = clock.monotonic() - begun
        spent = case.tokens_in, case.tokens_out, case.cost
        return Judgement(query.id, tuple(opinions), *spent, seconds, not case.called, case.estimated)

    async def give_up(self, query: Query, reason: str) -> Judgement:
        """Note in the place of the reply to the call that failed last that there is none, and judge the query by it."""
        call = self._failed.pop(query.id)
        await self.records.add(
            replace(
                call, reply="", finish=f"{FAILED}: {reason}", tokens_in=0, tokens_out=0, cost=0.0, time=clock.time()
            )
        )
        return await self.judge(query)

    async def answers(self) -> bool:
        """Tell whether the server answers at this moment."""
        return self._client is not None and await self._client.works()

    async def answered_before(self) -> bool:
        """Tell whether the model has ever rated under these settings."""
        schema = SCHEMA if self.config.stages == "one" else None
        return await self.records.answered_before(self.model, f'"settings": {self._settings(schema)}}}')

    @property
    def most(self) -> tuple[int, int]:
        """Tokens of prompts and of replies that are set aside for a query."""
        return self._set_aside(self._estimate(self._first_prompt(("", ""))))

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
        prompt = self._first_prompt([case.query.segments[i].hash for i in shown])
        single = self.config.stages == "one"
        reply = await self._call(case, prompt, SCHEMA if single else None)
        read: tuple[float | None, str]
        if single or reply.finish == IDENTICAL:
            read = read_structured(reply.reply or "", reply.finish, self.config.answer == "probability")
            return Opinion(shown, *read, reply.reply or "")
        if reply.finish in ("refusal", "content_filter") or reply.finish.startswith(FAILED):
            return Opinion(shown, *read_verdict("", reply.finish), reply.reply or "")
        if not (reply.reply or "").strip():
            return Opinion(shown, None, WRONG_FORM)
        # A description that was cut off is still a description.
        prompt = fill(self.prompts["verdict"], self._texts | {"analysis": reply.reply or ""}, {})
        verdict = await self._call(case, prompt, None)
        return Opinion(shown, *read_verdict(verdict.reply or "", verdict.finish), verdict.reply or "")

    @property
    def _texts(self) -> dict[str, str]:
        return {"task": self.config.sentence or self.task.sentence, "shown": self.config.view.describe()}

    def _first_prompt(self, hashes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the prompt that shows two segments, by their hashes, in this order."""
        names = {
            name: [{"type": "segment", "segment": key, "view": self.config.view.name}]
            for name, key in zip(("first", "second"), hashes, strict=True)
        }
        return fill(self.prompts["combined" if self.config.stages == "one" else "analysis"], self._texts, names)

    async def _call(self, case: _Case, prompt: list[dict[str, Any]], schema: dict[str, Any] | None) -> Call:
        """Return the reply to a prompt: the one in the records, or else a new one."""
        about = f'{{"prompt": {json.dumps(prompt, sort_keys=True)}, "settings": {self._settings(schema)}}}'
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
        call = Call(
            key, self.records.run, case.query.id, self.model, about, None, UNDER_WAY, 0, 0, 0.0, 0.0, clock.time()
        )
        if shows and case.identical:
            return await self.records.add(replace(call, reply="", finish=IDENTICAL))
        guess, limit = self._estimate(prompt), self.config.max_tokens
        if case.ticket is None:
            case.ticket = await self.purse.reserve(case.query.id, *self._set_aside(guess))
        price = self.config.budget.price
        case.asked = replace(call, tokens_in=guess, tokens_out=limit, cost=price(guess, limit))
        attempts = _Attempts(self.purse, self.records, case, case.asked)
        parts = [piece for part in prompt for piece in (case.parts[part["segment"]] if "segment" in part else [part])]
        content: Any = parts if shows else "\n".join(part["text"] for part in parts)
        reply = await self._client.complete([{"role": "user", "content": content}], schema, attempts)
        case.estimated |= reply.tokens_in is None or reply.tokens_out is None
        tokens_in = guess if reply.tokens_in is None else reply.tokens_in
        tokens_out = limit if reply.tokens_out is None else reply.tokens_out
        if shows and reply.tokens_in is not None:
            pictures = 2 * self.config.view.pictures
            self._picture_tokens = max(self._picture_tokens, -(-reply.tokens_in // pictures))
        return await attempts.end(reply, tokens_in, tokens_out, price(tokens_in, tokens_out))

    def _settings(self, schema: dict[str, Any] | None) -> str:
        """Return what shapes a reply as JSON, the same for both names of the limit."""
        settings = request_settings(self.config, schema) | {"extra": dict(self.config.extra)}
        settings["limit"] = settings.pop("max_completion_tokens", None) or settings.pop("max_tokens")
        return json.dumps(settings, sort_keys=True)

    def _set_aside(self, guess: int) -> tuple[int, int]:
        """Tokens of prompts and of replies that a query takes at most, whose first prompt takes `guess`."""
        calls = (2 if self.config.stages == "two" else 1) * (2 if self.config.order == "both" else 1)
        # A second stage reads what the first one wrote.
        return calls * (guess + self.config.max_tokens), calls * self.config.max_tokens

    def _estimate(self, prompt: list[dict[str, Any]]) -> int:
        """Tokens that a prompt takes at most: one is three bytes or more on average, in English and elsewhere."""
        letters = sum(len(str(part["text"]).encode(errors="replace")) for part in prompt if part["type"] == "text")
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


def most_tokens(task: Task, config: VLMConfig) -> tuple[int, int]:
    """Return the tokens of prompts and of replies that a query may take, before any reply shows what a picture takes.

    No server is asked.
    """
    return Rating(task, "", replace(config, replay=True), Records(None, "")).most
