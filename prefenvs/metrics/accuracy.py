"""Accuracy: what a prediction of a preference counts, ties included, and how sure a share of hits is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from prefenvs.preferences import Preference
from prefenvs.segments import Segment

Z95 = 1.959964

Values = TypeVar("Values", bound=Any)
"""An array of NumPy or a tensor of PyTorch."""


def credit(returns: Values, preferred: Values) -> Values:
    """Return what each prediction counts [...]: 1 if right, 0 if wrong, 1/k if k segments share the greatest return.

    returns: [..., K] predicted returns of a query's segments; preferred: [..., 1] that of the one the rater preferred.
    A predicted tie of two counts a half, so a constant model scores 1/2 on pairs; a NaN is wrong. Every accuracy here
    is a mean of these over labels that name one best segment.
    """
    tied, lower = (returns == preferred).sum(-1), (returns < preferred).sum(-1)
    right: Values = (tied + lower == returns.shape[-1]) / (tied + (tied == 0))
    return right


def label_accuracy(preferences: Sequence[Preference], score: Callable[[Segment], float]) -> float:
    """Return the mean `credit` of a score of segments over labels with one best segment; NaN where there is none."""
    credits = []
    for preference in preferences:
        if preference.best is not None:
            scores = np.array([score(segment) for segment in preference.query.segments], np.float64)
            credits.append(float(credit(scores, scores[preference.best : preference.best + 1])))
    return float(np.mean(credits)) if credits else math.nan


@dataclass(frozen=True)
class Share:
    """`hits` of `count`, half a hit for a tie, and the 95% interval of the share behind it (Wilson 1927)."""

    hits: float
    count: int

    @property
    def value(self) -> float:
        """The share; NaN of none."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds of the interval."""
        if not self.count:
            return 0.0, 1.0
        n, p = self.count, self.value
        centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
        return max(centre - half, 0.0), min(centre + half, 1.0)
