"""HERON's rater: factors of a reward in order of importance; the first that differs by its margin decides."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import import_object
from prefenvs.limits import NonNegativeFloat, check_list, check_settings
from prefenvs.oracles.simulated.immediate import ImmediateOracle
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment

ENTRIES = re.compile(r"(obs|act|norm)\((\d+)(?::(\d+))?\)")
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NAMED: dict[str, Callable[[Segment], float]] = {
    "return": lambda segment: float(true_rewards([segment]).mean()),
    "effort": lambda segment: float(np.square(segment.actions).sum(axis=1).mean()),
    "jerk": lambda segment: float(np.abs(np.diff(segment.actions, axis=0)).sum() / max(len(segment) - 1, 1)),
}
KNOWN = (*NAMED, "obs(I)", "obs(I:J)", "act(I)", "act(I:J)", "norm(I:J)", "module:FUNCTION")


@dataclass(frozen=True)
class HeronOptions:
    """A simulated rater by a ranking of reward factors (HERON)."""

    factor: Annotated[tuple[str, ...], arg(name="heron-factor")] = ()
    """Factors, most important first, with a minus where less is better: return, effort (squared actions), jerk
    (change of actions), obs(I) or act(I) (means of an entry, or of entries I:J), norm(I:J) (length of those
    observations), module:FUNCTION of a segment."""
    margin: Annotated[tuple[NonNegativeFloat, ...], arg(name="heron-margin")] = (0.5,)
    """Differences that decide, in standard deviations of the factor over what was asked; one for all, or each."""
    undecided: Annotated[Literal["skip", "tie"], arg(name="heron-undecided")] = "skip"
    """Answer where no factor decides."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.factor:
            raise PrefenvsError(
                f"heron needs its factors, most important first, such as factor=-effort: {', '.join(KNOWN)}"
            )
        if len(self.margin) not in (1, len(self.factor)):
            raise PrefenvsError(
                f"heron has {len(self.factor)} factors and {len(self.margin)} margins: give one, or each"
            )


class HeronOracle(ImmediateOracle):
    """Decide by the first factor, in order of importance, that differs by more than its margin (HERON).

    z_l(segment) is the mean of factor l over the steps, with the sign that makes more better. Of the segments still in
    question, those with z_l < max z_l - sigma_l std_l fall out, for l = 1, 2, ...; the last one left is preferred.
    std_l is the standard deviation of z_l over all segments asked so far. Of two segments, z_l(A) - z_l(B) > sigma_l
    std_l prefers A, and if no factor decides the pair is dropped.
    """

    name = "heron"

    def __init__(
        self,
        factors: Sequence[str],
        margins: Sequence[float] = (0.5,),
        undecided: Literal["skip", "tie"] = "skip",
        annotator: str = "heron",
    ) -> None:
        """Take factors and margins as `HeronOptions` describes them; raises PrefenvsError for unknown factors."""
        super().__init__()
        check_list("factors", factors)
        options = HeronOptions(tuple(factors), tuple(margins), undecided)
        self.factors = [find_factor(name) for name in options.factor]
        self.margins = np.broadcast_to(np.array(options.margin, np.float64), (len(self.factors),))
        self.undecided, self.annotator = undecided, annotator
        # Count, and sums and sums of squares of each factor, over segments asked so far.
        self._count, self._sums = 0, np.zeros((2, len(self.factors)))

    def factor_values(self, segments: Sequence[Segment]) -> Array:
        """Return the factors [N, L] of N segments, more being better; raises PrefenvsError where one is not finite."""
        values = np.array([[factor(segment) for factor in self.factors] for segment in segments], np.float64)
        if not np.all(np.isfinite(values)):
            raise PrefenvsError("heron: a factor of a queried segment is NaN or infinite; it must be finite")
        return values

    def ask(self, queries: Sequence[Query]) -> None:
        """Answer at once; raises PrefenvsError if a segment lacks what a factor reads, and then answers none."""
        if not queries:
            return
        values = [self.factor_values(query.segments) for query in queries]
        flat = np.concatenate(values)
        self._count += len(flat)
        self._sums += flat.sum(axis=0), np.square(flat).sum(axis=0)
        mean, square = self._sums / self._count
        reach = self.margins * np.sqrt(np.maximum(square - mean**2, 0.0))
        for query, factors in zip(queries, values, strict=True):
            self._answers.append(Preference(query, self._decide(factors, reach), self.annotator, self.name))

    def _decide(self, values: Array, reach: Array) -> Array | None:
        """Return the probabilities [K] of segments with factors [K, L]; None where none decides and that is a skip."""
        left = np.ones(len(values), bool)
        for column, margin in zip(values.T, reach, strict=True):
            left &= column >= column[left].max() - margin
        if left.sum() > 1 and self.undecided == "skip":
            return None
        shares: Array = left / left.sum()
        return shares

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of the factors."""
        return {"count": self._count, "sums": self._sums.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the moments; the factors must be the same."""
        self._count, self._sums = int(state["count"]), np.array(state["sums"])


def find_factor(text: str) -> Callable[[Segment], float]:
    """Return a factor by its name, negated behind a minus; raises PrefenvsError for an unknown one."""
    sign, name = (-1.0, text[1:]) if text.startswith("-") else (1.0, text)
    entries = ENTRIES.fullmatch(name)
    if name in NAMED:
        found = NAMED[name]
    elif entries is not None:
        found = _read_entries(name, *entries.groups())
    elif OWN.fullmatch(name):
        found = import_object(name, "factor")
        if not callable(found):
            raise PrefenvsError(f"heron: the factor {name} is no function of a segment")
    else:
        raise PrefenvsError(f"unknown factor {name!r}: choose {', '.join(KNOWN)}.{near_matches(name, NAMED)}")
    return lambda segment: sign * float(found(segment))


def _read_entries(name: str, kind: str, first: str, last: str | None) -> Callable[[Segment], float]:
    begin = int(first)
    end = begin + 1 if last is None else int(last)

    def read(segment: Segment) -> float:
        array = segment.actions if kind == "act" else segment.observations
        if not begin < end <= array.shape[1]:
            what = "actions" if kind == "act" else "observations"
            raise PrefenvsError(f"heron: {name} reads entries {begin} to {end - 1}, but {what} have {array.shape[1]}")
        part = array[:, begin:end].astype(np.float64)
        return float((np.linalg.norm(part, axis=1) if kind == "norm" else part).mean())

    return read
