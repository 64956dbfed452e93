"""What a model may cost: queries, tokens and money are set aside before a call and settled after it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, check_settings
from prefenvs.store import Spending


@dataclass(frozen=True)
class Budget:
    """How much may be spent; None sets no limit.

    queries: queries that at least one call is made for. tokens: of prompts and replies together. cost: money, in the
    currency of the prices. price_in, price_out: of a million tokens of prompts and of replies.
    """

    queries: NonNegativeInt | None = None
    tokens: NonNegativeInt | None = None
    cost: NonNegativeFloat | None = None
    price_in: NonNegativeFloat = 0.0
    price_out: NonNegativeFloat = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.cost is not None and not (self.price_in or self.price_out):
            raise PrefenvsError(
                f"a limit of {self.cost:g} in money needs the prices of a million tokens: price_in and price_out"
            )

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """Return what so many tokens cost."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6


class Exhausted(Exception):
    """The budget does not suffice for another query; the message says which limit it is."""


class Purse:
    """Keep to a budget with many calls under way: `reserve` before a query, `settle` when its costs are known.

    What is set aside counts as spent until it is settled, so calls under way cannot exceed the limit together. For
    use within one event loop.
    """

    def __init__(self, budget: Budget, spent: Spending, called: Iterable[str] = ()) -> None:
        """spent: what earlier calls of the same run have used, for the queries `called`, which count once each."""
        self.budget = budget
        self._called = set(called)
        self._spent = spent
        self._reserved: dict[int, tuple[str, Spending]] = {}
        self._waiting: set[int] = set()
        self._tickets = itertools.count()
        self._changed = asyncio.Condition()

    @property
    def spent(self) -> Spending:
        """What has been used and settled."""
        return replace(self._spent, queries=len(self._called))

    async def reserve(self, query: str, tokens_in: int, tokens_out: int) -> int:
        """Set aside what a query may use at most and return a ticket; waits while only others' tickets forbid it.

        Raises Exhausted if it would not fit even if those came for free.
        """
        wish = query, self._spending(tokens_in, tokens_out)
        async with self._changed:
            while (limit := self._exceeded(wish, list(self._reserved))) is not None:
                if not self._reserved or self._exceeded(wish, []) is not None:
                    raise Exhausted(limit)
                await self._changed.wait()
            ticket = next(self._tickets)
            self._reserved[ticket] = wish
            return ticket

    async def raise_to(self, ticket: int, tokens_in: int, tokens_out: int) -> None:
        """Set aside at least so much for a query, before an attempt that goes beyond what was; waits like `reserve`.

        Raises Exhausted if it does not fit, and also where all that others have set aside waits for more in turn.
        """
        query, old = self._reserved[ticket]
        wish = query, self._spending(max(old.tokens_in, tokens_in), max(old.tokens_out, tokens_out))
        if wish[1] == old:
            return
        async with self._changed:
            others = self._others(ticket)
            while (limit := self._exceeded(wish, others)) is not None:
                if self._exceeded(wish, []) is not None or not others - self._waiting:
                    raise Exhausted(limit)
                self._waiting.add(ticket)
                try:
                    await self._changed.wait()
                finally:
                    self._waiting.discard(ticket)
                others = self._others(ticket)
            self._reserved[ticket] = wish

    async def settle(self, ticket: int, used: Spending) -> None:
        """Replace what was set aside by what has been used."""
        async with self._changed:
            query, _ = self._reserved.pop(ticket)
            self._spent = _sum([self._spent, used])
            if used.queries:
                self._called.add(query)
            self._changed.notify_all()

    def _others(self, ticket: int) -> set[int]:
        return self._reserved.keys() - {ticket}

    def _spending(self, tokens_in: int, tokens_out: int) -> Spending:
        return Spending(1, tokens_in, tokens_out, self.budget.price(tokens_in, tokens_out))

    def _exceeded(self, wish: tuple[str, Spending], tickets: Iterable[int]) -> str | None:
        """Name the limit that `wish` would exceed, together with what is set aside by `tickets`."""
        wishes = [wish, *(self._reserved[ticket] for ticket in tickets)]
        queries = len(self._called | {query for query, _ in wishes})
        total = _sum([self._spent, *(spending for _, spending in wishes)])
        tokens = total.tokens_in + total.tokens_out
        budget, spent = self.budget, self.spent
        if budget.queries is not None and queries > budget.queries:
            return f"{spent.queries} of {budget.queries} queries"
        if budget.tokens is not None and tokens > budget.tokens:
            most = wish[1].tokens_in + wish[1].tokens_out
            return f"{spent.tokens_in + spent.tokens_out:,} of {budget.tokens:,} tokens, and a query may take {most:,}"
        if budget.cost is not None and total.cost > budget.cost + 1e-12:
            return f"{spent.cost:.4f} of {budget.cost:g} in money, and a query may take {wish[1].cost:.4f}"
        return None


def _sum(items: list[Spending]) -> Spending:
    return Spending(
        sum(item.queries for item in items),
        sum(item.tokens_in for item in items),
        sum(item.tokens_out for item in items),
        sum(item.cost for item in items),
    )
