"""A fixed data set on the training device: transitions and labelled segments as numbers of rows in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference
from prefenvs.segments import Array, SegmentBatch
from prefenvs.tasks import is_same_task
from prefenvs.trajectories import Trajectories


class Batch(NamedTuple):
    """B transitions: observations, next_observations [B, obs]; actions [B, act]; rewards, continues [B].

    `continues` is 0 where the task ended the episode, so that nothing is bootstrapped there, else 1.
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    rewards: Tensor
    continues: Tensor


@dataclass(eq=False)
class StepTable:
    """S steps of E episodes on the training device, each stored once.

    observations: [S or S + E, obs], normalised; the last E rows are what was seen after each episode, where known.
    actions: [S, act], scaled to [-1, 1] by the task's bounds. rows, next_rows: [N] int32, the rows that a transition
    leads from and to. continues: [N], 0 after which the task ended the episode. rewards: [N], once a learner set them.
    On a CPU the arrays are the data set's own where nothing had to be changed in them.
    """

    observations: Tensor
    actions: Tensor
    rows: Tensor
    next_rows: Tensor
    continues: Tensor
    rewards: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, shared ones included."""
        tensors = (self.observations, self.actions, self.rows, self.next_rows, self.continues, self.rewards)
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draw transitions with replacement, without leaving the device."""
        assert self.rewards is not None
        chosen = torch.randint(len(self.rows), (size,), device=self.rows.device, generator=generator)
        rows, next_rows = self.rows[chosen], self.next_rows[chosen]
        observations, next_observations = self.observations[rows], self.observations[next_rows]
        return Batch(observations, self.actions[rows], next_observations, self.rewards[chosen], self.continues[chosen])

    def draw_steps(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw observations [size, obs] and actions [size, act] of single steps, the last ones of episodes included."""
        rows = torch.randint(len(self.actions), (size,), device=self.actions.device, generator=generator)
        return self.observations[rows], self.actions[rows]


@dataclass(eq=False)
class PairTable:
    """P labelled pairs of segments as row numbers in a `StepTable`.

    starts: [P, 2] int64, each segment's first row; lengths: [P, 2] int64, its steps, at most T = `length`.
    targets: [P, 2] float32, the chance that each is preferred. skipped: answers that were left out.
    ragged: whether some segment is shorter than T.
    """

    starts: Tensor
    lengths: Tensor
    targets: Tensor
    length: int
    skipped: int = 0
    ragged: bool = False

    def __len__(self) -> int:
        return len(self.starts)


def build_step_table(
    dataset: OfflineDataset, center: Array, half_width: Array, mean: Array, std: Array, device: torch.device
) -> StepTable:
    """Put a data set on the device: actions as (a - center) / half_width, observations as (o - mean) / std.

    Raises PrefenvsError for data without any transition.
    """
    data = dataset.trajectories
    ends, last = data.ends, data.ends - 1
    terminal = np.zeros(len(data.observations), bool)
    if dataset.terminals is not None:
        terminal = dataset.terminals
    elif data.terminated is not None:
        terminal[last] = data.terminated
    next_rows = np.arange(1, len(data.observations) + 1, dtype=np.int32)
    # Nothing is bootstrapped after a terminal step, so its own row stands in for the one that follows it.
    next_rows[last] = last
    rows = np.arange(len(data.observations), dtype=np.int32)
    if data.final_observations is not None:
        next_rows[last] = len(data.observations) + np.arange(len(ends))
    else:
        rows = np.delete(rows, last[~terminal[last]])
    if not len(rows):
        raise PrefenvsError(f"data set {dataset.name!r} has no transition whose next observation is known")
    table = StepTable(
        observations=_upload(data.observations, data.final_observations, mean, std, device),
        actions=_upload(data.actions, None, center, half_width, device),
        rows=torch.from_numpy(rows).to(device),
        next_rows=torch.from_numpy(next_rows[rows]).to(device),
        continues=torch.from_numpy(1.0 - terminal[rows].astype(np.float32)).to(device),
    )
    return table


def _upload(array: Array, more: Array | None, mean: Array, std: Array, device: torch.device) -> Tensor:
    parts = [torch.from_numpy(np.asarray(part, np.float32)) for part in (array, more) if part is not None]
    table = torch.cat([part.to(device) for part in parts]) if len(parts) > 1 else parts[0].to(device)
    if np.any(mean != 0.0) or np.any(std != 1.0):
        if device.type == "cpu" and len(parts) == 1:
            table = table.clone()
        table.sub_(torch.as_tensor(mean, dtype=torch.float32, device=device))
        table.div_(torch.as_tensor(std, dtype=torch.float32, device=device))
    return table


def build_pair_table(preferences: Sequence[Preference], trajectories: Trajectories, device: torch.device) -> PairTable:
    """Find the segments of answered pairs in the data set; skips are left out and counted.

    Raises PrefenvsError for an empty set, one of skips only, queries of other than two segments, and segments that are
    not in the data set: of another task, past the end, or with other observations.
    """
    check_answers(preferences)
    answered = [preference for preference in preferences if not preference.skipped]
    for preference in answered:
        if len(preference.query.segments) != 2:
            raise PrefenvsError(
                f"a query compares {len(preference.query.segments)} segments, but this learner takes pairs of them"
            )
    segments = [segment for preference in answered for segment in preference.query.segments]
    named = {segment.task for segment in segments if segment.task}
    tasks = sorted(task for task in named if not is_same_task(task, trajectories.task))
    if tasks and trajectories.task:
        raise PrefenvsError(f"the preferences are of task {tasks[0]!r}, but the data set is of {trajectories.task!r}")
    episodes = np.array([segment.episode for segment in segments], np.int64)
    lengths = np.array([len(segment) for segment in segments], np.int64)
    starts = find_rows(trajectories, episodes, np.array([segment.start for segment in segments], np.int64), lengths)
    _check_content(trajectories, starts, np.stack([segment.observations[0] for segment in segments]))
    _check_content(trajectories, starts + lengths - 1, np.stack([segment.observations[-1] for segment in segments]))
    targets = np.asarray([preference.probabilities for preference in answered], np.float32)
    return PairTable(
        torch.from_numpy(starts.reshape(-1, 2)).to(device),
        torch.from_numpy(lengths.reshape(-1, 2)).to(device),
        torch.from_numpy(targets).to(device),
        length=int(lengths.max()),
        skipped=len(preferences) - len(answered),
        ragged=bool(lengths.min() < lengths.max()),
    )


def find_rows(trajectories: Trajectories, episodes: Array, starts: Array, lengths: Array) -> Array:
    """Return the row [N] of each segment's first step, given its episode's number, start and length.

    Raises PrefenvsError for segments that are not in the data.
    """
    known = trajectories.episode_numbers
    positions = np.searchsorted(known, episodes).clip(max=len(known) - 1)
    outside = np.flatnonzero(known[positions] != episodes)
    if len(outside):
        raise PrefenvsError(
            f"the preferences name episode {episodes[outside[0]]}, but the data set has episodes "
            f"{known[0]} to {known[-1]}: they were made from other data"
        )
    past = np.flatnonzero((starts < 0) | (starts + lengths > trajectories.lengths[positions]))
    if len(past):
        i = past[0]
        raise PrefenvsError(
            f"the preferences name steps {starts[i]} to {starts[i] + lengths[i] - 1} of episode {episodes[i]}, which "
            f"has {trajectories.lengths[positions[i]]} steps: they were made from other data"
        )
    rows: Array = trajectories.begins[positions] + starts
    return rows


def check_answers(preferences: Sequence[Preference]) -> None:
    """Raise a PrefenvsError unless at least one preference holds an answer."""
    if not preferences:
        raise PrefenvsError("the set of preferences is empty: label some queries first")
    if all(preference.skipped for preference in preferences):
        raise PrefenvsError(f"all {len(preferences)} labels are skips, so there is nothing to learn from: label more")


def _check_content(trajectories: Trajectories, rows: Array, observations: Array) -> None:
    expected = trajectories.observations[rows]
    if expected.shape != observations.shape:
        raise PrefenvsError(
            f"the preferences show observations of {observations.shape[1]} numbers, but the data set's have "
            f"{expected.shape[1]}: they are of another task"
        )
    different = np.flatnonzero(~np.isclose(expected, observations, rtol=1e-4, atol=1e-5).all(1))
    if len(different):
        raise PrefenvsError(
            f"{len(different)} of {len(rows)} labelled segments do not show what the data set holds at their place: "
            "the preferences were made from other data"
        )


@dataclass(frozen=True, eq=False)
class RankedSegments:
    """N segments of a data set and a score for each, by which every two of them are compared ("dense" labels).

    scores: [N]; the higher one is preferred, equal ones are tied. segments tell episode and start.
    """

    segments: SegmentBatch
    scores: Array

    def __post_init__(self) -> None:
        if len(self.segments) < 2 or self.scores.shape != (len(self.segments),):
            raise PrefenvsError(
                f"a ranking needs at least 2 segments and a score for each, got {len(self.segments)} and "
                f"scores of shape {list(self.scores.shape)}"
            )
