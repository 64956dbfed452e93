"""Frames of stored states, each rendered once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np

from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task


def state_keys(states: Array, scenes: Array | None = None) -> list[bytes]:
    """Return the hash of each state [N, s], with its episode's scene [N, m] where the task has one."""
    rows = np.ascontiguousarray(states, np.float64)
    set_by = None if scenes is None else np.ascontiguousarray(scenes, np.float64)
    return [
        hashlib.blake2b(row.tobytes() + (b"" if set_by is None else set_by[i].tobytes()), digest_size=16).digest()
        for i, row in enumerate(rows)
    ]


class FrameCache(Closing):
    """Frames of a task's states at one size; what has been rendered is kept as uint8, the oldest is dropped first.

    A frame depends on state and scene alone, so their hash is its name. The renderer is made when first needed. Close
    it, or use it in a `with` statement.
    """

    def __init__(self, task: Task | str, size: int = 64, capacity: int = 100_000, hide_robot: bool = False) -> None:
        """`size`: width and height in pixels; `capacity`: frames kept (at 64 pixels, 100,000 are 1.2 GB)."""
        if capacity < 0:
            raise PrefenvsError(f"a cache cannot keep {capacity} frames: choose 0 (none) or more")
        self.task = find_task(task) if isinstance(task, str) else task
        self.size, self.capacity, self.hide_robot = size, capacity, hide_robot
        self.rendered = 0
        self._kept: OrderedDict[bytes, Array] = OrderedDict()
        self._renderer: Renderer | None = None

    def __len__(self) -> int:
        """Frames kept."""
        return len(self._kept)

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
        for key in found:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
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
