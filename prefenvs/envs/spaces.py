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

    A Box, MultiDiscrete or MultiBinary becomes a vector, and what is discrete counts from 0, as Stable-Baselines3 does
    whatever its `start`.
    """
    if isinstance(space, spaces.Discrete) and space.start != 0:
        start, kind = int(space.start), space.dtype.type
        return spaces.Discrete(int(space.n)), lambda action: kind(action + start)
    if isinstance(space, spaces.MultiDiscrete) and (space.nvec.ndim != 1 or space.start.any()):
        shape, starts = space.nvec.shape, space.start
        return spaces.MultiDiscrete(space.nvec.ravel()), lambda action: np.reshape(action, shape) + starts
    if isinstance(space, spaces.MultiBinary) and len(space.shape) != 1:
        return spaces.MultiBinary(int(np.prod(space.shape))), lambda action: np.reshape(action, space.shape)
    if isinstance(space, spaces.Box) and len(space.shape) != 1:
        flat = spaces.Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype.type)
        return flat, lambda action: np.reshape(action, space.shape)
    return space, None


def is_picture(space: spaces.Space[Any]) -> bool:
    """Tell whether a space holds pictures: bytes in two axes or more."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1


def action_vectors(space: spaces.Space[Any], actions: Any) -> Array:
    """Return actions of a flat space as segments hold them, always a new array.

    Discrete ones [...] become one-hot rows [..., n] float32, those of a MultiDiscrete [..., k] one such row after the
    other [..., sum(n)], and those of a MultiBinary numbers [..., n]; a Box's stay as they are.
    """
    if isinstance(space, spaces.Discrete):
        return _one_hot(int(space.n), np.asarray(actions, np.int64) - int(space.start))
    if isinstance(space, spaces.MultiDiscrete):
        columns = np.moveaxis(np.asarray(actions, np.int64) - space.start, -1, 0)
        return np.concatenate([_one_hot(int(n), column) for n, column in zip(space.nvec, columns, strict=True)], -1)
    return np.array(actions, np.float32 if isinstance(space, spaces.MultiBinary) else None)


def _one_hot(count: int, numbers: Array) -> Array:
    rows: Array = np.eye(count, dtype=np.float32)[numbers]
    return rows
