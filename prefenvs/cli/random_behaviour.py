"""Behaviour of many kinds without a policy: what a rater is measured on where there are no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import prefenvs
from prefenvs.envs import draws_live
from prefenvs.evaluate import evaluate
from prefenvs.segments import Array
from prefenvs.tasks import Task
from prefenvs.trajectories import Trajectories


def collect_random_behaviour(task: Task, episodes: int, seed: int = 0, film: Path | None = None) -> Trajectories:
    """Return episodes of random behaviour, each with its own size of action and its own persistence.

    film: a folder for videos of them, should the task draw itself and tell no states.
    """
    env = prefenvs.make(task.id)
    policy = _HeldActions(env.action_space, seed)
    env.close()
    if film is not None and not draws_live(task.id):
        film = None
    found = evaluate(policy, task.id, episodes=episodes, seed=seed, num_envs=1, record=episodes, film=film)
    assert found.trajectories is not None
    return found.trajectories


class _HeldActions:
    """Hold each random action for a while; how long, and how large actions are, changes with each episode."""

    def __init__(self, space: spaces.Space[Any], seed: int) -> None:
        self.space = space
        self.space.seed(seed)
        self._rng = np.random.default_rng(seed)
        self._hold, self._scale, self._left = 1, 1.0, 0
        self._action: Any = None

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return one action [1, act] for one observation [1, obs]."""
        if episode_start is not None and np.any(episode_start):
            self._hold = int(self._rng.integers(1, 40))
            self._scale = float(self._rng.uniform(0.1, 1.0))
            self._left = 0
        if self._left == 0:
            self._left = self._hold
            self._action = np.asarray(self.space.sample())
            if isinstance(self.space, spaces.Box):
                with np.errstate(invalid="ignore"):
                    middle = (self.space.low + self.space.high) / 2
                # Without bounds there is no middle.
                middle = np.where(np.isfinite(middle), middle, 0.0)
                self._action = (middle + self._scale * (self._action - middle)).astype(self.space.dtype)
        self._left -= 1
        return self._action[None], state
