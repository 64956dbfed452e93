"""A point on a line that should go to 1: episodes of mixed quality, labels on them, and a test drive."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Preference, make_pairs
from prefenvs.trajectories import Trajectories

ACTIONS = spaces.Box(-2.0, 2.0, (1,), np.float32)
HORIZON = 25


def make_data(episodes: int = 60, seed: int = 0) -> OfflineDataset:
    """Every episode heads for 1 or away from it, at a speed of its own, with noise."""
    rng = np.random.default_rng(seed)
    aim, position = rng.uniform(-1, 1, episodes), rng.uniform(-1, 1, episodes)
    observations, actions, rewards = [], [], []
    for t in range(HORIZON):
        wanted = 2 * aim * np.clip(5 * (1 - position), -1, 1)
        action = np.clip(wanted + rng.normal(0, 0.2, episodes), -2, 2)
        observations.append(np.stack([position, np.full(episodes, t / HORIZON)], 1))
        actions.append(action[:, None])
        position = position + 0.1 * action
        rewards.append(-np.abs(position - 1))
    flat = [np.stack(part, 1).reshape(episodes * HORIZON, -1) for part in (observations, actions, rewards)]
    trajectories = Trajectories(
        flat[0].astype(np.float32),
        flat[1].astype(np.float32),
        HORIZON * np.arange(1, episodes + 1),
        true_rewards=flat[2].ravel(),
        terminated=np.zeros(episodes, bool),
        final_observations=np.stack([position, np.ones(episodes)], 1).astype(np.float32),
    )
    return OfflineDataset("line", trajectories)


def make_labels(dataset: OfflineDataset, count: int, length: int, seed: int = 0) -> list[Preference]:
    """The larger true return is preferred."""
    queries = make_pairs(dataset.trajectories.sample(2 * count, length, np.random.default_rng(seed)))
    returns = [[segment.true_rewards.sum() for segment in query.segments] for query in queries]
    return [Preference(query, np.eye(2)[np.argmax(both)]) for query, both in zip(queries, returns, strict=True)]


def drive(policy: Any, count: int = 20) -> float:
    """Mean true return of `count` episodes side by side."""
    position, returns = np.random.default_rng(1).uniform(-1, 1, count), np.zeros(count)
    state, start = None, np.ones(count, bool)
    for t in range(HORIZON):
        observations = np.stack([position, np.full(count, t / HORIZON)], 1).astype(np.float32)
        actions, state = policy.predict(observations, state, start, deterministic=True)
        assert actions.shape == (count, 1)
        position, start = position + 0.1 * np.clip(actions[:, 0], -2, 2), np.zeros(count, bool)
        returns -= np.abs(position - 1)
    return float(returns.mean())
