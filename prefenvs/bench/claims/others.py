"""Demonstrations of tests and learners that are neither raters nor reward models."""

from __future__ import annotations

import numpy as np

from prefenvs.bench.claims.claim import Measured
from prefenvs.metrics.safety import Bound, check_safety

LIMIT, DELTA, REPEATS = 0.4, 0.05, 1_000
"""Costs are Beta(2, 3): skewed, within [0, 1], and with the limit as their mean."""


def _passes(bound: Bound, seed: int) -> float:
    costs = np.random.default_rng(seed).beta(2.0, 3.0, (REPEATS, 50))
    return float(np.mean([check_safety(row, LIMIT, DELTA, bound, (0.0, 1.0)).passed for row in costs]))


def safety(seed: int) -> Measured:
    """False passes by Hoeffding's bound, and the chance of them that was asked for."""
    return Measured(_passes("hoeffding", seed), DELTA)


def safety_naive(seed: int) -> Measured:
    """False passes by Student's t, and by the mean alone."""
    costs = np.random.default_rng(seed).beta(2.0, 3.0, (REPEATS, 50))
    return Measured(_passes("student-t", seed), float(np.mean(costs.mean(axis=1) <= LIMIT)))
