"""What a hybrid rater is told, and what it remembers of each query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeInt, check_settings
from prefenvs.preferences import Preference, Query

Route = Literal["disagreement", "uncertainty", "inconsistency", "learned", "random"]
AFTER = ("uncertainty", "inconsistency", "learned")
"""Routes that hear the cheap rater first."""
AUDIT = "audit"


@dataclass(frozen=True)
class HybridConfig:
    """Who is asked what."""

    route: Annotated[Route, arg(name="route")] = "disagreement"
    """What sends a query to the costly rater: disagreement of the reward ensemble; the cheap rater's own uncertainty
    (greatest for skips and ties); its verdict changing with the order (of a model asked in both); a router that learns
    where the two differ; or chance. All but disagreement and chance hear the cheap rater first."""
    share: Annotated[Fraction, arg(name="costly-share")] = 0.25
    """Largest share of the queries that the route sends to the costly rater."""
    audit: Annotated[Fraction, arg(name="audit-share")] = 0.05
    """Chance that a query is put to both raters whatever it is like, to measure how far they agree."""
    limit: Annotated[NonNegativeInt | None, arg(name="costly-limit")] = None
    """Most queries for the costly rater in all, audits included."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class HybridOptions(HybridConfig):
    """Two raters as one; either may be any that compares two segments, with options of its own in brackets."""

    cheap: Annotated[str, arg(name="cheap")] = "vlm"
    """Who answers most queries."""
    costly: Annotated[str, arg(name="costly")] = "human"
    """Who answers where it pays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cheap == self.costly:
            raise PrefenvsError(f"cheap and costly are both {self.cheap!r}: one rater needs no routing")


@dataclass(frozen=True)
class Routed:
    """What became of one query.

    by: "cheap" or "costly", whose answer was handed out. reason: why the costly rater was asked, "audit" or the route;
    empty where it was not. score: what the route went by, None where it did not look. cheap, costly: the segment that
    each preferred, None where it did not answer or preferred none.
    """

    by: str
    reason: str
    score: float | None
    cheap: int | None
    costly: int | None


@dataclass
class Case:
    """A query whose answer has not been handed out."""

    query: Query
    reason: str = ""
    score: float | None = None
    cheap: Preference | None = None

    def pack(self) -> dict[str, Any]:
        """Return all but the query, fit for JSON."""
        cheap = self.cheap
        if cheap is None:
            answer = None
        else:
            chances = None if cheap.probabilities is None else cheap.probabilities.tolist()
            answer = [chances, cheap.annotator, cheap.oracle, cheap.time, cheap.seconds, cheap.shown]
        return {"reason": self.reason, "score": self.score, "cheap": answer}

    @classmethod
    def unpack(cls, query: Query, state: dict[str, Any]) -> Case:
        """Return the case of a query from what `pack` returned."""
        cheap = None
        if state["cheap"] is not None:
            chances, annotator, oracle, time, seconds, shown = state["cheap"]
            array = None if chances is None else np.asarray(chances, np.float64)
            cheap = Preference(query, array, annotator, oracle, time, seconds, None if shown is None else tuple(shown))
        return cls(query, state["reason"], state["score"], cheap)
