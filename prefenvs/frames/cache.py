"""Frames of states and recordings, each rendered or decoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.errors import PrefenvsError
from prefenvs.frames.source import SegmentFrames
from prefenvs.internal.closing import Closing
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task, find_task, is_same_task


def state_keys(states: Array, scenes: Array | None = None) -> list[bytes]:
    """Return the hash of each state [N, s], with its episode's scene [N, m] where the task has one."""
    rows = np.ascontiguousarray(states, np.float64)
    set_by = None if scenes is None else np.ascontiguousarray(scenes, np.float64)
    return [
        hashlib.blake2b(row.tobytes() + (b"" if set_by is None else set_by[i].tobytes()), digest_size=16).digest()
        for i, row in enumerate(rows)
    ]


def frame_keys(segment: Segment, steps: Array, cameras: tuple[str, ...] = ()) -> list[bytes]:
    """Return the hash of what a segment shows at each of the steps [n].

    cameras: recorded views, by default the first. Raises PrefenvsError for a segment that nothing can be shown of.
    """
    if segment.recording is not None:
        return segment.recording.frame_keys(steps, cameras)
    if segment.states is None:
        raise PrefenvsError(
            f"a segment of task {segment.task!r}, source {segment.source!r}, carries no simulator states and no "
            "recording, so there is no picture of it: collect it with prefenvs.make or `prefenvs collect`"
        )
    scenes = None if segment.scene is None else np.repeat(segment.scene[None], len(steps), 0)
    return state_keys(segment.states[steps], scenes)


class FrameCache(Closing):
    """Frames of a task at one size; what has been rendered or decoded is kept as uint8, the oldest is dropped first.

    A frame of a state depends on state and scene alone, so their hash is its name. The renderer is made when first
    needed. Close it, or use it in a `with` statement.
    """

    def __init__(
        self,
        task: Task | str,
        size: int = 64,
        capacity: int = 100_000,
        hide_robot: bool = False,
        cameras: Sequence[str] = (),
    ) -> None:
        """Choose the picture.

        size: width and height in pixels; capacity: frames kept (at 64 pixels, 100,000 are 1.2 GB); cameras: recorded
        views, by default the first of each recording.
        """
        if capacity < 0:
            raise PrefenvsError(f"a cache cannot keep {capacity} frames: choose 0 (none) or more")
        self.task = find_task(task) if isinstance(task, str) else task
        self.size, self.capacity, self.hide_robot = size, capacity, hide_robot
        self.cameras = tuple(cameras)
        self.rendered = 0
        self._kept: OrderedDict[bytes, Array] = OrderedDict()
        self._renderer: Renderer | None = None

    def __len__(self) -> int:
        """Frames kept."""
        return len(self._kept)

    def look(self, segment: Segment, steps: Array) -> Array:
        """Return the views [n, C, size, size, 3] uint8 of a segment at the steps [n], of C cameras or of one drawing.

        Raises PrefenvsError for another task's segment, and where nothing can be shown of it.
        """
        if segment.task and not is_same_task(segment.task, self.task.id):
            raise PrefenvsError(f"pictures of task {self.task.id!r} cannot be made of a segment of {segment.task!r}")
        steps, recording = np.asarray(steps, np.int64), segment.recording
        if recording is None:
            frame_keys(segment, steps[:0])
            assert segment.states is not None
            scenes = None if segment.scene is None else np.repeat(segment.scene[None], len(steps), 0)
            return self.frames(segment.states[steps], scenes)[:, None]
        keys = recording.frame_keys(steps, self.cameras)
        found = {key: views for key in keys if (views := self._kept.get(key)) is not None}
        missing = {key: step for key, step in zip(keys, steps.tolist(), strict=True) if key not in found}
        if missing:
            names = self.cameras or (recording.cameras[0].name,)
            source = SegmentFrames((self.size, self.size), hide_robot=self.hide_robot, cameras=names)
            found |= dict(zip(missing, source.views(segment, list(missing.values())), strict=True))
            self.rendered += len(missing)
        self._keep(found)
        shape = (0, max(len(self.cameras), 1), self.size, self.size, 3)
        return np.stack([found[key] for key in keys]) if keys else np.empty(shape, np.uint8)

    def _keep(self, found: dict[bytes, Array]) -> None:
        for key in found:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)

    def frames(self, states: Array, scenes: Array | None = None) -> Array:
        """Return the frames [N, size, size, 3] uint8 of states [N, s]; scenes [N, m] where the task has them.

        Equal states are rendered once. Raises PrefenvsError as `Renderer.frames` does, and for states that are None.
        """
        if states is None:
            raise PrefenvsError(f"there are no simulator states of {self.task.id!r} to make pictures of: record them")
        keys = state_keys(states, scenes)
        found = {key: frame for key in keys if (frame := self._kept.get(key)) is not None}
        missing = {key: i for i, key in enumerate(keys) if key not in found}
        found |= self._render(missing, np.asarray(states), scenes)
        self._keep(found)
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.size, self.size, 3), np.uint8)

    def _render(self, missing: dict[bytes, int], states: Array, scenes: Array | None) -> dict[bytes, Array]:
        """Render rows of states, those of one scene together."""
        if not missing:
            return {}
        if self._renderer is None:
            self._renderer = Renderer(self.task, self.size, self.size, hide_robot=self.hide_robot)
        groups: dict[bytes, list[tuple[bytes, int]]] = {}
        for key, row in missing.items():
            groups.setdefault(b"" if scenes is None else scenes[row].tobytes(), []).append((key, row))
        made: dict[bytes, Array] = {}
        for members in groups.values():
            rows = [row for _, row in members]
            frames = self._renderer.frames(states[rows], None if scenes is None else scenes[rows[0]])
            # Copies: a view would keep the frames of all its neighbours in memory.
            made |= {key: frame.copy() for (key, _), frame in zip(members, frames, strict=True)}
        self.rendered += len(missing)
        return made

    def close(self) -> None:
        """Free the renderer; the frames kept stay, and a new renderer is made if one is needed."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
