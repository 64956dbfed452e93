"""Rewards of simulator states, such as those that look at pictures, and how they become rewards of steps."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

# States handed over at once; a reward batches them further as its device wants.
CHUNK = 4_096


@runtime_checkable
class StateReward(Protocol):
    """A reward that is a function of the simulator's state alone."""

    def score(self, states: Array, scenes: Array | None = None) -> Array:
        """Return rewards [N] for states [N, s], with the scenes [N, m] of their episodes where the task has them."""


def reward_steps(reward: StateReward, trajectories: Trajectories) -> Array:
    """Return the reward [S] float32 of every step: that of the state which the step led to.

    A step's reward belongs to the state after its action, which is the next one of its own episode and never the first
    one of the following episode. Trajectories do not hold the state after an episode's last step; that step gets the
    reward of the last state held. Raises PrefenvsError where states are missing or a reward is not finite.
    """
    states = trajectories.states
    if states is None:
        raise PrefenvsError(
            f"the trajectories of {trajectories.source or trajectories.task!r} hold no simulator states, which a "
            "reward on pictures needs: collect them with `prefenvs collect`"
        )
    scenes = trajectories.scenes
    episodes = np.repeat(np.arange(len(trajectories)), trajectories.lengths)
    values = np.empty(len(states), np.float32)
    for start in range(0, len(states), CHUNK):
        rows = slice(start, start + CHUNK)
        values[rows] = reward.score(states[rows], None if scenes is None else scenes[episodes[rows]])
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise PrefenvsError(f"the reward of state {row} of {trajectories.source!r} is {values[row]}")
    following = np.minimum(np.arange(len(states)) + 1, np.repeat(trajectories.ends - 1, trajectories.lengths))
    rewards: Array = values[following]
    return rewards
