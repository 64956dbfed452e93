"""Live frames: what environments draw while they act, kept as videos where no simulator state can be drawn later."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.frames.clips import ClipWriter
from prefenvs.frames.recording import Camera, Recording

CAMERA = "live"


class LiveFrames:
    """Write the pictures of several environments, a video for each episode, frame by frame in constant memory.

    Videos stay when their episodes are forgotten, since somebody may be looking at a segment of them.
    """

    def __init__(self, folder: str | Path, fps: int) -> None:
        """`folder`: made when the first picture comes; `fps`: steps per second."""
        self.folder, self.fps = Path(folder).absolute(), fps
        self._writers: dict[int, ClipWriter] = {}

    def add(self, env: int, picture: Any) -> None:
        """Append what environment number `env` shows at its next step: [H, W, 3] uint8."""
        if env not in self._writers:
            self._writers[env] = ClipWriter(self.folder / f"{uuid.uuid4().hex[:16]}.mp4", self.fps, keyframes=self.fps)
        self._writers[env].add(picture)

    def end(self, env: int) -> Recording:
        """End the episode of an environment and return its recording."""
        writer = self._writers.pop(env)
        writer.close()
        times = np.arange(writer.frames) / self.fps
        return Recording((Camera(CAMERA, writer.path.name),), times, str(self.folder))

    def drop(self) -> None:
        """Forget the unfinished episodes."""
        for writer in self._writers.values():
            writer.abort()
        self._writers.clear()
