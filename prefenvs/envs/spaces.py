"""Flat spaces: what a task's observations and actions become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
