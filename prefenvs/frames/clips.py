"""Frames to video files and back: H.264 in MP4 that every browser plays, and animated GIF or WebP."""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from PIL import Image

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

SUFFIXES = (".mp4", ".webp", ".gif")
# Codes of ITU-T H.273: BT.601 matrix and limited range, which is what the conversion from RGB below yields.
BT601, LIMITED_RANGE = 6, 1


class ClipWriter:
    """Write an MP4 frame by frame in constant memory; the file appears under its name only when it is complete.

    H.264, yuv420p, index at the front (so that a browser starts before it has all), sides rounded up to even numbers by
    repeating the last row or column. Leaving the `with` statement by an exception leaves no file behind.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float | Fraction,
        crf: int = 20,
        preset: str = "veryfast",
        keyframes: int | None = None,
    ) -> None:
        """`fps`: frames per second; `crf`: x264's quality, 0 (lossless) to 51; `preset`: x264's speed.

        keyframes: frames from one key frame to the next, by default as x264 chooses.
        """
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise PrefenvsError(f"{self.path.name}: a clip is written frame by frame as .mp4 only")
        self.fps = _exact(fps)
        self.frames = 0
        self._options = {"crf": str(crf), "preset": preset} | ({"g": str(keyframes)} if keyframes else {})
        self._stream: Any = None
        self._temporary = _temporary_beside(self.path)
        self._container: Any = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})

    def add(self, frame: Array) -> None:
        """Append one frame [H, W, 3] uint8; all frames have the size of the first.

        Raises PrefenvsError for another size or type.
        """
        _check(frame)
        if self._container is None:
            raise PrefenvsError(f"{self.path.name}: this clip is complete, and takes no frame more")
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = self._open_stream(frame.shape[1], frame.shape[0])
        elif (self._stream.width, self._stream.height) != (frame.shape[1], frame.shape[0]):
            size = f"{self._stream.width} x {self._stream.height}"
            raise PrefenvsError(f"{self.path.name}: frame {self.frames} is {width} x {height}, the first was {size}")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(format="yuv420p")
        picture.pts = self.frames
        picture.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises PrefenvsError for a clip without a frame.
        """
        if self._container is None:
            return
        if self._stream is None:
            self.abort()
            raise PrefenvsError(f"{self.path.name}: a clip needs at least one frame")
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None
            os.replace(self._temporary, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Give up: remove what has been written."""
        container, self._container = self._container, None
        try:
            if container is not None and self._stream is not None:
                container.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()

    def _open_stream(self, width: int, height: int) -> Any:
        stream: Any = self._container.add_stream("libx264", rate=self.fps, options=self._options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = 1 / self.fps
        stream.codec_context.colorspace, stream.codec_context.color_range = BT601, LIMITED_RANGE
        return stream


def write_clip(frames: Iterable[Array], path: str | Path, fps: float | Fraction) -> Path:
    """Write frames [H, W, 3] uint8 to `path` as its suffix says (.mp4, .webp, .gif) and return the path.

    The frames may come from a generator. In a GIF they are shown for whole hundredths of a second, some longer than
    others so that all of them keep time. Raises PrefenvsError for another suffix, and for no frame.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise PrefenvsError(f"{path.name}: the name of a clip ends in one of {', '.join(SUFFIXES)}")
    if suffix == ".mp4":
        with ClipWriter(path, fps) as writer:
            for frame in frames:
                writer.add(frame)
        return path

    exact, unit = _exact(fps), 10 if suffix == ".gif" else 1
    if suffix == ".gif" and exact > 50:
        raise PrefenvsError(f"{path.name}: viewers show at most 50 frames of a GIF a second, got fps={fps}")
    durations: list[int] = []  # milliseconds; Pillow reads each after its picture

    def timed() -> Iterator[Image.Image]:
        size = None
        for number, frame in enumerate(frames):
            _check(frame)
            size = size or frame.shape
            if frame.shape != size:
                now, first = (f"{shape[1]} x {shape[0]}" for shape in (frame.shape, size))
                raise PrefenvsError(f"{path.name}: frame {number} is {now}, the first was {first}")
            begin, end = (round(time * 1000 / exact / unit) for time in (number, number + 1))
            durations.append((end - begin) * unit)
            yield Image.fromarray(frame)

    pictures = timed()
    first = next(pictures, None)
    if first is None:
        raise PrefenvsError(f"{path.name}: a clip needs at least one frame")
    kind: dict[str, Any] = {"format": "GIF"} if suffix == ".gif" else {"format": "WEBP", "quality": 80, "method": 0}
    with _replacing(path) as temporary:
        first.save(temporary, save_all=True, append_images=chain(pictures), duration=durations, loop=0, **kind)
    return path


def _check(frame: Array) -> None:
    given: object = frame
    if not isinstance(given, np.ndarray):
        raise PrefenvsError(f"a frame is [H, W, 3] uint8, this one is {type(given).__name__}")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise PrefenvsError(f"a frame is [H, W, 3] uint8, this one is {list(frame.shape)} {frame.dtype}")


def write_picture(picture: Array, path: str | Path) -> Path:
    """Write one picture [H, W, 3] uint8 to `path`, which ends in .png, and return the path.

    Raises PrefenvsError for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise PrefenvsError(f"{path.name}: the name of a picture ends in .png")
    with _replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
    return path


def decode(path: str | Path) -> tuple[Array, float]:
    """Return the frames [T, H, W, 3] uint8 of a video file and its frames per second.

    Raises PrefenvsError for a file that is none.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            rate = stream.average_rate
    except (av.FFmpegError, IndexError) as error:
        raise PrefenvsError(f"{path} cannot be read as a video: {error}") from error
    return np.stack(frames), float(rate or 0)


def _exact(fps: float | Fraction) -> Fraction:
    """Frames per second as a fraction that MP4's time base can hold."""
    exact = Fraction(fps).limit_denominator(1000) if math.isfinite(fps) else Fraction(0)
    if not Fraction(1, 600) <= exact <= 1000:
        raise PrefenvsError(f"fps={fps} is not a rate that a clip can have: choose one between 1 and 60")
    return exact


def _temporary_beside(path: Path) -> Path:
    """A name of its own in the folder of `path`, which is made if need be, so that the last rename is atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.stem}-{uuid.uuid4().hex[:12]}{path.suffix}")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    temporary = _temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
