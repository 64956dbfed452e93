"""Queries and preferences: what is asked, what is answered, and the contract between the two."""

from __future__ import annotations

import hashlib
import time as clock
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment, SegmentBatch, short_repr

if TYPE_CHECKING:
    from prefenvs.protocols import Policy
    from prefenvs.trajectories import Trajectories


@dataclass(frozen=True, eq=False)
class Query:
    """The question "which of these K >= 2 segments, all of one task, is best?".

    Raises PrefenvsError for fewer than two segments, or segments of several tasks.
    """

    segments: tuple[Segment, ...]

    def __post_init__(self) -> None:
        if len(self.segments) < 2:
            raise PrefenvsError(f"a query compares at least 2 segments, got {len(self.segments)}")
        if len({segment.task for segment in self.segments}) > 1:
            raise PrefenvsError(f"a query compares segments of one task, got {sorted({s.task for s in self.segments})}")

    @cached_property
    def id(self) -> str:
        """Hex id made from the segments' content, so that the same question has the same id everywhere."""
        return query_id(segment.hash for segment in self.segments)


@dataclass(frozen=True, eq=False)
class Preference:
    """One rater's answer to one query.

    probabilities: [K] float64 summing to 1, the chance that each segment is best (a tie is 0.5/0.5); None if skipped.
    annotator, oracle: who answered and by which oracle; time: seconds since the epoch; seconds: how long it took.
    shown: order in which the segments were shown, as indices into `query.segments`; None if nothing was shown.
    """

    query: Query
    probabilities: Array | None
    annotator: str = ""
    oracle: str = ""
    time: float = field(default_factory=clock.time)
    seconds: float | None = None
    shown: tuple[int, ...] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if self.shown is not None and sorted(self.shown) != list(range(len(self.query.segments))):
            raise PrefenvsError(f"shown={self.shown} is not an order of the {len(self.query.segments)} segments")
        if self.probabilities is None:
            return
        try:
            probabilities = np.asarray(self.probabilities, np.float64)
        except (TypeError, ValueError):
            raise PrefenvsError(f"probabilities {self.probabilities!r} are not all numbers") from None
        object.__setattr__(self, "probabilities", probabilities)
        valid = probabilities.shape == (len(self.query.segments),) and bool(np.all(probabilities >= 0))
        if not valid or abs(float(probabilities.sum()) - 1.0) > 1e-6:
            raise PrefenvsError(
                f"probabilities {probabilities.tolist()} are not {len(self.query.segments)} numbers >= 0 that sum to 1"
            )

    @property
    def skipped(self) -> bool:
        """True where the rater could not or would not tell."""
        return self.probabilities is None

    @property
    def best(self) -> int | None:
        """Index of the one segment preferred over all others; None for a tie at the top and for a skip."""
        if self.probabilities is None:
            return None
        top = np.flatnonzero(self.probabilities >= self.probabilities.max() - 1e-9)
        return int(top[0]) if len(top) == 1 else None


class Oracle(ABC):
    """Whoever answers queries: `ask` hands them over, `collect` returns what has been answered since the last call.

    Synthetic oracles answer at once, people and models when they do; nothing blocks in either call. An answer comes
    out of `collect` exactly once. A rater who thinks again answers a query a second time, under the same annotator;
    that answer takes the place of the first, and a skip withdraws it.
    """

    name: str = "oracle"
    waiting: bool = False
    """True while `collect` blocks because the user asked for that; Ctrl-C then stops at once."""
    margin: int = 0
    """Steps at either end of each segment that learners sample for it and that are not rated."""
    most_segments: int | None = None
    """Segments of a query at most; None takes any number."""

    @abstractmethod
    def ask(self, queries: Sequence[Query]) -> None:
        """Accept queries; answers may come later and in any order."""

    @abstractmethod
    def collect(self) -> list[Preference]:
        """Return new answers, skips included; an empty list if there are none yet."""

    @property
    @abstractmethod
    def pending(self) -> int:
        """Number of asked queries that are still unanswered."""

    def report(self, status: Mapping[str, float | None]) -> None:  # noqa: B027, as `observe`
        """Hear how far learning has come, numbers by name; raters that people wait for show it to them."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep so that answers go on as if nothing had happened.

        Its values are fit for JSON, but for a list of queries under "queries", which the checkpoint's store keeps.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027, as `observe`
        """Take up what `state_dict` returned."""

    def follow(self, policy: Policy) -> None:  # noqa: B027, as `observe`
        """Hear, before training, which policy is trained; it changes as training goes on."""

    def observe(self, trajectories: Trajectories) -> None:  # noqa: B027, most raters need not look
        """See the recent trajectories before a session; raters that scale their thresholds to the policy read them."""


def query_id(hashes: Iterable[str]) -> str:
    """Return the id of the query that compares the segments with these hashes, in this order."""
    return hashlib.sha256("|".join(hashes).encode()).hexdigest()[:32]


def make_pairs(batch: SegmentBatch) -> list[Query]:
    """Pair the first half of a batch with the second half: segment i with segment N/2 + i.

    Raises PrefenvsError for an odd number of segments.
    """
    if len(batch) % 2:
        raise PrefenvsError(f"pairs need an even number of segments, got {len(batch)}")
    half = len(batch) // 2
    return [Query((batch[i], batch[half + i])) for i in range(half)]


def distinct_pairs(draws: Iterable[list[Query]], count: int) -> list[Query]:
    """Return the first `count` pairs of these draws that differ, sides aside, each of two segments that differ.

    Fewer, with a warning, once ten draws in a row bring none. Raises PrefenvsError if there is none at all.
    """
    found: dict[frozenset[str], Query] = {}
    idle = 0
    for queries in draws:
        before = len(found)
        for query in queries:
            key = frozenset(segment.hash for segment in query.segments)
            if len(key) > 1:
                found.setdefault(key, query)
        idle = 0 if len(found) > before else idle + 1
        if len(found) >= count or idle == 10:
            break
    if not found:
        raise PrefenvsError("no two segments of these episodes differ, so there is no pair to compare")
    if len(found) < count:
        warnings.warn(f"only {len(found)} pairs of these episodes differ, {count} were wanted", stacklevel=2)
    return list(found.values())[:count]
