"""Aggregates over seeds and tasks, with intervals, by rliable (Agarwal et al. 2021)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.segments import Array

FEWEST = 10
"""Runs from which on a table gives an interval. The bootstrap draws from the runs at hand: with few its "95%" is less.

Simulated, an interval of an interquartile mean holds the true one in 74% of cases with 3 normal runs (exponential 71%,
log-normal 74%), 90% with 5 (88%, 89%), 93% with 10 (92%, 93%) and 94% with 20; an interval of a mean in 90% with
10 normal runs, 84% with exponential and 80% with log-normal ones."""


class Estimate(NamedTuple):
    """A figure and the ends of its bootstrap interval, nominally 95% (see `FEWEST`); NaN where there is one run."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Array) -> float:
    """Return the mean without the lowest and the highest quarter of all entries, floor(N / 4) of them each."""
    flat = np.sort(np.asarray(scores, np.float64), axis=None)
    cut = len(flat) // 4
    return float(flat[cut : len(flat) - cut].mean()) if len(flat) else float("nan")


def interquartile_means(scores: Mapping[str, Array], resamples: int = 2_000, seed: int = 0) -> dict[str, Estimate]:
    """Return the interquartile mean of each method's scores [runs, tasks], with stratified bootstrap intervals.

    Runs are drawn anew within each task (Agarwal et al. 2021, section 4.1); 95%, by percentiles.
    """
    library, metrics = _import_rliable()

    def aggregate(matrix: Array) -> Array:
        return np.array([metrics.aggregate_iqm(matrix)])

    found = {}
    for name, matrix in scores.items():
        value = interquartile_mean(matrix)
        if len(matrix) < 2:
            found[name] = Estimate(value, float("nan"), float("nan"))
            continue
        low, high = _intervals(library, matrix, aggregate, resamples, seed)[:, 0]
        found[name] = Estimate(value, float(low), float(high))
    return found


def mean_difference(first: Array, second: Array | None = None, resamples: int = 2_000, seed: int = 0) -> Estimate:
    """Return the mean of the first runs [N], less that of the second [M] if there are any, with a 95% interval.

    Bootstrap by percentiles; the runs of each side are drawn anew by themselves.
    """
    sides = [first] if second is None else [first, second]
    value = float(first.mean() - (0.0 if second is None else second.mean()))
    if min(len(side) for side in sides) < 2:
        return Estimate(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    means = [side[rng.integers(len(side), size=(resamples, len(side)))].mean(1) for side in sides]
    low, high = np.percentile(means[0] - (means[1] if len(means) > 1 else 0.0), (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def probability_of_improvement(first: Array, second: Array, resamples: int = 500, seed: int = 0) -> Estimate:
    """Return how probably a run of the first method beats one of the second on a task drawn at random.

    first, second: scores [runs, tasks] on the same tasks; raises PrefenvsError for unequal numbers of tasks. Ties count
    one half (Agarwal et al. 2021, section 4.3).
    """
    library, _ = _import_rliable()
    if first.shape[1] != second.shape[1]:
        raise PrefenvsError(f"the methods were run on {first.shape[1]} and {second.shape[1]} tasks: take common ones")

    def improvement(ours: Array, theirs: Array) -> float:
        # rliable's own function calls SciPy's test for each task and resample, a hundred times slower.
        return float(0.5 + 0.5 * np.sign(ours[:, None] - theirs[None]).mean())

    value = improvement(first, second)
    if min(len(first), len(second)) < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.ravel(_intervals(library, (first, second), improvement, resamples, seed))
    return Estimate(value, float(low), float(high))


def performance_profile(
    matrix: Array, thresholds: Array, resamples: int = 500, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Return the share of runs that score above each threshold, and its 95% interval's ends, [thresholds] each.

    The interval's ends are NaN for a single run.
    """

    def above(scores: Array) -> Array:
        share: Array = (scores.reshape(-1, 1) > thresholds).mean(axis=0)
        return share

    if len(matrix) < 2:
        return above(matrix), np.full(len(thresholds), np.nan), np.full(len(thresholds), np.nan)
    library, _ = _import_rliable()
    # rliable's own profiles take no seed.
    low, high = _intervals(library, matrix, above, resamples, seed)
    return above(matrix), low, high


def _intervals(library: Any, scores: Any, statistic: Callable[..., Any], resamples: int, seed: int) -> Array:
    """Return the 95% percentile intervals of a statistic, [2, ...], under rliable's stratified bootstrap."""
    # rliable 1.2 draws from NumPy's global generator, whatever random state it is given.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        _, intervals = library.get_interval_estimates({"method": scores}, statistic, reps=resamples)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return np.asarray(intervals["method"])


def _import_rliable() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_extra("rliable.library", "a table"), import_extra("rliable.metrics", "a table")
