"""Demonstrations of tests and learners that are neither raters nor reward models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from prefenvs.bench.claims.claim import Measured
from prefenvs.datasets.collecting import CollectionPlan, collect
from prefenvs.datasets.labels.transfer import transfer_labels
from prefenvs.datasets.sources import parse_mix
from prefenvs.metrics.safety import Bound, check_safety
from prefenvs.oracles import PartialReturnOracle
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.preferences import Preference, Query, make_pairs

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


def _scripted_pairs(task: str, seed: int) -> list[Query]:
    """Return 100 pairs of 50 steps of six episodes by a scripted policy with noise and two at random."""
    plan = CollectionPlan(task, parse_mix(("scripted:0.4:0.4=6", "random=2")), seed)
    with TemporaryDirectory() as folder:
        trajectories = collect(plan, Path(folder)).trajectories
    return make_pairs(trajectories.sample(200, 50, np.random.default_rng(seed)))


def pearl(seed: int) -> Measured:
    """Agreement with the true return of labels carried to another task, and of the same ones shuffled."""
    source, target = (
        _scripted_pairs(f"metaworld-{task}-v3", seed) for task in ("button-press", "button-press-topdown")
    )
    rater = PartialReturnOracle(seed=seed)
    rater.ask(source)
    labels = rater.collect()
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = [
        replace(one, probabilities=labels[other].probabilities) for one, other in zip(labels, order, strict=True)
    ]
    returns = [[float(np.sum(true_rewards([one]))) for one in query.segments] for query in target]

    def agreement(given: list[Preference]) -> float:
        found = transfer_labels(given, target)
        chances = np.array([one.probabilities for one in found])
        return float(np.mean(chances.argmax(axis=1) == np.argmax(returns, axis=1)))

    return Measured(agreement(labels), agreement(shuffled))
