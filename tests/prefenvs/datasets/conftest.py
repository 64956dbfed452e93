"""A data set with every column, and a comparison of two."""

from __future__ import annotations

import numpy as np
import pytest

from prefenvs import Trajectories
from prefenvs.datasets import OfflineDataset

STEP = ("observations", "actions", "true_rewards", "states")
EPISODE = ("ends", "scenes", "terminated", "final_observations")


def _make_dataset(lengths=(4, 1, 3), seed=0, width=3):
    rng = np.random.default_rng(seed)
    steps, episodes = sum(lengths), len(lengths)
    data = Trajectories(
        rng.standard_normal((steps, width)).astype(np.float32),
        rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        np.cumsum(lengths),
        rng.standard_normal(steps),
        rng.standard_normal((steps, 5)),
        rng.standard_normal((episodes, 4)),
        rng.random(episodes) < 0.5,
        final_observations=rng.standard_normal((episodes, width)).astype(np.float32),
    )
    names = np.array([f"policy-{i}" for i in range(episodes)])
    return OfflineDataset("x", data, None, None, (1.0, 2.0), names, np.arange(episodes) / 2)


def _assert_same(read: OfflineDataset, written: OfflineDataset) -> None:
    for name in (*STEP, *EPISODE):
        np.testing.assert_array_equal(getattr(read.trajectories, name), getattr(written.trajectories, name), name)
    assert read.reference_scores == written.reference_scores
    assert read.policies.tolist() == written.policies.tolist()
    assert read.successes.tolist() == written.successes.tolist()


@pytest.fixture(name="make_dataset", scope="session")
def make_dataset():
    return _make_dataset


@pytest.fixture(name="assert_same", scope="session")
def assert_same():
    return _assert_same
