"""What intervals hold: the figures that `prefenvs.bench.report.statistics.FEWEST` tells."""

import numpy as np
import pytest

from prefenvs.bench.report.statistics import interquartile_means, mean_difference

TRIALS = 400


@pytest.mark.parametrize(
    ("law", "true_mean", "runs", "coverage"),
    [
        ("normal", 0.0, 3, 0.74),
        ("normal", 0.0, 10, 0.90),
        ("exponential", 1.0, 3, 0.68),
        ("exponential", 1.0, 10, 0.84),
        ("lognormal", float(np.exp(0.5)), 10, 0.80),
    ],
)
def test_an_interval_of_a_mean_covers_as_often_as_is_told(law, true_mean, runs, coverage) -> None:
    rng = np.random.default_rng(0)
    draws = getattr(rng, {"normal": "standard_normal", "exponential": "standard_exponential"}.get(law, law))
    held = 0
    for trial in range(TRIALS):
        found = mean_difference(draws(size=runs), resamples=400, seed=trial)
        held += found.low <= true_mean <= found.high
    # Two standard errors of 400 trials are 0.02 to 0.05.
    assert held / TRIALS == pytest.approx(coverage, abs=0.05)


@pytest.mark.parametrize(("runs", "coverage"), [(3, 0.74), (10, 0.93)])
def test_an_interval_of_an_interquartile_mean_covers_as_often_as_is_told(runs, coverage) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(80):
        found = interquartile_means({"method": rng.standard_normal((runs, 1))}, resamples=60, seed=trial)["method"]
        held += found.low <= 0.0 <= found.high
    assert held / 80 == pytest.approx(coverage, abs=0.1)
