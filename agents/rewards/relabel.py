"""Rewards of a data set's steps by any reward model, as an offline learner trains on them."""

from __future__ import annotations

import numpy as np

from prefenvs.agents.rewards.image.ensemble import ImageRewardEnsemble
from prefenvs.agents.rewards.segment import SegmentReward
from prefenvs.errors import PrefenvsError
from prefenvs.protocols import RewardModel
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

# Steps handed to a model at once; it batches them further as its device wants.
CHUNK = 262_144


def relabel(model: RewardModel | ImageRewardEnsemble, trajectories: Trajectories) -> Array:
    """Return the learned reward [S] float32 of every step: the mean of the model's members.

    A model of segments sees each step through the window of its episode that ends there, one of images the state that
    the step led to; other models see observation and action of the step alone.
    Raises PrefenvsError where a reward comes out NaN or infinite.
    """
    steps = len(trajectories.observations)
    if isinstance(model, SegmentReward | ImageRewardEnsemble):
        rewards = model.relabel(trajectories)
    else:
        rewards = np.empty(steps, np.float32)
        for start in range(0, steps, CHUNK):
            rows = slice(start, start + CHUNK)
            rewards[rows] = model.predict(trajectories.observations[rows], trajectories.actions[rows]).mean(0)
    if not np.isfinite(rewards).all():
        step = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise PrefenvsError(f"the reward model gives {rewards[step]} at step {step} of {trajectories.source!r}")
    return rewards
