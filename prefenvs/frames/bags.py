"""ROS bags: messages by topic, and the pictures among them, each read when it is looked at.

ROS 2 bags (folders with a metadata.yaml, .mcap and .db3 files) and ROS 1's .bag files, by the package rosbags.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prefenvs.errors import PrefenvsError, failure_told, import_extra, one_line
from prefenvs.segments import Array

BAGS = (".mcap", ".db3", ".bag")
CHANNELS = {"mono8": 1, "8UC1": 1, "rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4}
"""Channels of the encodings of raw pictures that are read; 8UC3 is read as bgr8, as OpenCV writes it."""


def is_bag(path: Path) -> bool:
    """Tell whether a path is a bag."""
    return (path / "metadata.yaml").is_file() if path.is_dir() else path.suffix.lower() in BAGS


@contextmanager
def open_bag(path: Path) -> Iterator[Any]:
    """Open a bag with rosbags' AnyReader; raises PrefenvsError where it is damaged, or the package is missing."""
    reader, systems = (import_extra(f"rosbags.{name}", str(path)) for name in ("highlevel", "typesys"))
    # Bags of older ROS 2 versions do not define their messages.
    types = systems.get_typestore(systems.Stores.ROS2_HUMBLE)
    with failure_told(f"{path} cannot be read as a ROS bag"), reader.AnyReader([path], default_typestore=types) as bag:
        yield bag


def connections(bag: Any, topic: str, path: Path) -> list[Any]:
    """Return the connections of a topic; raises PrefenvsError where the bag has no message of it."""
    found = [connection for connection in bag.connections if connection.topic == topic and connection.msgcount]
    if not found:
        known = ", ".join(sorted({connection.topic for connection in bag.connections if connection.msgcount}))
        raise PrefenvsError(f"{path} holds no message of the topic {topic!r}: it has {known or 'none at all'}")
    return found


def picture_times(path: Path, topic: str) -> tuple[Array, Array, tuple[int, int]]:
    """Return when the F pictures of a topic came: [F] float64 seconds since the bag began, [F] int64 nanoseconds.

    The third is their (width, height). Times are those of the recording, not of the camera's own clock.
    """
    status = (path / "metadata.yaml" if path.is_dir() else path).stat()
    return _picture_times(path, topic, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=512)
def _picture_times(path: Path, topic: str, changed: int, size: int) -> tuple[Array, Array, tuple[int, int]]:
    with open_bag(path) as bag:
        chosen, first = connections(bag, topic, path), None
        stamps: list[int] = []
        for connection, stamp, content in bag.messages(chosen):
            if first is None:
                first = _picture(bag.deserialize(content, connection.msgtype), f"the first of {topic} in {path}")
            if not stamps or stamp > stamps[-1]:
                stamps.append(stamp)
        assert first is not None
        nanoseconds = np.asarray(stamps, np.int64)
        return (nanoseconds - bag.start_time) / 1e9, nanoseconds, (first.shape[1], first.shape[0])


def read_pictures(path: Path, topic: str, stamps: Array) -> Iterator[Array]:
    """Yield the pictures [H, W, 3] uint8 of a topic that came at these nanoseconds [n], rising.

    Raises PrefenvsError for messages that hold no picture, and pictures of several sizes.
    """
    size = picture_times(path, topic)[2]
    with open_bag(path) as bag:
        chosen = connections(bag, topic, path)
        for stamp in stamps.tolist():
            connection, _, content = next(iter(bag.messages(chosen, stamp, stamp + 1)))
            name = f"the picture of {topic} at {(stamp - bag.start_time) / 1e9:.6g} s in {path}"
            picture = _picture(bag.deserialize(content, connection.msgtype), name)
            if picture.shape[1::-1] != size:
                raise PrefenvsError(
                    f"{name} is {picture.shape[1]} x {picture.shape[0]}, others are {size[0]} x {size[1]}"
                )
            yield picture


def _picture(message: Any, name: str) -> Array:
    """The picture of a message sensor_msgs/CompressedImage or sensor_msgs/Image."""
    if hasattr(message, "format") and hasattr(message, "data"):
        try:
            with Image.open(io.BytesIO(message.data.tobytes())) as picture:
                return np.asarray(picture.convert("RGB"))
        except (OSError, ValueError) as error:
            raise PrefenvsError(f"{name} cannot be read as a picture: {one_line(error)}") from error
    encoding = str(getattr(message, "encoding", ""))
    if encoding not in CHANNELS:
        what = f"is of encoding {encoding!r}" if encoding else f"is a {type(message).__name__.split('__')[-1]}"
        raise PrefenvsError(
            f"{name} {what}: sensor_msgs/CompressedImage is read, and sensor_msgs/Image of {', '.join(CHANNELS)}"
        )
    channels, height, width = CHANNELS[encoding], int(message.height), int(message.width)
    data = np.asarray(message.data, np.uint8)
    if message.step < width * channels or len(data) < height * message.step:
        raise PrefenvsError(f"{name} holds {len(data)} bytes, too few for {width} x {height} in {encoding}")
    rows = data[: height * message.step].reshape(height, message.step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)[..., :3]
    if encoding.startswith("bgr") or encoding == "8UC3":
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(np.broadcast_to(pixels, (height, width, 3)))
