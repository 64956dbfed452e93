"""Segments as bytes: a short JSON header, then the arrays as they lie in memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Recording
from prefenvs.segments import Array, Segment

# The last two are a recording: its record as JSON text, in bytes, and the times of its steps.
ARRAYS = ("observations", "actions", "states", "scene", "recording", "times")
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
    arrays = {name: array for name in ARRAYS[:4] if (array := getattr(segment, name)) is not None}
    if segment.recording is not None:
        text = json.dumps(segment.recording.record())
        arrays |= {"recording": np.frombuffer(text.encode(), np.uint8), "times": segment.recording.times}
    return pack_arrays(arrays)


def segment_of(arrays: Mapping[str, Array], **about: Any) -> Segment:
    """Return the segment that was packed as these arrays; raises PrefenvsError for a damaged recording.

    about: task, source, episode, start and true rewards, which are kept apart.
    """
    recording = None
    if "recording" in arrays:
        try:
            record = json.loads(arrays["recording"].tobytes())
        except ValueError as error:
            raise PrefenvsError(f"a segment's recording is damaged: {error}") from error
        recording = Recording.of_record(record, arrays["times"])
    own: dict[str, Any] = {name: arrays[name] for name in ARRAYS[:4] if name in arrays}
    return Segment(**own, recording=recording, **about)


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
