"""Flat spaces: what a task's observations and actions become."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

ToTask = Callable[[Any], Any]
"""Turns a flat action into the task's own."""
ROUNDING = 1e-4
"""How far an observation may lie beyond its bounds, relative to them."""


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


def picture_shape(space: spaces.Space[Any]) -> tuple[int, int, int]:
    """Return channels, height and width of pictures, whichever of the first and the last axis holds the channels.

    As Stable-Baselines3 does it, the smaller one of them. Raises PrefenvsError for other axes and other bounds.
    """
    assert isinstance(space, spaces.Box)
    shape = (1, *space.shape) if len(space.shape) == 2 else space.shape
    if len(shape) != 3 or min(shape) != min(shape[0], shape[-1]):
        raise PrefenvsError(
            f"pictures of shape {list(space.shape)} cannot be told apart from other things: observe [height, width], "
            "[height, width, channels] or [channels, height, width]"
        )
    if np.any(space.low != 0) or np.any(space.high != 255):
        raise PrefenvsError(
            f"pictures are numbers from 0 to 255, and the space goes from {space.low.min()} to {space.high.max()}: "
            "observe a Box with low=0 and high=255"
        )
    return shape if shape[0] <= shape[2] else (shape[2], shape[0], shape[1])


def channels_first(picture: Any, shape: tuple[int, int, int]) -> Array:
    """Return a picture as a new array [C, H, W] of that shape; see `picture_shape`."""
    array = np.asarray(picture)
    if array.ndim == 3 and array.shape != shape:
        array = np.moveaxis(array, -1, 0)
    return np.array(array.reshape(shape))


def name_entries(space: spaces.Space[Any]) -> str:
    """Return which entries of the flat vector hold what of a dictionary, "gear [0:3], place [3:5]"; else nothing."""
    if not isinstance(space, spaces.Dict):
        return ""
    found, start = [], 0
    for name, inner in space.spaces.items():
        end = start + int(spaces.flatdim(inner))
        found.append(f"{name} [{start}:{end}]")
        start = end
    return ", ".join(found)


def find_outside(space: spaces.Space[Any], observation: Any) -> str:
    """Return in words where an observation leaves its space, beyond rounding; an empty string where it is within."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        kind, parts = (
            (Mapping, space.spaces) if isinstance(space, spaces.Dict) else (tuple, dict(enumerate(space.spaces)))
        )
        given = dict(enumerate(observation)) if isinstance(observation, tuple) else observation
        if not isinstance(observation, kind) or given.keys() != parts.keys():
            held = list(given) if isinstance(given, Mapping) else type(observation).__name__
            return f"it has {held}, the space {list(parts)}"
        found = ((name, find_outside(part, given[name])) for name, part in parts.items())
        return next((f"in {name!r}, {words}" for name, words in found if words), "")
    if not isinstance(space, spaces.Box):
        return "" if space.contains(observation) else f"{observation!r} is not in {space}"
    try:
        array = np.asarray(observation, np.float64)
    except (TypeError, ValueError):
        return f"it is a {type(observation).__name__}, no array of numbers"
    if array.shape != space.shape:
        return f"it has the shape {list(array.shape)}, the space {list(space.shape)}"
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    reach = ROUNDING * (1.0 + np.where(np.isfinite([low, high]), np.abs([low, high]), 0.0))
    beyond = np.argwhere((array < low - reach[0]) | (array > high + reach[1]))
    if not len(beyond):
        return ""
    place = tuple(beyond[0])
    return (
        f"entry {', '.join(map(str, place))} is {array[place]:g}, beyond {low[place]:g} to {high[place]:g}; widen the "
        "space, or clip"
    )


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


def action_choices(space: spaces.Space[Any], vectors: Array) -> Array:
    """Return actions as a flat space has them, of the vectors [..., n] that `action_vectors` makes of them."""
    if isinstance(space, spaces.Discrete):
        return np.asarray(vectors.argmax(-1))
    if isinstance(space, spaces.MultiDiscrete):
        parts = np.split(vectors, np.cumsum(space.nvec)[:-1], axis=-1)
        return np.stack([part.argmax(-1) for part in parts], -1)
    return vectors


def _one_hot(count: int, numbers: Array) -> Array:
    rows: Array = np.eye(count, dtype=np.float32)[numbers]
    return rows
