"""Recordings: what cameras saw at each step of an episode, by reference to the files that hold it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

ROOTS = "PREFENVS_RECORDINGS"
"""Environment variable: folders where recordings are looked for that are not where they were."""
# Of a file these parts of so many bytes, evenly spaced, tell it from others; whole videos would take minutes to hash.
PARTS, PART = 64, 4_096


@dataclass(frozen=True)
class Camera:
    """Where the pictures of one camera lie.

    file: a video (.mp4, .mkv, .webm, .avi, .mov), a ROS bag, a folder of pictures in the order of their names, or an
    array of pictures in an HDF5, .npy or .npz file or in a column of a Parquet file; relative to the recording's root.
    key: name of the topic, array or column in its file. start: of a video or bag, the second at which the episode
    begins in it; else the number of the picture that belongs to the episode's first step.
    digest: fingerprint of the file's content, computed when it is first needed.
    """

    name: str
    file: str
    key: str = ""
    start: float = 0.0
    digest: str = ""


@dataclass(frozen=True, eq=False)
class Recording:
    """What one or several cameras saw at T steps of an episode; pictures are read when they are looked at.

    cameras: each with a name of its own. times: [T] float64, rising, the second of the episode at which each step was
    seen; they need not be regular. root: folder that holds the files. first: steps of the episode before these.
    """

    cameras: tuple[Camera, ...]
    times: Array
    root: str = ""
    first: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", np.asarray(self.times, np.float64))
        names = [camera.name for camera in self.cameras]
        if not names or len(set(names)) < len(names):
            raise PrefenvsError(f"a recording has one camera or more, each with its own name; these are {names}")
        if self.times.ndim != 1 or not np.isfinite(self.times).all():
            raise PrefenvsError(f"a recording of {names[0]!r} has times of shape {self.times.shape}, not one a step")
        late = np.flatnonzero(np.diff(self.times) <= 0)
        if len(late):
            raise PrefenvsError(
                f"the times of {self.cameras[0].file} do not rise: step {self.first + late[0] + 1} was seen at "
                f"{self.times[late[0] + 1]:.6g} s, the one before at {self.times[late[0]]:.6g} s"
            )

    def __len__(self) -> int:
        """Number of steps."""
        return len(self.times)

    @property
    def fps(self) -> float:
        """Steps per second: the median rate; 1 where there is a single step."""
        return float(1.0 / np.median(np.diff(self.times))) if len(self) > 1 else 1.0

    @property
    def regular(self) -> bool:
        """Whether all steps are equally far apart, to a twentieth of their distance."""
        apart = np.diff(self.times)
        return not len(apart) or bool(np.ptp(apart) <= 0.05 * np.median(apart))

    def cut(self, start: int, length: int) -> Recording:
        """Return `length` steps from step `start` on."""
        return replace(self, times=self.times[start : start + length], first=self.first + start)

    def camera(self, name: str) -> Camera:
        """Return a camera by its name; raises PrefenvsError where there is none of that name."""
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise PrefenvsError(
            f"there is no camera {name!r} in this recording: choose one of {', '.join(c.name for c in self.cameras)}"
        )

    def path(self, camera: Camera) -> Path:
        """Return the file of a camera; raises PrefenvsError where it is not there.

        A file that has moved is looked for in the folders that the environment variable PREFENVS_RECORDINGS names.
        """
        path = Path(self.root, camera.file)
        if path.exists():
            return path
        for root in os.environ.get(ROOTS, "").split(os.pathsep):
            if root and (moved := Path(root, camera.file)).exists():
                return moved
        raise PrefenvsError(
            f"{path}, which camera {camera.name!r} recorded, is not there: put it back, or name its data set's folder "
            f"in the environment variable {ROOTS}"
        )

    @cached_property
    def places(self) -> bytes:
        """Hash of the cameras and of what their files hold, the same for all parts of an episode."""
        about = [(camera.name, camera.key, camera.start, self._digest(camera)) for camera in self.cameras]
        return hashlib.blake2b(repr(about).encode(), digest_size=16).digest()

    def frame_keys(self, steps: Array, cameras: tuple[str, ...]) -> list[bytes]:
        """Return the hash of what these cameras show at each of the steps [n]."""
        base = hashlib.blake2b(self.places + repr(cameras).encode(), digest_size=16)
        keys = []
        for step in np.asarray(steps).tolist():
            digest = base.copy()
            digest.update(f"{self.first + step} {self.times[step]!r}".encode())
            keys.append(digest.digest())
        return keys

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of what is shown: the files' content by fingerprint, wherever they lie, cameras and times."""
        return hashlib.sha256(self.places + self.times.tobytes() + str(self.first).encode()).hexdigest()

    def _digest(self, camera: Camera) -> str:
        return camera.digest or fingerprint(self.path(camera))

    def record(self) -> dict[str, Any]:
        """Return all but the times as a record for JSON, with which `of_record` makes the recording again."""
        cameras = [asdict(replace(camera, digest=self._digest(camera))) for camera in self.cameras]
        return {"root": str(Path(self.root).absolute()), "first": self.first, "cameras": cameras}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], times: Array) -> Recording:
        """Return the recording of a record; raises PrefenvsError for one that is damaged."""
        try:
            cameras = tuple(
                Camera(str(c["name"]), str(c["file"]), str(c["key"]), float(c["start"]), str(c["digest"]))
                for c in record["cameras"]
            )
            return cls(cameras, times, str(record["root"]), int(record["first"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PrefenvsError(f"a segment's recording is damaged: {type(error).__name__}: {error}") from error


def fingerprint(path: Path) -> str:
    """Return 32 hex digits for a file's size and parts of its content, or for those of the files in a folder."""
    status = path.stat()
    return _fingerprint(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=65_536)
def _fingerprint(path: str, changed: int, size: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    if os.path.isdir(path):
        files = sorted((entry for entry in os.scandir(path) if entry.is_file()), key=lambda entry: entry.name)
        every = max(1, len(files) // PARTS)
        for number, entry in enumerate(files):
            digest.update(f"{entry.name}\0{entry.stat().st_size}\0".encode())
            if number % every == 0:
                digest.update(Path(entry.path).read_bytes())
        return digest.hexdigest()
    with open(path, "rb") as file:
        digest.update(str(size).encode())
        for part in range(PARTS):
            file.seek(max(size - PART, 0) * part // (PARTS - 1))
            digest.update(file.read(PART))
    return digest.hexdigest()
