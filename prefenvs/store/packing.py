"""Segments as bytes: a short JSON header, then the arrays as they lie in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment

ARRAYS = ("observations", "actions", "states", "scene")
_ALIGN = 16

# One entry per array: its name, dtype, shape, first byte and number of bytes.
Layout = tuple[tuple[str, np.dtype[Any], tuple[int, ...], int, int], ...]


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """Return the arrays as bytes: uint32 header length, JSON header, then each array, starting at multiples of 16.

    The header is a list of [name, dtype, shape]. Numbers and booleans only; nothing is pickled or compressed
    (deflate saves a tenth of float observations, at fifty times the cost).
    """
    parts = [_header(tuple((name, array.dtype.str, array.shape) for name, array in arrays.items()))]
    for array in arrays.values():
        data = array.tobytes()
        parts += (data, bytes(-len(data) % _ALIGN))
    return b"".join(parts)


def unpack_arrays(data: bytes) -> dict[str, Array]:
    """Return the arrays that `pack_arrays` packed, writable and with one copy for all of them."""
    size = struct.unpack_from("<I", data)[0]
    memory = bytearray(data)
    return {
        name: np.frombuffer(memory, dtype, count, first).reshape(shape)
        for name, dtype, shape, first, count in _layout(data[4 : 4 + size])
    }


def pack_segment(segment: Segment) -> bytes:
    """Pack what a rater can be shown, which is what `Segment.hash` covers."""
    return pack_arrays({name: array for name in ARRAYS if (array := getattr(segment, name)) is not None})


@lru_cache(maxsize=256)
def _header(arrays: tuple[tuple[str, str, tuple[int, ...]], ...]) -> bytes:
    for name, dtype, _ in arrays:
        if np.dtype(dtype).kind not in "biufc":
            raise PrefenvsError(f"segment array {name!r} has dtype {dtype}; a store keeps numbers and booleans only")
    text = json.dumps(arrays).encode()
    text += b" " * (-(4 + len(text)) % _ALIGN)
    return struct.pack("<I", len(text)) + text


@lru_cache(maxsize=256)
def _layout(header: bytes) -> Layout:
    layout, first = [], 4 + len(header)
    for name, code, shape in json.loads(header):
        dtype = np.dtype(code)
        count = int(np.prod(shape, dtype=np.int64))
        layout.append((name, dtype, tuple(shape), first, count))
        first += count * dtype.itemsize
        first += -first % _ALIGN
    return tuple(layout)
