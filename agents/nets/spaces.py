"""Which online learner takes which observations and actions, checked before anything is built."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy

from prefenvs.envs.spaces import is_picture
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

SMALLEST = 48
"""Pixels along each side of a picture that the convolutions need."""
TAKERS = {
    "bounded": "PEBBLE and PrefPPO take them",
    "unbounded": "no online learner takes actions without bounds, so give the task's Box a low and a high",
    "discrete": "PrefPPO takes them (prefenvs train prefppo), and DQN on the true reward (prefenvs train dqn)",
    "several": "PrefPPO takes them (prefenvs train prefppo)",
}
"""Who learns online with actions of each kind."""


def action_kind(space: spaces.Space[Any]) -> str:
    """Return "bounded", "unbounded", "discrete" or "several" (discrete choices at once, or switches).

    An empty string stands for actions that no learner takes.
    """
    if isinstance(space, spaces.MultiDiscrete | spaces.MultiBinary):
        return "several" if len(space.shape) == 1 and not np.any(getattr(space, "start", 0)) else ""
    if isinstance(space, spaces.Discrete):
        return "discrete" if space.start == 0 else ""
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return "bounded" if np.isfinite(space.low).all() and np.isfinite(space.high).all() else "unbounded"
    return ""


def check_flat(observation: Any, size: int) -> None:
    """Raise PrefenvsError for the dictionary or tuple that a task observes, in place of its flat vector [size]."""
    if isinstance(observation, dict | tuple):
        raise PrefenvsError(
            f"the policy takes the vector [{size}] that prefenvs.make shows, not a {type(observation).__name__}: give "
            "it gymnasium.spaces.flatten(env.observation_space, observation)"
        )


def check_spaces(learner: str, takes: tuple[str, ...], env: Any, pictures: bool = False) -> None:
    """Raise PrefenvsError unless a learner that takes these kinds of actions can learn in an environment.

    env: of Gymnasium or a vector environment. Learners see vectors, into which `prefenvs.make` turns all observations
    but pictures; pictures: whether it sees those too, [C, H, W] uint8.
    """
    seen, actions = env.observation_space, env.action_space
    if is_picture(seen):
        if not pictures:
            raise PrefenvsError(
                f"{learner} sees vectors, not pictures: give prefenvs.make an environment that shows something else, "
                "or train PEBBLE or PrefPPO, which see pictures by CnnPolicy"
            )
        if len(seen.shape) != 3 or min(seen.shape[1:]) < SMALLEST:
            raise PrefenvsError(
                f"{learner} sees pictures [channels, height, width] of {SMALLEST} pixels or more, and these are "
                f"{list(seen.shape)}: make the environment with prefenvs.make, and let it draw larger ones"
            )
    elif not isinstance(seen, spaces.Box) or len(seen.shape) != 1:
        raise PrefenvsError(
            f"{learner} sees vectors, and the observations are {seen}: make the environment with prefenvs.make, which "
            "flattens all but pictures"
        )
    kind = action_kind(actions)
    if kind in takes:
        return
    if kind:
        raise PrefenvsError(f"{learner} cannot learn with the actions {actions}: {TAKERS[kind]}")
    raise PrefenvsError(
        f"{learner} cannot learn with the actions {actions}, and no learner here does: make the environment with "
        "prefenvs.make, which makes vectors of a Box, MultiDiscrete or MultiBinary and counts from 0; other kinds the "
        "task has to turn into those"
    )


class WithinBounds(BasePolicy):
    """A policy none of whose actions rounding leaves outside of their bounds, where a task may refuse them."""

    def unscale_action(self, scaled_action: Array) -> Array:
        """Return actions in the units of the task for scaled ones in [-1, 1]."""
        space = self.action_space
        assert isinstance(space, spaces.Box)
        within: Array = np.clip(super().unscale_action(scaled_action), space.low, space.high)
        return within
