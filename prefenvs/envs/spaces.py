"""Flat spaces: what a task's observations and actions become, and which wrappers above would undo that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.segments import Array

ToTask = Callable[[Any], Any]
"""Turns a flat action into the task's own."""


def flatten_actions(space: spaces.Space[Any]) -> tuple[spaces.Space[Any], ToTask | None]:
    """Return the space that learners act in, and the way back to the task's; None where both are the same.

    A Box becomes a vector, and a Discrete counts from 0, as Stable-Baselines3 does whatever its `start`.
    """
    if isinstance(space, spaces.Discrete) and space.start != 0:
        start, kind = int(space.start), space.dtype.type
        return spaces.Discrete(int(space.n)), lambda action: kind(action + start)
    if isinstance(space, spaces.Box) and len(space.shape) != 1:
        flat = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        return flat, lambda action: np.reshape(action, space.shape)
    return space, None


def is_picture(space: spaces.Space[Any]) -> bool:
    """Tell whether a space holds pictures: bytes in two axes or more."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def one_hot(space: spaces.Discrete, actions: Any) -> Array:
    """Return discrete actions [...] as segments hold them, [..., n] float32."""
    rows: Array = np.eye(int(space.n), dtype=np.float32)[np.asarray(actions, np.int64) - int(space.start)]
    return rows


class _AboveHiddenReward(type):
    """Makes `isinstance` true of wrappers above a `HiddenReward` that change observations or actions."""

    def __instancecheck__(cls, env: Any) -> bool:
        from prefenvs.envs.hidden_reward import HiddenReward

        inner = getattr(env, "env", None)
        if not isinstance(env, gymnasium.Wrapper) or isinstance(env, HiddenReward):
            return False
        while isinstance(inner, gymnasium.Wrapper) and not isinstance(inner, HiddenReward):
            inner = inner.env
        return isinstance(inner, HiddenReward) and (
            isinstance(env, gymnasium.ObservationWrapper | gymnasium.ActionWrapper)
            or env.observation_space != env.env.observation_space
            or env.action_space != env.env.action_space
        )


class ChangingWrapper(metaclass=_AboveHiddenReward):
    """A wrapper between `prefenvs.make` and a learner that shows it other observations or takes other actions.

    No class of its own but a question, which vector environments can ask in their worker processes too:
    `venv.env_is_wrapped(ChangingWrapper)`.
    """


def changing_wrapper(env: gymnasium.Env[Any, Any]) -> str | None:
    """Return the name of the outermost `ChangingWrapper` around an environment, None if there is none."""
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, ChangingWrapper):
            return type(layer).__name__
        layer = layer.env
    return None
