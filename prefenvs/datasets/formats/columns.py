"""What a data set's columns must be: numbers, flags and ends of the right shape, checked as files are read."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories


def read_numbers(values: Any, what: str, kind: Any = None) -> Array:
    """Return an array of real numbers, converted to `kind`; text, objects, times and complex numbers are refused.

    Raises PrefenvsError for the latter.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise PrefenvsError(f"{what} are of type {array.dtype}; expected real numbers")
    if kind is None or array.dtype == np.dtype(kind):
        return array
    # What is too large for the type becomes infinite here, and is refused with the infinite ones.
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(kind)


def read_column(values: Any, what: str, rows: int, kind: Any = None) -> Array:
    """Return one number for each of `rows` rows; shape (rows, 1), as some of D4RL's files have, is squeezed.

    Raises PrefenvsError for other shapes.
    """
    array = read_numbers(values, what, kind)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (rows,):
        raise PrefenvsError(f"{what} have shape {array.shape}; expected one number for each of {rows} rows")
    return array


def read_flags(values: Any, what: str, rows: int) -> Array:
    """Return [rows] bool from booleans, or from numbers of any type that are 0 or 1.

    Raises PrefenvsError for other numbers.
    """
    array = read_column(values, what, rows)
    if array.dtype != bool:
        bad = np.flatnonzero((array != 0) & (array != 1))
        if len(bad):
            raise PrefenvsError(f"{what} hold {array[bad[0]]} in row {bad[0]}; a flag is 0 or 1")
    return array.astype(bool)


def read_ends(values: Any, what: str) -> Array:
    """Return [E] int64 from whole numbers of any type; raises PrefenvsError for other shapes and numbers."""
    array = read_numbers(values, what)
    if array.ndim != 1 or array.dtype.kind == "b":
        raise PrefenvsError(f"{what} have shape {array.shape} and type {array.dtype}; expected one step each")
    whole = np.isfinite(array) & (np.abs(array) < 2**53)
    if not np.all(whole) or np.any(array != np.floor(array)):
        bad = array[~whole] if not np.all(whole) else array[array != np.floor(array)]
        raise PrefenvsError(f"{what} hold {bad[0]}; the end of an episode is a whole number of steps")
    return array.astype(np.int64)


def check_columns(trajectories: Trajectories, name: str) -> None:
    """Raise a PrefenvsError unless every column has the shape that `Trajectories` tells and finite numbers in it."""
    axes = {"observations": 2, "actions": 2, "true_rewards": 1, "states": 2, "scenes": 2, "final_observations": 2}
    for column, expected in axes.items():
        array = getattr(trajectories, column)
        if array is None:
            continue
        read_numbers(array[:0], f"{column} of data set {name!r}")
        # Vectors of no entry: what has no actions may learn them from others, recordings may have no numbers at all.
        bare = column == "actions" or (trajectories.recordings is not None and column.endswith("observations"))
        if array.ndim != expected or (0 in array.shape[1:] and not bare):
            raise PrefenvsError(
                f"{column} of data set {name!r} have shape {array.shape}; expected "
                f"{'one number a step' if expected == 1 else 'a vector of at least one number in each row'}"
            )
        if column != "scenes":
            check_finite(array, column, name)
    final = trajectories.final_observations
    if final is not None and final.shape[1:] != trajectories.observations.shape[1:]:
        raise PrefenvsError(f"final_observations of data set {name!r} have {final.shape[1]} entries, unlike the others")


def check_finite(array: Array, column: str, name: str) -> None:
    """Raise a PrefenvsError that names the first entry that is NaN, or infinite as learners see it (float32)."""
    wide = array.dtype.itemsize > 4 and array.dtype.kind == "f" and column != "states"
    # The sum costs one pass and no memory; only where it is not finite are the entries looked at.
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.sum(array, dtype=np.float64)
        if np.isfinite(total) and (not wide or (abs(total) < np.finfo(np.float32).max and _narrow(array))):
            return
        seen = array.astype(np.float32) if wide else array
    if np.isfinite(seen).all():
        return
    step = int(np.argwhere(~np.isfinite(seen))[0][0])
    raise PrefenvsError(f"{column} of data set {name!r} hold a NaN or infinite value in row {step}; repair the file")


def _narrow(array: Array) -> bool:
    """Whether all numbers of a finite array fit into float32."""
    limit = np.finfo(np.float32).max
    return not array.size or bool(array.max() <= limit and array.min() >= -limit)
