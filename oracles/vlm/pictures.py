"""What a model is shown of a segment: its last frame, a strip, a row of frames, or a short clip."""

from __future__ import annotations

import base64
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from prefenvs.errors import PrefenvsError
from prefenvs.frames.clips import write_clip
from prefenvs.frames.source import SegmentFrames
from prefenvs.limits import PositiveInt, check_settings
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task
from prefenvs.videos.layout import side_by_side

LONGEST_SIDE = 8000
"""Pixels; hosted models refuse larger pictures."""
FPS = 8


@dataclass(frozen=True)
class View:
    """How a segment is shown.

    kind: "last", its last frame (RL-VLM-F); "strip", frames side by side in one picture; "frames", one picture each;
    "clip", an MP4 sent as `video_url`, which vLLM and SGLang take. frames: how many, from the first step to the last.
    size: pixels of a frame's side. hide_robot: draw the objects only, where the task has any. max_bytes: of all
    pictures in one prompt together, before encoding as text.
    """

    kind: Literal["last", "strip", "frames", "clip"] = "last"
    frames: PositiveInt = 4
    size: PositiveInt = 256
    hide_robot: bool = False
    max_bytes: PositiveInt = 16_000_000

    def __post_init__(self) -> None:
        check_settings(self)
        if self.kind != "last" and not 2 <= self.frames <= 64:
            raise PrefenvsError(f"a view of {self.frames} frames cannot be shown: choose 2 to 64, or the view last")
        width = self.size * (self.frames if self.kind == "strip" else 1)
        if self.size < 16 or width > LONGEST_SIDE:
            raise PrefenvsError(
                f"pictures {width} pixels wide: a frame has at least 16 pixels and a picture at most {LONGEST_SIDE}; "
                "choose another size or fewer frames"
            )

    @property
    def name(self) -> str:
        """Names everything that the pictures of a segment depend on, such as strip-4-256-objects."""
        parts = [self.kind, *([] if self.kind == "last" else [str(self.frames)]), str(self.size)]
        return "-".join(parts + (["objects"] if self.hide_robot else []))

    @property
    def pictures(self) -> int:
        """Pictures that stand for one segment."""
        return self.frames if self.kind in ("frames", "clip") else 1

    def describe(self) -> str:
        """Tell the model what it looks at."""
        about = {
            "last": "Each attempt is shown by the last frame of a short scene.",
            "strip": f"Each attempt is shown by {self.frames} frames of a short scene, in time from left to right.",
            "frames": f"Each attempt is shown by {self.frames} pictures of a short scene, in the order of time.",
            "clip": "Each attempt is shown by a short video.",
        }[self.kind]
        return about + (" The robot that acts has been left out of the picture." if self.hide_robot else "")

    def steps(self, length: int) -> Array:
        """Return which of `length` steps are drawn, [n] int64."""
        if self.kind == "last":
            return np.array([length - 1])
        return np.round(np.linspace(0, length - 1, self.frames)).astype(np.int64)


class Pictures:
    """Draw segments of one task as a view says; keeps its renderer, so use it from one thread at a time."""

    def __init__(self, task: Task, view: View) -> None:
        self.task, self.view = task, view
        self._source = SegmentFrames(view.size, hide_robot=view.hide_robot, task=task)

    def draw(self, segment: Segment) -> Array:
        """Return the frames [n, H, W, 3] uint8 that stand for a segment, its cameras side by side.

        Raises PrefenvsError for a segment without recording and states.
        """
        return self._source.frames(segment, self.view.steps(len(segment)))

    def encode(self, segment: Segment, frames: Array) -> list[dict[str, Any]]:
        """Return the frames of a segment as parts of a message; each PNG names the segment's hash in its text."""
        if self.view.kind == "clip":
            return [{"type": "video_url", "video_url": {"url": _url("video/mp4", _mp4(frames))}}]
        if self.view.kind == "strip":
            frames = side_by_side(list(frames))[None]
        urls = [_url("image/png", _png(frame, segment.hash)) for frame in frames]
        return [{"type": "image_url", "image_url": {"url": url}} for url in urls]

    def check_size(self, parts: list[dict[str, Any]]) -> None:
        """Raise a PrefenvsError if the pictures of a prompt are more than the view allows."""
        urls = [part[part["type"]]["url"] for part in parts if part["type"] != "text"]
        total = sum(len(url) * 3 // 4 for url in urls)
        if total > self.view.max_bytes:
            raise PrefenvsError(
                f"the pictures of one prompt take {total:,} bytes, more than {self.view.max_bytes:,}: choose a smaller "
                "size or fewer frames"
            )

    def close(self) -> None:
        """Free the renderer; a second call does nothing."""
        self._source.close()


def _png(frame: Array, key: str) -> bytes:
    about, file = PngInfo(), io.BytesIO()
    about.add_text("segment", key)
    # Half the time of the default level, and no larger.
    Image.fromarray(frame).save(file, "PNG", pnginfo=about, compress_level=3)
    return file.getvalue()


def _mp4(frames: Array) -> bytes:
    with tempfile.TemporaryDirectory(prefix="prefenvs-") as folder:
        return write_clip(frames, Path(folder) / "clip.mp4", FPS).read_bytes()


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
