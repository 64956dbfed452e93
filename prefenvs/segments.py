"""Segments: the short pieces of behaviour that raters compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from prefenvs.errors import PrefenvsError

if TYPE_CHECKING:
    from prefenvs.frames.recording import Recording

Array = npt.NDArray[Any]
_STEPS = ("observations", "actions", "true_rewards", "states")


def _bytes_of(array: Array | None) -> bytes:
    if array is None:
        return b"-"
    array = np.ascontiguousarray(array)
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()


def short_repr(record: Any) -> str:
    """Return the `repr` of a data class: the fields that say something, longer arrays by type and shape."""
    parts = []
    for one in fields(record):
        value = getattr(record, one.name)
        if isinstance(value, np.ndarray):
            shown = value.tolist() if value.ndim == 1 and value.size <= 8 else f"{value.dtype}{[*value.shape]}"
        elif value == one.default:
            continue
        else:
            shown = f"[{len(value)}]" if one.name == "recordings" else repr(value)
        parts.append(f"{one.name}={shown}")
    return f"{type(record).__name__}({', '.join(parts)})"


@dataclass(frozen=True, eq=False)
class Segment:
    """T consecutive steps of one episode.

    observations: [T, obs], or pictures [T, C, H, W] uint8.
    actions: [T, act], in the units of the task's action space, one-hot where it is discrete.
    true_rewards: [T], privileged: synthetic oracles and evaluation read it, learners never do; None where unknown.
    states: [T, s] float64, the simulator state that each observation was made from; None where it was not recorded.
    scene: [m] float64, model arrays that the task set at reset (Meta-World's body and site positions); else None.
    task, source, episode, start: where it comes from; source names the run or data set.
    recording: what cameras saw at these steps, by reference to their files; None where there were none.
    """

    observations: Array
    actions: Array
    true_rewards: Array | None = None
    states: Array | None = None
    scene: Array | None = None
    task: str = ""
    source: str = ""
    episode: int = -1
    start: int = -1
    recording: Recording | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        for name in ("actions", "true_rewards", "states", "recording"):
            array = getattr(self, name)
            if array is not None and len(array) != len(self.observations):
                raise PrefenvsError(f"Segment.{name} has {len(array)} steps, but observations have {len(self)}")

    def __len__(self) -> int:
        return len(self.observations)

    def padded(self, steps: int) -> Segment:
        """Return the segment with `steps` steps in all: it stays where it ended, with actions and rewards of 0.

        So whole episodes of different lengths can be compared. A recording ends with the episode, so it is left out.
        """
        more = steps - len(self)
        if more <= 0:
            return self

        def extended(array: Array | None, still: bool) -> Array | None:
            if array is None:
                return None
            last = array[-1:] if still else np.zeros_like(array[-1:])
            grown: Array = np.concatenate([array, np.repeat(last, more, axis=0)])
            return grown

        arrays: dict[str, Any] = {
            name: extended(getattr(self, name), name in ("observations", "states")) for name in _STEPS
        }
        return replace(self, **arrays, recording=None)

    def cut(self, start: int, stop: int) -> Segment:
        """Return the steps from `start` to before `stop`, as a segment of the same episode."""
        kept = slice(start, min(stop, len(self)))

        def pick(array: Array | None) -> Array | None:
            return None if array is None else array[kept]

        return replace(
            self,
            observations=self.observations[kept],
            actions=self.actions[kept],
            true_rewards=pick(self.true_rewards),
            states=pick(self.states),
            start=self.start + start if self.start >= 0 else self.start,
            recording=None if self.recording is None else self.recording.cut(start, kept.stop - start),
        )

    @property
    def visible(self) -> bool:
        """Whether there are pictures of it: recorded ones, such as are drawn from its states, or its observations."""
        return self.recording is not None or self.states is not None or self.observations.ndim == 4

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of what a rater can be shown: task, arrays and recording, not the rewards."""
        digest = hashlib.sha256(self.task.encode())
        for array in (self.observations, self.actions, self.states, self.scene):
            digest.update(_bytes_of(array))
        if self.recording is not None:
            digest.update(self.recording.hash.encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class SegmentBatch:
    """N segments of one length and one task as arrays; iterating and indexing by an integer give `Segment` views.

    observations: [N, T, obs]; actions: [N, T, act]; true_rewards: [N, T]; states: [N, T, s] float64; scenes: [N, m].
    episodes, starts: [N] int64; recordings: one for each segment. The optional ones are None where `Segment` says they
    may be.
    """

    observations: Array
    actions: Array
    true_rewards: Array | None = None
    states: Array | None = None
    scenes: Array | None = None
    episodes: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    starts: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    task: str = ""
    source: str = ""
    recordings: tuple[Recording, ...] | None = None

    __repr__ = short_repr

    def __post_init__(self) -> None:
        n, t = self.observations.shape[:2]
        for name in ("episodes", "starts"):
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(n, -1, np.int64))
        per_step, per_segment = ("actions", "true_rewards", "states"), ("scenes", "episodes", "starts")
        for name, lead in [(name, (n, t)) for name in per_step] + [(name, (n,)) for name in per_segment]:
            array = getattr(self, name)
            if array is not None and array.shape[: len(lead)] != lead:
                raise PrefenvsError(f"SegmentBatch.{name} has shape {array.shape}, which must begin with {lead}")
        if self.recordings is not None and len(self.recordings) != n:
            raise PrefenvsError(f"SegmentBatch.recordings has {len(self.recordings)} entries for {n} segments")

    def __len__(self) -> int:
        return len(self.observations)

    @property
    def length(self) -> int:
        """Steps in each segment, T."""
        return int(self.observations.shape[1])

    @overload
    def __getitem__(self, index: int) -> Segment: ...
    @overload
    def __getitem__(self, index: slice | Array | Sequence[int]) -> SegmentBatch: ...
    def __getitem__(self, index: int | slice | Array | Sequence[int]) -> Segment | SegmentBatch:
        def pick(array: Array | None) -> Any:
            return None if array is None else array[index]

        arrays = pick(self.observations), pick(self.actions), pick(self.true_rewards), pick(self.states)
        scenes = pick(self.scenes)
        recordings = self.recordings
        if isinstance(index, int | np.integer):
            ids = int(self.episodes[index]), int(self.starts[index])
            return Segment(
                *arrays, scenes, self.task, self.source, *ids, None if recordings is None else recordings[index]
            )
        if recordings is not None:
            recordings = tuple(recordings[i] for i in np.arange(len(self))[index].tolist())
        return SegmentBatch(
            *arrays, scenes, self.episodes[index], self.starts[index], self.task, self.source, recordings
        )

    def __iter__(self) -> Iterator[Segment]:
        return (self[i] for i in range(len(self)))
