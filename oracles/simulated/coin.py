"""The rater who knows nothing: what is learned from it is not learned from labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefenvs.internal.seeding import sequence
from prefenvs.oracles.simulated.immediate import ImmediateOracle
from prefenvs.preferences import Preference, Query


class CoinOracle(ImmediateOracle):
    """Prefer one of a query's K segments at random, each with a chance of 1/K, whatever they show.

    Each query has a coin of its own, made of the seed and the query's id: the same query gets the same answer, in
    whatever order queries come.
    """

    name = "coin"

    def __init__(self, seed: int | None = None, annotator: str = "coin") -> None:
        """seed: of all coins; None draws one."""
        super().__init__()
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self.annotator = annotator

    def ask(self, queries: Sequence[Query]) -> None:
        """Answer at once."""
        for query in queries:
            count = len(query.segments)
            coin = np.random.default_rng(sequence(self.seed, "coin", int(query.id, 16)))
            self._answers.append(Preference(query, np.eye(count)[coin.integers(count)], self.annotator, self.name))

    def state_dict(self) -> dict[str, Any]:
        """Return the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the seed."""
        self.seed = int(state["seed"])
