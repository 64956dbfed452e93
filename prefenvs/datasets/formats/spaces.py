"""Samples of a Gymnasium space, as files keep them, turned into the flat vectors that learners take."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.datasets.formats.columns import read_numbers
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array


def check_space(space: spaces.Space[Any], what: str) -> None:
    """Raise a PrefenvsError for a space whose samples `flatten` does not turn into vectors."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        for child in space.values() if isinstance(space, spaces.Dict) else space.spaces:
            check_space(child, what)
        return
    known = spaces.Box | spaces.MultiBinary | spaces.Discrete | spaces.MultiDiscrete
    if not isinstance(space, known) or len(space.shape or ()) > 2:
        raise PrefenvsError(f"the {what} are of the space {space}; only vectors of numbers are supported")


def flatten(value: Any, space: spaces.Space[Any], what: str) -> Array:
    """Return the samples [T, n] of a space that lie in `value` by column, as Minari keeps them.

    Raises PrefenvsError for samples of another shape.
    """
    if isinstance(space, spaces.Dict):
        return np.concatenate([flatten(value[key], child, what) for key, child in space.spaces.items()], axis=1)
    if isinstance(space, spaces.Tuple):
        return np.concatenate([flatten(part, child, what) for part, child in zip(value, space, strict=True)], axis=1)
    check_space(space, what)
    array = read_numbers(value, what)
    if isinstance(space, spaces.Discrete):
        return one_hot(array.reshape(len(array), -1), np.array([space.n]), np.array([space.start]), what)
    if isinstance(space, spaces.MultiDiscrete):
        return one_hot(array.reshape(len(array), -1), space.nvec.ravel(), space.start.ravel(), what)
    if array.shape[1:] != space.shape:
        raise PrefenvsError(f"the {what} have shape {array.shape[1:]}, but their space is {space}")
    return array.reshape(len(array), -1)


def unflatten_discrete(rows: Array, space: spaces.Discrete, what: str) -> Array:
    """Return the integers [T], from `space.start` on, that one-hot rows [T, n] stand for.

    Raises PrefenvsError for rows of another width, and for rows that are not one-hot.
    """
    if rows.ndim != 2 or rows.shape[1] != space.n:
        raise PrefenvsError(f"the {what} have shape {list(rows.shape[1:])}, but their space is {space}")
    if np.any((rows != 0) & (rows != 1)) or np.any(rows.sum(1) != 1):
        raise PrefenvsError(f"the {what} are no one-hot rows, so they cannot be written as integers")
    values: Array = rows.argmax(1) + int(space.start)
    return values


def one_hot(values: Array, counts: Array, starts: Array, what: str) -> Array:
    """Return choices [T, k] of k sets of `counts` values from `starts` on as one-hot rows [T, sum of counts].

    Raises PrefenvsError for choices outside of them.
    """
    if values.shape[1] != len(counts):
        raise PrefenvsError(f"the {what} are {values.shape[1]} choices a step, but their space has {len(counts)}")
    check_size(4.0 * len(values) * int(counts.sum()), what)
    rows = np.zeros((len(values), int(counts.sum())), np.float32)
    first = 0
    for k, (count, start) in enumerate(zip(counts.tolist(), starts.tolist(), strict=True)):
        outside = (values[:, k] < start) | (values[:, k] >= start + count) | (values[:, k] % 1 != 0)
        if np.any(outside):
            raise PrefenvsError(
                f"the {what} hold {values[:, k][outside][0]}, outside the {count} discrete values {start} to "
                f"{start + count - 1}"
            )
        rows[np.arange(len(values)), first + values[:, k].astype(np.int64) - start] = 1.0
        first += count
    return rows
