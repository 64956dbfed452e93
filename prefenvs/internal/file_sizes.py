"""How much memory a file of others may ask for, checked by what it says of its sizes before any is taken."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prefenvs.errors import PrefenvsError

DEFAULT_GIB = 4.0
"""Twice what the largest of D4RL's and Minari's sets of vectors take here; PREFENVS_MAX_GIB says otherwise."""
VARIABLE = "PREFENVS_MAX_GIB"
_limit: ContextVar[float | None] = ContextVar("size limit", default=None)


@contextmanager
def size_limit(gib: float | None) -> Iterator[None]:
    """Let files that are read within the block take up to `gib` GiB of memory each; None changes nothing.

    Raises PrefenvsError for a limit of 0 or less.
    """
    if gib is not None and not gib > 0:
        raise PrefenvsError(f"the limit on a data set's size must be more than 0 GiB, got {gib}")
    token = _limit.set(current_limit() if gib is None else float(gib))
    try:
        yield
    finally:
        _limit.reset(token)


def current_limit() -> float:
    """Return the limit in GiB: that of the innermost `size_limit`, else PREFENVS_MAX_GIB's, else 4."""
    inner = _limit.get()
    if inner is not None:
        return inner
    given = os.environ.get(VARIABLE, "") or DEFAULT_GIB
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise PrefenvsError(f"{VARIABLE}={given}: it is a number of GiB above 0, as in {VARIABLE}=16")
    return limit


def check_size(size: float, what: str | Path) -> None:
    """Raise a PrefenvsError where `size` bytes are more than the limit."""
    limit = current_limit()
    if not size <= limit * 2**30:
        raise PrefenvsError(
            f"{what} asks for {size / 2**30:.3g} GiB of memory, over the limit of {limit:g} GiB: if that is right, set "
            f"{VARIABLE} to more in the environment, or give --max-gib to a command that reads a data set"
        )


def check_zip(path: str | Path) -> None:
    """Raise a PrefenvsError where the members of a zip file take more than the limit once unpacked."""
    with zipfile.ZipFile(path) as archive:
        check_size(sum(member.file_size for member in archive.infolist()), path)


def check_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an .npz file's arrays, by their headers; raise a PrefenvsError where they take too much.

    names: the arrays that will be read, by default all. Other errors are those of `zipfile` and NumPy.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if names is not None and name not in names:
                continue
            with archive.open(member) as file:
                shapes[name], kind = _read_header(file)
            # Python's integers do not overflow, as NumPy's product of a shape does.
            size = kind.itemsize
            for axis in shapes[name]:
                size *= axis
            total += max(size, member.file_size)
    check_size(total, path)
    return shapes


def _read_header(file: Any | BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    headers: Any = np.lib.format
    version = headers.read_magic(file)
    read = headers.read_array_header_1_0 if version == (1, 0) else headers.read_array_header_2_0
    shape, _, kind = read(file)
    return tuple(int(axis) for axis in shape), kind
