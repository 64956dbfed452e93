"""Rewards of what can be seen, in simulator states or recordings, and how they become rewards of steps."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

# States handed over at once; a reward batches them further as its device wants.
CHUNK = 4_096


@runtime_checkable
class StateReward(Protocol):
    """A reward that is a function of the simulator's state alone."""

    def score(self, states: Array, scenes: Array | None = None) -> Array:
        """Return rewards [N] for states [N, s], with the scenes [N, m] of their episodes where the task has them."""


@runtime_checkable
class PictureReward(StateReward, Protocol):
    """A reward that looks at pictures alone, so that recordings have one too."""

    def score_segment(self, segment: Segment) -> Array:
        """Return the rewards [T] of what a segment shows at its steps."""


def score_segment(reward: StateReward, segment: Segment) -> Array:
    """Return the rewards [T] of a segment's steps; raises PrefenvsError where it shows nothing that the reward sees."""
    if isinstance(reward, PictureReward):
        return reward.score_segment(segment)
    if segment.states is None:
        raise PrefenvsError(
            f"a segment of task {segment.task!r}, source {segment.source!r}, carries no simulator states, which "
            f"{type(reward).__name__} needs: collect it with prefenvs.make, or take a reward of pictures"
        )
    scenes = None if segment.scene is None else np.repeat(segment.scene[None], len(segment), 0)
    return reward.score(segment.states, scenes)


def reward_steps(reward: StateReward, trajectories: Trajectories, by_segment: bool = False) -> Array:
    """Return the reward [S] float32 of every step: that of the state which the step led to.

    A step's reward belongs to the state after its action, which is the next one of its own episode and never the first
    one of the following episode. Trajectories do not hold the state after an episode's last step; that step gets the
    reward of the last state held. Recorded pictures take the place of states where there are any.
    by_segment: score whole segments in any case, for a reward that looks at more than states. Raises PrefenvsError
    where states and recordings are missing, or a reward is not finite.
    """
    whole = by_segment or trajectories.recordings is not None
    values = _score_episodes(reward, trajectories) if whole else _score_states(reward, trajectories)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise PrefenvsError(f"the reward of step {row} of {trajectories.source!r} is {values[row]}")
    following = np.minimum(np.arange(len(values)) + 1, np.repeat(trajectories.ends - 1, trajectories.lengths))
    rewards: Array = values[following]
    return rewards


def _score_states(reward: StateReward, trajectories: Trajectories) -> Array:
    states, scenes = trajectories.states, trajectories.scenes
    if states is None:
        raise PrefenvsError(
            f"the trajectories of {trajectories.source or trajectories.task!r} hold no simulator states and no "
            "recordings, which a reward on pictures needs: collect them with `prefenvs collect`"
        )
    episodes = np.repeat(np.arange(len(trajectories)), trajectories.lengths)
    values = np.empty(len(states), np.float32)
    for start in range(0, len(states), CHUNK):
        rows = slice(start, start + CHUNK)
        values[rows] = reward.score(states[rows], None if scenes is None else scenes[episodes[rows]])
    return values


def _score_episodes(reward: StateReward, trajectories: Trajectories) -> Array:
    values = np.empty(len(trajectories.observations), np.float32)
    bar = tqdm(range(len(trajectories)), desc="rewards", unit="episode", delay=2.0, leave=False, disable=None)
    for position in bar:
        rows = slice(int(trajectories.begins[position]), int(trajectories.ends[position]))
        values[rows] = score_segment(reward, trajectories.episode(position))
    return values
