"""How well what a learner has learned agrees with labels that it did not learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from prefenvs.preferences import Preference
from prefenvs.segments import Segment


def label_accuracy(preferences: Sequence[Preference], score: Callable[[Segment], float]) -> float:
    """Return the share of decided labels whose segment has the highest score; NaN where none is decided."""
    right = [
        int(np.argmax([score(segment) for segment in preference.query.segments])) == preference.best
        for preference in preferences
        if preference.best is not None
    ]
    return float(np.mean(right)) if right else math.nan
