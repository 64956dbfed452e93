"""HDF5 files of others: only what a file itself holds is read, and what is damaged is said in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.internal.file_sizes import check_size

# What h5py raises for damaged files, depending on where the damage lies.
ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading; whatever h5py raises until it is closed becomes a PrefenvsError."""
    h5py = import_extra("h5py", "an HDF5 file", "offline")
    if not path.is_file():
        raise PrefenvsError(f"there is no file {path}")
    try:
        file = h5py.File(path, "r")
    except ERRORS as error:
        raise PrefenvsError(f"{path} is not an HDF5 file, or is damaged: {first_line(error)}") from error
    with file:
        try:
            yield file
        except PrefenvsError:
            raise
        except ERRORS as error:
            raise PrefenvsError(f"{path} is damaged: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return an error's text in one line, or its type where it has none."""
    return " ".join(str(error).split("\n")[0].split()) or type(error).__name__


def find(group: Any, key: str, path: Path) -> Any:
    """Return the member of a group at `key`, "a/b" for a member's member, or None where there is none.

    Links by name, within the file or to another one, are refused: what they show need not be the file's own. Raises
    PrefenvsError for a link.
    """
    import h5py

    found = group
    for name in key.split("/"):
        if not isinstance(found, h5py.Group):
            return None
        link = found.get(name, getlink=True)
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            place = getattr(link, "filename", None) or link.path
            raise PrefenvsError(
                f"{path}: {key} is a link to {place}, which is not followed; copy what it shows into the file"
            )
        found = found[name]
    return found


def find_column(group: Any, key: str, path: Path) -> Any:
    """Return the data set of a group at `key`, or None; see `check_column` for what is refused."""
    found = find(group, key, path)
    if found is not None:
        check_column(found, key, path)
    return found


def check_column(column: Any, key: str, path: Path) -> None:
    """Raise a PrefenvsError unless this is a data set that lies within the file."""
    import h5py

    if not isinstance(column, h5py.Dataset):
        raise PrefenvsError(f"{path} is damaged: {key} is a {type(column).__name__.lower()}, not an array")
    if column.external or column.is_virtual:
        raise PrefenvsError(f"{path}: {key} is stored in other files, which are not read; copy it into the file")
    if column.shape is None:
        raise PrefenvsError(f"{path} is damaged: {key} is empty")
    if column.chunks is not None:
        check_size(prod(column.chunks) * column.dtype.itemsize, path)


def column_bytes(column: Any) -> int:
    """Return how much memory a data set takes when it is read, whatever it takes in the file."""
    return int(prod(column.shape) * column.dtype.itemsize)


def walk(group: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield every data set of a file with its name; cycles, links and what lies in other files are refused.

    Raises PrefenvsError for a group that occurs twice.
    """
    import h5py

    seen: set[int] = set()

    def visit(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise PrefenvsError(f"{path} is damaged: the group {prefix or '/'} occurs more than once")
        seen.add(address)
        for name in group:
            key = f"{prefix}{name}"
            found = find(group, name, path) if "/" not in name else None
            if isinstance(found, h5py.Group):
                yield from visit(found, f"{key}/")
            elif found is not None:
                check_column(found, key, path)
                yield key, found

    yield from visit(group, "")
