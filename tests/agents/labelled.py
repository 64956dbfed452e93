"""Preferences by a known reward, and small reward ensembles, for the tests of reward models."""

from __future__ import annotations

import numpy as np

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment

SMALL = RewardConfig(width=32, layers=2, batch_size=32, epochs=20)


def true_reward(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.tanh(observations[..., 0] - 0.5 * actions[..., 1])


def make_preferences(count: int, steps: int = 10, seed: int = 0, k: int = 2, episode: int = 0) -> list[Preference]:
    """Labels by the true partial return; every segment has an episode of its own."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, k, steps, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, k, steps, 2)).astype(np.float32)
    best = true_reward(observations, actions).sum(-1).argmax(-1)
    return [
        Preference(
            Query(
                tuple(
                    Segment(o[j], a[j], task="T", source="run", episode=episode + i * k + j, start=0) for j in range(k)
                )
            ),
            np.eye(k)[b],
        )
        for i, (o, a, b) in enumerate(zip(observations, actions, best, strict=True))
    ]


def make_model(config: RewardConfig = SMALL, seed: int = 0) -> RewardEnsemble:
    return RewardEnsemble(3, 2, config, seed=seed, device="cpu")
