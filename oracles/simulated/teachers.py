"""Simulated teachers: how a rater departs from always preferring the better segment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.limits import Fraction, NonNegativeFloat, check_settings
from prefenvs.oracles.simulated.crowds import crowd_rates


@dataclass(frozen=True)
class Teacher:
    """The irrationalities of a simulated rater (Lee et al. 2021, "B-Pref"), applied in the order of that benchmark.

    Each segment k of a query has a score G_k, the sum of the values of its T steps. The query is skipped unless the
    best G_k exceeds the skip threshold. Segments whose G_k lies less than the tie threshold below the best are tied
    with it. Otherwise one is preferred by G'_k = sum_t gamma^(T - t) value_t: the best, or with beta > 0 a draw with
    probabilities in proportion to exp(beta G'_k), and by mistake another one. Where G_k lie closer than the threshold
    `unsure`, the rater guesses instead (S-EPOA's teacher, IJCAI 2025). Ties overwrite mistakes and guesses.
    """

    beta: float = -1.0
    """Inverse temperature; at or below 0, or infinite, the best is always preferred. Its unit is one over `units`."""
    gamma: Fraction = 1.0
    """Discount of early steps: below 1, the rater weighs the last steps of a segment most."""
    mistake: Fraction = 0.0
    """Chance of preferring another segment than the one found best."""
    skip: NonNegativeFloat = 0.0
    """Skip threshold in units of `threshold_scale`; a query of poor segments only is skipped."""
    equal: NonNegativeFloat = 0.0
    """Tie threshold in units of `threshold_scale`."""
    unsure: NonNegativeFloat = 0.0
    """Guess threshold in units of `threshold_scale`: among segments this close to the best, any is preferred alike."""
    threshold_scale: Literal["policy", "quantile"] | float = "policy"
    """What the thresholds are multiples of.

    "policy": the mean return of the last 10 episodes observed, times T over their mean length (B-Pref). Where that is
    0 or negative nothing is skipped and nothing tied, and a warning says so.
    "quantile": no multiple, but a share: a query is skipped if all its segments are among the worst `skip` of those
    asked so far, tied if its difference is among the smallest `equal` of the differences so far, and guessed at if it
    is among the smallest `unsure`. Needs no sign.
    A number: a fixed segment score, above 0.
    """
    units: Literal["raw", "standardised"] = "raw"
    """Unit of the scores that beta multiplies: the task's own, or the standard deviation over steps asked so far."""
    exact_ties: Literal["half", "first", "guess"] = "half"
    """A rational rater's answer where G'_k are equal: a tie; the first segment, as in B-Pref's code; or one at random.

    With "guess" and threshold_scale="quantile", the share `equal` of queries is tied even where more of them have equal
    segments: which of those is drawn.
    """
    double_scale: bool = False
    """From the second session on, multiply policy-scaled thresholds by `skip` and `equal` twice.

    B-Pref's PEBBLE code does so, which makes its Skip and Equal teachers about ten times weaker after the first
    session; set it to compare with figures made by that code.
    """

    def __post_init__(self) -> None:
        check_settings(self)
        beta: object = self.beta  # whatever a caller without types has given
        if not isinstance(beta, Real) or math.isnan(beta):
            raise PrefenvsError(f"beta must be a number, got {beta!r}")
        scale = self.threshold_scale
        if scale == "quantile" and max(shares := (self.skip, self.equal, self.unsure)) > 1.0:
            raise PrefenvsError(f"as quantiles, skip, equal and unsure are at most 1, got {shares}")
        if not isinstance(scale, str) and not 0.0 < scale < math.inf:
            raise PrefenvsError(f"a fixed threshold_scale is a segment score above 0, got {scale}")
        if self.double_scale and scale != "policy":
            raise PrefenvsError(f'double_scale belongs to threshold_scale="policy", got {scale!r}')

    @property
    def scaled_by_policy(self) -> bool:
        """True if a threshold is a share of the recent policy's return."""
        return max(self.skip, self.equal, self.unsure) > 0 and self.threshold_scale == "policy"

    @property
    def rational(self) -> bool:
        """True if the rater finds the better segment without fail, before mistakes."""
        return self.beta <= 0.0 or math.isinf(self.beta)


TEACHERS = {
    "oracle": Teacher(),
    "mistake": Teacher(mistake=0.1),
    "noisy": Teacher(beta=1.0),
    "skip": Teacher(skip=0.1),
    "myopic": Teacher(gamma=0.9),
    "equal": Teacher(equal=0.1),
    "unsure": Teacher(unsure=0.3),
}
"""B-Pref's six teachers, by its names in lower case, and S-EPOA's, whose errors are all among close segments."""

CROWDS = {
    name: Teacher(mistake=1.0 - agreement, equal=ties, threshold_scale="quantile", exact_ties="guess")
    for name, (agreement, ties) in crowd_rates().items()
}
"""Raters that agree with the true return, and call segments equal, as often as the people of `simulated.crowds` do."""


def find_teacher(name: str) -> Teacher:
    """Return one of `TEACHERS` or `CROWDS`; raises PrefenvsError for an unknown name."""
    known = TEACHERS | CROWDS
    if name not in known:
        domains = [crowd for crowd in CROWDS if crowd.count("-") == 1]
        raise PrefenvsError(
            f"unknown teacher {name!r}: choose one of {', '.join([*TEACHERS, *domains])}, or a single data set's crowd."
            f"{near_matches(name, known)}"
        )
    return known[name]
