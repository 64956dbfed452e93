"""Pickled arrays of numbers from other projects, read without running what a pickle may carry."""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array


class _NumberArray:
    """Stands in for `numpy.ndarray` while a pickle is read: holds its parts, and builds the array at the end."""

    def __init__(self, array: Array | None = None) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _NumberType) or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array of something else than numbers")
        flat = np.frombuffer(data, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C").copy()


class _NumberType:
    """Stands in for `numpy.dtype`: booleans, integers and floats only."""

    def __init__(self, code: str, *_: Any) -> None:
        if code.lstrip("<>=|")[:1] not in ("b", "i", "u", "f"):
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _rebuild(*_: Any) -> _NumberArray:
    return _NumberArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _NumberArray:
    if not isinstance(dtype, _NumberType) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array of something else than numbers")
    return _NumberArray(np.frombuffer(data, dtype.dtype).reshape(shape, order=order).copy())


def _number(dtype: _NumberType, data: bytes) -> Any:
    if not isinstance(dtype, _NumberType) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a scalar of something else than a number")
    return np.frombuffer(data, dtype.dtype)[0].item()


def _no_bytes() -> bytes:
    return b""


def _latin_bytes(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


# What a pickle of arrays names, and what is put in its place: nothing named in a pickle is ever imported.
_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _NumberArray,
    ("numpy", "dtype"): _NumberType,
    # Up to protocol 2, bytes are written as text and its encoding, and empty ones as a call without arguments.
    ("_codecs", "encode"): _latin_bytes,
    ("__builtin__", "bytes"): _no_bytes,
}
for _core in ("numpy.core", "numpy._core"):
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _rebuild
    _ADMITTED[f"{_core}.multiarray", "scalar"] = _number
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, key: Any) -> Any:
        raise pickle.UnpicklingError("a reference to an outside object")


def read_array_pickle(path: str | Path) -> Array:
    """Return the array of numbers in a pickle: a NumPy array, or a list of numbers or None (read as NaN).

    No name that the file holds is imported or called: arrays are rebuilt from their bytes. Raises PrefenvsError for a
    pickle that holds or names anything else, and for a file that is no pickle.
    """
    try:
        with open(path, "rb") as file:
            _check_counts(file)
            found = _ArrayUnpickler(file).load()
    except OSError as error:
        raise PrefenvsError(f"{path} cannot be read: {error.strerror}") from None
    except pickle.UnpicklingError as error:
        raise PrefenvsError(
            f"{path} is refused: a pickle may hold an array of numbers only, and this one has {_one_line(error)}"
        ) from None
    except Exception as error:
        # A damaged pickle can raise nearly anything; none of it has run code of the file.
        raise PrefenvsError(f"{path} is no pickle of an array: {_one_line(error)}") from None
    return _as_array(found, path)


def _check_counts(file: BinaryIO) -> None:
    """Raise an UnpicklingError where a memo's number is larger than the file: Python makes room for as many entries."""
    size = file.seek(0, 2)
    file.seek(0)
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > size:
            raise pickle.UnpicklingError(f"a memo of {argument} entries")
    file.seek(0)


def _as_array(found: Any, path: str | Path) -> Array:
    if isinstance(found, _NumberArray) and found.array is not None:
        return found.array
    kinds = (bool, int, float, type(None))
    if isinstance(found, list) and all(isinstance(item, kinds) for item in found):
        try:
            return np.asarray(found, np.float64 if None in found or not found else None)
        except OverflowError:
            raise PrefenvsError(f"{path} holds a number too large for an array") from None
    raise PrefenvsError(f"{path} is refused: it holds neither an array nor a list of numbers")


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
