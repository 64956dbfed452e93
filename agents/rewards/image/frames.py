"""Which frames of labelled segments are looked at, and those frames on the device, each once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from prefenvs.errors import PrefenvsError
from prefenvs.frames.cache import frame_keys
from prefenvs.preferences import Query
from prefenvs.segments import Array, Segment
from prefenvs.tasks import is_same_task

See = Callable[[list[tuple[Segment, int]]], Tensor]

# Frames rendered and encoded at once.
CHUNK = 256


def frame_steps(length: int, stride: int) -> Array:
    """Return the steps [F] of a segment that are looked at: every `stride`-th, and always the last."""
    steps: Array = np.arange(length - 1, -1, -stride)[::-1]
    return steps


def check_task(segment: Segment, task: str) -> None:
    """Raise a PrefenvsError for a segment of another task."""
    if segment.task and not is_same_task(segment.task, task):
        raise PrefenvsError(f"an image reward of task {task!r} cannot look at a segment of {segment.task!r}")


class FrameTable:
    """Inputs [U, ...] of the U different frames of labelled segments: pixels, or an encoder's features."""

    def __init__(self, task: str, stride: int, see: See, device: torch.device, cameras: tuple[str, ...] = ()) -> None:
        """`see`: makes the inputs [N, ...] of segments at a step each; `cameras`: recorded views, see `frame_keys`."""
        self.task, self.stride, self.device, self.cameras = task, stride, device, cameras
        self._see = see
        self._rows: dict[bytes, int] = {}
        self.inputs = torch.zeros(0, device=device)
        self.most_segments = 0

    def __len__(self) -> int:
        return len(self._rows)

    def sync(self, queries: Sequence[Query]) -> Tensor:
        """Add the frames of these queries; return their rows [N, K, F] int64, -1 where there is no such frame."""
        chosen = {
            (i, j): frame_steps(len(segment), self.stride)
            for i, query in enumerate(queries)
            for j, segment in enumerate(query.segments)
        }
        shape = (len(queries), max(len(query.segments) for query in queries), max(len(f) for f in chosen.values()))
        self.most_segments = shape[1]
        rows = np.full(shape, -1, np.int64)
        new: dict[bytes, tuple[Segment, int]] = {}
        for (i, j), steps in chosen.items():
            segment = queries[i].segments[j]
            for f, key in enumerate(self._keys(segment, steps)):
                if key not in self._rows:
                    self._rows[key] = len(self._rows)
                    new[key] = segment, int(steps[f])
                rows[i, j, f] = self._rows[key]
        try:
            self._add(list(new.values()))
        except BaseException:
            # What was not seen must not be taken for held.
            for key in new:
                del self._rows[key]
            raise
        return torch.from_numpy(rows).to(self.device)

    def _keys(self, segment: Segment, steps: Array) -> Sequence[bytes]:
        """Return what tells the frames of a segment at these steps from all others."""
        check_task(segment, self.task)
        return frame_keys(segment, steps, self.cameras)

    def _add(self, new: list[tuple[Segment, int]]) -> None:
        parts = [self.inputs] if len(self.inputs) else []
        parts += [self._see(new[start : start + CHUNK]) for start in range(0, len(new), CHUNK)]
        if new:
            self.inputs = torch.cat(parts)
