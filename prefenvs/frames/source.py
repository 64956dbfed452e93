"""`frames(segment)`: what a segment looks like, whether cameras recorded it or its states are drawn now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.frames.fitting import fit
from prefenvs.frames.recording import Camera, Recording
from prefenvs.frames.video import frame_size, read_frames
from prefenvs.internal.closing import Closing
from prefenvs.segments import Array, Segment

if TYPE_CHECKING:
    from prefenvs.envs.rendering.renderer import Renderer
    from prefenvs.tasks import Task

# Frames that are drawn or decoded at a time: little enough in memory.
CHUNK = 16


class SegmentFrames(Closing):
    """Shows segments: as their cameras recorded them, else as their simulator states are drawn.

    Renderers stay warm, one for each task. Threads may share one; close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        size: int | tuple[int, int] = 256,
        quality: bool = False,
        hide_robot: bool = False,
        cameras: Sequence[str] = (),
        task: Task | None = None,
        enlarge: bool = True,
    ) -> None:
        """Choose the picture.

        size: height in pixels, of a square where states are drawn, of the camera's own shape where it recorded; or
        (width, height), into which recorded pictures are fitted without distortion. cameras: which recorded views are
        shown, by default all, side by side. quality, hide_robot: of what is drawn, see `Renderer`. task: whose states
        are drawn, by default the task that each segment names. enlarge: scale recorded pictures up to a height that is
        above their own; without it the tallest camera's own is the most.
        """
        self.task, self.enlarge = task, enlarge
        self.size, self.quality, self.hide_robot, self.cameras = size, quality, hide_robot, tuple(cameras)
        self._renderers: dict[str, Renderer] = {}

    def shape(self, segment: Segment) -> tuple[int, int]:
        """Return the (width, height) of a segment's frames; nothing is drawn or decoded."""
        if segment.recording is None:
            return self._box(None, None)
        boxes = [self._box(segment.recording, camera) for camera in self._chosen(segment.recording)]
        return sum(width for width, _ in boxes), boxes[0][1]

    def frames(self, segment: Segment, steps: Array | Sequence[int] | None = None) -> Array:
        """Return frames [n, H, W, 3] uint8 at `steps` [n], by default at all; several cameras stand side by side."""
        return np.stack(list(self.stream(segment, steps)))

    def stream(self, segment: Segment, steps: Array | Sequence[int] | None = None) -> Iterator[Array]:
        """Yield the same frames [H, W, 3] one by one, in constant memory."""
        for views in self._views(segment, steps):
            yield views[0] if len(views) == 1 else np.concatenate(views, axis=1)

    def views(self, segment: Segment, steps: Array | Sequence[int] | None = None) -> Array:
        """Return frames [n, C, H, W, 3] uint8 of C cameras, which must have one shape: give `size` as a pair."""
        return np.stack([np.stack(views) for views in self._views(segment, steps)])

    def close(self) -> None:
        """Free the renderers; a second call does nothing."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()

    def _views(self, segment: Segment, steps: Array | Sequence[int] | None) -> Iterator[list[Array]]:
        shown = np.arange(len(segment)) if steps is None else np.asarray(steps, np.int64)
        if not len(shown) or shown.min() < 0 or shown.max() >= len(segment):
            raise PrefenvsError(f"steps {shown.tolist()} are not in a segment of {len(segment)} steps, numbered from 0")
        for begin in range(0, len(shown), CHUNK):
            wanted, where = np.unique(shown[begin : begin + CHUNK], return_inverse=True)
            if segment.recording is not None:
                sides = [self._recorded(segment, wanted, camera) for camera in self._chosen(segment.recording)]
            else:
                sides = [self._drawn(segment, wanted)]
            for row in where.tolist():
                yield [side[row] for side in sides]

    def _drawn(self, segment: Segment, steps: Array) -> list[Array]:
        if segment.states is None and segment.observations.ndim == 4:
            box = self._box(None, None)
            return [fit(as_colours(picture), box) for picture in segment.observations[steps]]
        if segment.states is None:
            raise PrefenvsError(
                f"a segment of task {segment.task!r}, source {segment.source!r}, has no recording and no simulator "
                "states, so there is nothing to show: give the environment a `state` that can be set, film it while "
                "it acts (evaluate(..., film=FOLDER)), or choose data that keep either"
            )
        task = self.task or segment.task
        name = segment.task if self.task is None else self.task.id
        if name not in self._renderers:
            from prefenvs.envs.rendering.renderer import Renderer

            width, height = self._box(None, None)
            self._renderers[name] = Renderer(task, width, height, self.quality, self.hide_robot)
        return list(self._renderers[name].frames(segment.states[steps], segment.scene))

    def _recorded(self, segment: Segment, steps: Array, camera: Camera) -> list[Array]:
        if self.hide_robot:
            raise PrefenvsError(f"episode {segment.episode} of {segment.source!r} was recorded by cameras, which show "
                                "the robot: leave hide_robot out")  # fmt: skip
        assert segment.recording is not None
        try:
            box = self._box(segment.recording, camera)
            return [fit(frame, box) for frame in read_frames(segment.recording, steps, camera)]
        except PrefenvsError as error:
            name = f"episode {segment.episode} of {segment.source!r}"
            raise PrefenvsError(
                f"{name} cannot be shown: {error}; where data are read, --skip-damaged leaves it out"
            ) from error

    def _chosen(self, recording: Recording) -> list[Camera]:
        return [recording.camera(name) for name in self.cameras] or list(recording.cameras)

    def _box(self, recording: Recording | None, camera: Camera | None) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        if recording is None or camera is None:
            return self.size, self.size
        width, height = frame_size(recording, camera)
        side = self.size
        if not self.enlarge:
            side = min(side, max(frame_size(recording, one)[1] for one in self._chosen(recording)))
        # Even, as videos are.
        return max(2, 2 * round(side * width / height / 2)), side


def as_colours(picture: Array) -> Array:
    """Return a picture observation [C, H, W] as [H, W, 3]: the newest three channels of a stack, or grey."""
    channels = picture[-3:] if len(picture) % 3 == 0 else np.repeat(picture[-1:], 3, axis=0)
    return np.ascontiguousarray(np.moveaxis(channels, 0, -1))


def frames(segment: Segment, steps: Array | Sequence[int] | None = None, size: int | tuple[int, int] = 256) -> Array:
    """Return the frames [n, H, W, 3] uint8 of a segment at `steps` [n], by default at all: see `SegmentFrames`."""
    with SegmentFrames(size) as source:
        return source.frames(segment, steps)
