"""Raters that answer as soon as they are asked."""

from __future__ import annotations

from prefenvs.preferences import Oracle, Preference


class ImmediateOracle(Oracle):
    """A rater whose `ask` puts the answers into `_answers`, where they wait for `collect`."""

    def __init__(self) -> None:
        self._answers: list[Preference] = []

    def collect(self) -> list[Preference]:
        """Return the answers since the last call, in the order of the queries."""
        answers, self._answers = self._answers, []
        return answers

    @property
    def pending(self) -> int:
        """Always 0: answers are there as soon as a query is asked."""
        return 0
