"""Transitions to compare reward functions on, and the form in which the metrics take a reward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.protocols import RewardModel
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

Reward = Callable[[Array, Array, Array], Array]
"""A reward function: observations [N, obs], actions [N, act], next observations [N, obs] -> rewards [N]."""

# Transitions in one call of a reward function.
BATCH = 65_536


@dataclass(frozen=True, eq=False)
class Transitions:
    """N transitions: the coverage distribution of a reward distance.

    observations, next_observations: [N, obs]; actions: [N, act]; terminated: [N] bool, whether the task ended there, so
    that nothing follows; None means nowhere.
    """

    observations: Array
    actions: Array
    next_observations: Array
    terminated: Array | None = None

    def __post_init__(self) -> None:
        if len(self) < 2:
            raise PrefenvsError(f"reward functions are compared on at least 2 transitions, got {len(self)}")
        for name in ("actions", "next_observations", "terminated"):
            array = getattr(self, name)
            if array is not None and len(array) != len(self):
                raise PrefenvsError(f"transitions.{name} has {len(array)} rows, expected {len(self)}")

    def __len__(self) -> int:
        return len(self.observations)

    @classmethod
    def of(
        cls, trajectories: Trajectories, count: int | None = None, rng: np.random.Generator | None = None
    ) -> Transitions:
        """Take transitions from episodes: all of them, or `count` drawn without replacement.

        An episode's last step counts where the trajectories hold what was seen after it, and is left out elsewhere.
        """
        last, observations = trajectories.ends - 1, trajectories.observations
        following, terminated = np.roll(observations, -1, axis=0), np.zeros(len(observations), bool)
        known = np.ones(len(observations), bool)
        if trajectories.final_observations is None:
            known[last] = False
        else:
            following[last] = trajectories.final_observations
            terminated[last] = False if trajectories.terminated is None else trajectories.terminated
        rows = np.flatnonzero(known)
        if count is not None and count < len(rows):
            rows = (rng or np.random.default_rng(0)).choice(rows, count, replace=False)
        return cls(observations[rows], trajectories.actions[rows], following[rows], terminated[rows])


def reward_of(model: RewardModel) -> Reward:
    """Return a reward model's ensemble mean as a reward function; it does not look at the next observation."""

    def reward(observations: Array, actions: Array, next_observations: Array) -> Array:
        mean: Array = model.predict(observations, actions).mean(axis=0)
        return mean

    return reward


def evaluate_reward(reward: Reward, observations: Array, actions: Array, next_observations: Array) -> Array:
    """Call a reward function in batches and return float64 rewards [N]; raises where it returns another shape."""
    parts = []
    for i in range(0, len(observations), BATCH):
        rows = slice(i, i + BATCH)
        part = np.asarray(reward(observations[rows], actions[rows], next_observations[rows]), np.float64)
        if part.shape != (len(observations[rows]),):
            raise PrefenvsError(
                f"the reward function returned shape {part.shape} for {len(observations[rows])} transitions"
            )
        parts.append(part)
    rewards = np.concatenate(parts)
    if not np.all(np.isfinite(rewards)):
        raise PrefenvsError("the reward function returned a NaN or infinite value")
    return rewards


class Canonical(NamedTuple):
    """A canonical reward, `values` [N], made from quantities of the size `scale`, which tells rounding from meaning."""

    values: Array
    scale: float


def half_distance(first: Canonical, second: Canonical) -> float:
    """Return half the Euclidean distance of two canonical rewards, each divided by its norm, in [0, 1].

    Equal to sqrt((1 - cos) / 2), without the loss of digits near 0. A reward whose norm is below 1e-6 of its scale is
    trivial and counts as the zero vector: the distance is 0 between two such, and 1/2 to any other.
    """
    # Float32 rewards round at 1e-7 of their size, and fitted values miss by a little more than the ridge of 1e-9.

    def unit(reward: Canonical) -> Array:
        norm = float(np.linalg.norm(reward.values))
        return reward.values / norm if norm > 1e-6 * reward.scale else np.zeros_like(reward.values)

    return float(np.linalg.norm(unit(first) - unit(second)) / 2)
