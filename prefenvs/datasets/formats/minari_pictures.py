"""Pictures in Minari's data sets: left in their HDF5 file, and read from there when somebody looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Camera, Recording
from prefenvs.segments import Array

FILE = "main_data.hdf5"
RATE = 30.0
"""Steps per second where no task tells another rate."""


def is_picture(space: spaces.Space[Any]) -> bool:
    """Tell whether the samples of a space are pictures: [H, W, 1 or 3] or [3, H, W] uint8."""
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8 or len(space.shape) != 3:
        return False
    return space.shape[2] in (1, 3) or space.shape[0] in (1, 3)


def picture_keys(space: spaces.Space[Any], prefix: str = "") -> list[str]:
    """Return where pictures lie in the samples of a space: "" for the sample itself, "a/b" within dictionaries."""
    if is_picture(space):
        return [prefix]
    if not isinstance(space, spaces.Dict):
        return []
    return [key for name, child in space.items() for key in picture_keys(child, f"{prefix}/{name}".lstrip("/"))]


def without_pictures(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """Return a space without its pictures, an empty dictionary where nothing is left."""
    if is_picture(space):
        return spaces.Dict({})
    if not isinstance(space, spaces.Dict):
        return space
    left = {name: without_pictures(child) for name, child in space.items()}
    return spaces.Dict({name: child for name, child in left.items() if child != spaces.Dict({})})


def skip_pictures(storage: Any, name: str) -> None:
    """Have a storage leave pictures where they are; raises PrefenvsError where they lie in no HDF5 file."""
    if storage.FORMAT != "hdf5":
        raise PrefenvsError(
            f"{name} keeps its pictures in {storage.FORMAT} files, of which only whole episodes can be read: save it "
            "again with data_format='hdf5'"
        )
    decode = storage._decode_space
    storage._decode_space = lambda place, space: {} if is_picture(space) else decode(place, space)


def record_pictures(storage: Any, ends: Array, rate: float = RATE) -> tuple[Recording, ...]:
    """Return what each episode [E] shows; of T + 1 pictures the last belongs to no step."""
    keys = picture_keys(storage.observation_space)
    lengths = np.diff(ends, prepend=0).tolist()

    def camera(key: str, episode: int) -> Camera:
        place = f"episode_{episode}/observations" + (f"/{key}" if key else "")
        return Camera(key.replace("/", "-") or "camera", FILE, place)

    return tuple(
        Recording(tuple(camera(key, episode) for key in keys), np.arange(length) / rate, str(Path(storage.data_path)))
        for episode, length in enumerate(lengths)
    )
