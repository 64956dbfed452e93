"""Frames of recordings, read exactly: from videos and ROS bags by time, from other files by number."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.frames.bags import is_bag, picture_times, read_pictures
from prefenvs.frames.recording import Camera, Recording
from prefenvs.segments import Array

VIDEOS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Part of the time between frames by which a step may come before one and still see it: clocks and containers round.
EARLY = 0.25
LOOK_EVERY = 0.5
"""Seconds of a video of which one frame is decoded when data sets are looked through for damage."""


@dataclass(frozen=True, eq=False)
class VideoIndex:
    """When the F frames of a video are shown, without decoding any.

    times: [F] float64 seconds, rising; stamps: [F] int64, the same in the file's own unit; keys: [F] bool, from which
    frames decoding can begin; size: (width, height).
    """

    times: Array
    stamps: Array
    keys: Array
    size: tuple[int, int]

    @property
    def interval(self) -> float:
        """Median seconds from one frame to the next."""
        return float(np.median(np.diff(self.times))) if len(self.times) > 1 else 1.0

    @property
    def end(self) -> float:
        """The second at which the last frame ends."""
        return float(self.times[-1]) + self.interval


def index_video(path: Path) -> VideoIndex:
    """Return the index of a video file; raises PrefenvsError for one that is damaged or holds no video."""
    status = path.stat()
    return _index(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def _index(path: Path, changed: int, bytes_: int) -> VideoIndex:
    import av

    stamps, keys = [], []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            unit, size = stream.time_base, (stream.width, stream.height)
            for packet in container.demux(stream):
                if packet.pts is not None and not packet.is_discard:
                    stamps.append(packet.pts)
                    keys.append(packet.is_keyframe)
    except (av.FFmpegError, IndexError) as error:
        why = "it holds no video" if isinstance(error, IndexError) else _line(error)
        raise PrefenvsError(f"{path} cannot be read as a video, or was cut off: {why}") from error
    if not stamps or unit is None:
        raise PrefenvsError(f"{path} holds no frame of video")
    order = np.argsort(stamps, kind="stable")
    rising = np.asarray(stamps, np.int64)[order]
    return VideoIndex(rising * float(unit), rising, np.asarray(keys, bool)[order], size)


def is_timed(path: Path) -> bool:
    """Tell whether a file's pictures have times of their own; those of the others are counted."""
    return path.suffix.lower() in VIDEOS or is_bag(path)


def index_camera(path: Path, camera: Camera) -> VideoIndex:
    """Return the index of a camera's video, or of its topic in a bag, each of whose pictures stands alone."""
    if not is_bag(path):
        return index_video(path)
    times, stamps, size = picture_times(path, camera.key)
    return VideoIndex(times, stamps, np.ones(len(times), bool), size)


def frame_numbers(index: VideoIndex, times: Array, path: Path) -> Array:
    """Return which frame [n] of a video is seen at times [n]: the last one that has begun.

    Raises PrefenvsError for a time before the first frame or after the end of the last.
    """
    apart = np.diff(index.times, prepend=index.times[0] - index.interval, append=index.end)
    begins = index.times - EARLY * np.minimum(apart[:-1], apart[1:])
    found = np.searchsorted(begins, times, side="right") - 1
    outside = np.flatnonzero((found < 0) | (times >= index.end - EARLY * index.interval))
    if len(outside):
        raise PrefenvsError(
            f"{path} shows {index.times[0]:.6g} to {index.end:.6g} s, but a step of its episode was seen at "
            f"{times[outside[0]]:.6g} s: the video is shorter than its episode, or its times are of another clock"
        )
    return found


def decode_frames(path: Path, numbers: Array) -> Iterator[Array]:
    """Yield the frames [H, W, 3] uint8 with these numbers, rising: decoded from the nearest key frame before each."""
    import av

    index = index_video(path)
    at = -1
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            decoded: Iterator[Any] = iter(())
            for number in numbers:
                key = int(np.flatnonzero(index.keys[: number + 1])[-1]) if index.keys[: number + 1].any() else 0
                if at < 0 or key > at:
                    container.seek(int(index.stamps[key]), stream=stream)
                    decoded = container.decode(stream)
                for frame in decoded:
                    at = int(np.searchsorted(index.stamps, frame.pts))
                    if at >= number:
                        break
                if at != number:
                    raise PrefenvsError(f"{path} is damaged: frame {number} of {len(index.times)} cannot be decoded")
                if (frame.width, frame.height) != index.size:
                    raise PrefenvsError(
                        f"frame {number} of {path} is {frame.width} x {frame.height}, others are "
                        f"{index.size[0]} x {index.size[1]}"
                    )
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise PrefenvsError(f"{path} is damaged: {_line(error)}") from error


def read_frames(recording: Recording, steps: Array, camera: Camera) -> Iterator[Array]:
    """Yield the frames [H, W, 3] uint8 that a camera recorded at these steps [n], rising and each once.

    Raises PrefenvsError where a file is missing or damaged, or holds no picture of a step.
    """
    path = recording.path(camera)
    if is_timed(path):
        index = index_camera(path, camera)
        numbers = frame_numbers(index, camera.start + recording.times[steps], path)
        # A camera slower than the steps shows a frame at several of them.
        wanted, counts = np.unique(numbers, return_counts=True)
        decoded = read_pictures(path, camera.key, index.stamps[wanted]) if is_bag(path) else decode_frames(path, wanted)
        for frame, count in zip(decoded, counts.tolist(), strict=True):
            for _ in range(count):
                yield frame
        return
    count, read = _open_pictures(path, camera.key)
    size = None
    for number in (round(camera.start) + recording.first + np.asarray(steps)).tolist():
        if not 0 <= number < count:
            raise PrefenvsError(f"{path} holds {count} pictures, but its episode goes on to number {number}")
        frame = read(number)
        size = size or frame.shape
        if frame.shape != size:
            raise PrefenvsError(
                f"picture {number} of {path} is {frame.shape[1]} x {frame.shape[0]}, others are {size[1]} x {size[0]}"
            )
        yield frame


def frame_size(recording: Recording, camera: Camera) -> tuple[int, int]:
    """Return the (width, height) of a camera's pictures."""
    path = recording.path(camera)
    if is_timed(path):
        return index_camera(path, camera).size
    first = next(read_frames(recording, np.zeros(1, np.int64), camera))
    return first.shape[1], first.shape[0]


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder by name, numbers in names by their value."""
    status = folder.stat()
    return _list_pictures(folder, status.st_mtime_ns)


@lru_cache(maxsize=512)
def _list_pictures(folder: Path, changed: int) -> list[Path]:
    def order(path: Path) -> list[tuple[int, int | str]]:
        return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path.name) if part]

    return sorted((path for path in folder.iterdir() if path.suffix.lower() in PICTURES), key=order)


def _open_pictures(path: Path, key: str) -> tuple[int, Callable[[int], Array]]:
    """Return how many pictures lie at a place, and what reads one of them."""
    if path.is_dir():
        files = list_pictures(path)
        return len(files), lambda number: _decode_picture(files[number], str(files[number]))
    suffix = path.suffix.lower()
    try:
        if suffix in (".h5", ".hdf5"):
            return _open_hdf5(path, key)
        if suffix in (".npy", ".npz"):
            return _open_numpy(path, key)
        if suffix == ".parquet":
            return _open_parquet(path, key)
    except (OSError, KeyError, ValueError) as error:
        raise PrefenvsError(f"{path} holds no pictures called {key!r}, or is damaged: {_line(error)}") from error
    raise PrefenvsError(
        f"{path} is no recording: frames are read from {', '.join(VIDEOS)}, from a folder of pictures, and from HDF5, "
        "NumPy and Parquet files"
    )


def _open_hdf5(path: Path, key: str) -> tuple[int, Callable[[int], Array]]:
    h5py = import_extra("h5py", str(path))

    def read(number: int) -> Array:
        with h5py.File(path, "r") as file:
            held = np.asarray(file[key][number])
        if held.ndim == 1 and held.dtype == np.uint8:
            # Minari keeps pictures as JPEG.
            return _decode_picture(io.BytesIO(held.tobytes()), f"picture {number} of {key} in {path}")
        return as_picture(held, f"{key} in {path}")

    with h5py.File(path, "r") as file:
        return len(file[key]), read


def _open_numpy(path: Path, key: str) -> tuple[int, Callable[[int], Array]]:
    # Without a key the memory map of a single array, of which only the pictures asked for are read.
    loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    array = loaded if isinstance(loaded, np.ndarray) else loaded[key]
    return len(array), lambda number: as_picture(np.asarray(array[number]), str(path))


def _open_parquet(path: Path, key: str) -> tuple[int, Callable[[int], Array]]:
    status = path.stat()
    column = _parquet_column(path, key, status.st_mtime_ns)

    def read(number: int) -> Array:
        held = column[number].as_py()
        content = held.get("bytes") if isinstance(held, dict) else held
        if content is None:
            raise PrefenvsError(f"row {number} of {key} in {path} holds no picture")
        return _decode_picture(io.BytesIO(content), f"row {number} of {key} in {path}")

    return len(column), read


@lru_cache(maxsize=4)
def _parquet_column(path: Path, key: str, changed: int) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path, columns=[key]).column(0)


def _decode_picture(file: Path | io.BytesIO, name: str) -> Array:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise PrefenvsError(f"{name} cannot be read as a picture: {_line(error)}") from error


def as_picture(array: Array, name: str) -> Array:
    """Return [H, W, 3] uint8 of a picture [H, W], [H, W, 1], [H, W, 3] or [3, H, W], of bytes or floats from 0 to 1."""
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype.kind not in "uf":
        raise PrefenvsError(f"{name} has pictures of shape {array.shape} and type {array.dtype}; expected [H, W, 3]")
    if array.dtype.kind == "f":
        array = np.clip(np.round(255.0 * array), 0, 255)
    return np.ascontiguousarray(np.broadcast_to(array.astype(np.uint8), (*array.shape[:2], 3)))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def check_recording(recording: Recording, *, look: bool = False) -> None:
    """Raise a PrefenvsError where a camera has no picture of some step.

    look: decode pictures too, as any of them can be damaged or of another size: of a video the first, the last and some
    key frames between, of other files all but those of arrays.
    """
    for camera in recording.cameras:
        path = recording.path(camera)
        if is_timed(path):
            index = index_camera(path, camera)
            numbers = frame_numbers(index, camera.start + recording.times, path)
            if look and is_bag(path):
                for _ in read_pictures(path, camera.key, index.stamps[np.unique(numbers)]):
                    pass
            elif look:
                for _ in decode_frames(path, _samples(index, int(numbers[0]), int(numbers[-1]))):
                    pass
            continue
        count, _ = _open_pictures(path, camera.key)
        last = round(camera.start) + recording.first + len(recording) - 1
        if last >= count:
            raise PrefenvsError(f"{path} holds {count} pictures, but its episode goes on to number {last}")
        if look and (path.is_dir() or path.suffix.lower() == ".parquet"):
            for _ in read_frames(recording, np.arange(len(recording)), camera):
                pass


def _samples(index: VideoIndex, first: int, last: int) -> Array:
    """Numbers of frames between which a video can hardly change unseen: its size changes at key frames only."""
    keys = (first + np.flatnonzero(index.keys[first : last + 1])).tolist()
    chosen = [first]
    for key in keys:
        if index.times[key] - index.times[chosen[-1]] >= LOOK_EVERY:
            chosen.append(key)
    return np.array(sorted({*chosen, *keys[-1:], last}))
