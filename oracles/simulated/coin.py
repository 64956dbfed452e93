"""The rater who knows nothing: what is learned from it is not learned from labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefenvs.internal.seeding import sequence
from prefenvs.preferences import Oracle, Preference, Query


class CoinOracle(Oracle):
    """Prefer one of a query's K segments at random, each with a chance of 1/K, whatever they show.

    Each query has a coin of its own, made of the seed and the query's id: the same query gets the same answer, in
    whatever order queries come.
    """

    name = "coin"

    def __init__(self, seed: int | None = None, annotator: str = "coin") -> None:
        """seed: of all coins; None draws one."""
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.annotator = annotator
        self._answers: list[Preference] = []

    def ask(self, queries: Sequence[Query]) -> None:
        """Answer at once."""
        for query in queries:
            count = len(query.segments)
            coin = np.random.default_rng(sequence(self.seed, "coin", int(query.id, 16)))
            self._answers.append(Preference(query, np.eye(count)[coin.integers(count)], self.annotator, self.name))

    def collect(self) -> list[Preference]:
        """Return the answers since the last call, in the order of the queries."""
        answers, self._answers = self._answers, []
        return answers

    @property
    def pending(self) -> int:
        """Always 0: answers are there as soon as a query is asked."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the seed."""
        self.seed = int(state["seed"])
