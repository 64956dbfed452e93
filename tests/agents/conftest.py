"""The toy worlds as fixtures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Preference, make_pairs

from .worlds import Point, drive, make_point_data, prefer_by_return, regret_of


@pytest.fixture
def point() -> Point:
    return Point()


@pytest.fixture(scope="session")
def regret() -> Callable[..., np.ndarray]:
    return regret_of


@pytest.fixture(scope="session")
def prefer_by_regret() -> Callable[..., list[Preference]]:
    """Label random pairs of a data set's segments by their regret."""

    def prefer(dataset: OfflineDataset, labels: int, length: int = 5, seed: int = 0) -> list[Preference]:
        queries = make_pairs(dataset.trajectories.sample(2 * labels, length, np.random.default_rng(seed)))
        sums = [[regret_of(s.observations, s.actions).sum() for s in query.segments] for query in queries]
        return [Preference(q, np.eye(2)[int(np.argmin(pair))]) for q, pair in zip(queries, sums, strict=True)]

    return prefer


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., OfflineDataset]:
    return make_point_data


@pytest.fixture(scope="session")
def prefer() -> Callable[..., list[Preference]]:
    return prefer_by_return


@pytest.fixture(scope="session")
def play() -> Callable[[Any], float]:
    return drive
