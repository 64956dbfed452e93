"""D4RL's data sets: its HDF5 files, by its names or by path, without its package.

Layout of a file: `observations`, `actions`, `rewards`, `terminals` and, in later versions, `timeouts`,
`next_observations` and `infos/*`, each with one row a step, the episodes end to end. Names, reference scores and
addresses are those that D4RL publishes (Fu et al. 2020).
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.d4rl.download import download
from prefenvs.datasets.d4rl.hdf5 import column_bytes, find, find_column, open_hdf5
from prefenvs.datasets.formats.columns import read_flags
from prefenvs.datasets.formats.flat import episode_ends, time_limits
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

# Rows read at once where only a few of them are kept.
BLOCK = 8_192
# Tasks with the observations and actions of D4RL's, by the first part of its names. Its ant, mazes and kitchen show
# other observations than the maintained versions of these tasks do.
TASKS = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "door": "d4rl-door-v1",
    "hammer": "d4rl-hammer-v1",
    "pen": "d4rl-pen-v1",
    "relocate": "d4rl-relocate-v1",
}
# Of these the observation is all positions but the first, then all velocities; so states can be checked against it.
LOCOMOTION = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
# Steps until D4RL's time limit, for files without `timeouts`; the longest prefix of the name counts.
HORIZONS = {
    "halfcheetah": 1000, "hopper": 1000, "walker2d": 1000, "ant": 1000,
    "antmaze-umaze": 700, "antmaze": 1000,
    "maze2d-open": 150, "maze2d-umaze": 300, "maze2d-medium": 600, "maze2d-large": 800,
    "pen": 100, "door": 200, "hammer": 200, "relocate": 200, "kitchen": 280,
}  # fmt: skip
# What keeps a score on these tasks from being D4RL's, beside the simulator and the time limit, by the same part.
DIFFERENCES = {
    "hopper": "version 5 pays for health only while healthy; a last step differs by 1",
    "walker2d": "version 5 pays for health only while healthy, and both feet have the same friction",
}
# An ant that is this many metres away one step later was put there by a reset.
JUMP = 1.0


@dataclass(frozen=True)
class D4RLEntry:
    """What D4RL publishes of one data set.

    scores: true returns of a random policy and of an expert, None where it publishes none; address: of its file.
    """

    name: str
    scores: tuple[float, float] | None
    address: str

    @property
    def task(self) -> str:
        """Id of the task with the same observations and actions, empty where there is none."""
        return TASKS.get(self.name.split("-")[0], "")

    @property
    def differs(self) -> str:
        """What keeps a score on `task` from being D4RL's, beside simulator and time limit; empty where nothing does."""
        return DIFFERENCES.get(self.name.split("-")[0], "")

    @property
    def file(self) -> str:
        """Name of the file at the address."""
        return self.address.rsplit("/", 1)[-1]

    @property
    def horizon(self) -> int | None:
        """Steps until D4RL's time limit, None where unknown."""
        prefixes = [prefix for prefix in HORIZONS if self.name.startswith(f"{prefix}-")]
        return HORIZONS[max(prefixes, key=len)] if prefixes else None


@cache
def d4rl_entries() -> dict[str, D4RLEntry]:
    """Return every D4RL data set by name."""
    text = files("prefenvs.datasets.d4rl").joinpath("reference.csv").read_text(encoding="utf-8")
    return {
        row["name"]: D4RLEntry(
            row["name"], (float(row["random"]), float(row["expert"])) if row["random"] else None, row["address"]
        )
        for row in csv.DictReader(text.splitlines())
    }


def find_d4rl(name: str) -> D4RLEntry:
    """Return what D4RL publishes of a data set; "d4rl/" in front is allowed.

    Raises PrefenvsError for an unknown name.
    """
    name = name.removeprefix("d4rl/")
    if name not in d4rl_entries():
        raise PrefenvsError(f"D4RL has no data set {name!r}.{near_matches(name, d4rl_entries())}")
    return d4rl_entries()[name]


def d4rl_folder() -> Path:
    """Return where D4RL keeps its files: the environment variable D4RL_DATASET_DIR, else ~/.d4rl/datasets."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or Path.home() / ".d4rl" / "datasets")


def load_d4rl(name: str, task: str | None = None, folder: Path | None = None) -> OfflineDataset:
    """Load a data set by D4RL's name from `folder` (default: `d4rl_folder()`), after a download where it is not there.

    Raises PrefenvsError for an unknown name, and where the file is neither there nor to be had.
    """
    entry = find_d4rl(name)
    path = (folder or d4rl_folder()) / entry.file
    if not path.is_file():
        download(entry.address, path)
    return read_d4rl(path, task, entry=entry)


def read_d4rl(
    path: str | Path,
    task: str | None = None,
    *,
    entry: D4RLEntry | None = None,
    horizon: int | None = None,
    split_at_goals: bool | None = None,
) -> OfflineDataset:
    """Read a file of D4RL's layout.

    An episode ends where `terminals` or `timeouts` says so, and at the file's end. A file without `timeouts` is cut
    after every `horizon` steps without an end (default: D4RL's time limit, else the task's). Files in parts
    (`virtual/0`, `virtual/1`, ...) are joined; rewards and flags of shape (N, 1) are squeezed. Where the file has
    `next_observations`, what was seen after each episode's last step is kept. Where it has `infos/qpos` and
    `infos/qvel` that give the observations of a locomotion task, these become states that can be rendered.

    task, entry: of the data, by default recognised by the file's name. split_at_goals: for mazes, whose files mark
    every step at the goal as terminal while the recording goes on; then an episode ends where `infos/goal` changes, at
    a time-out, and at a terminal step after which the ant is somewhere else. By default so for antmaze.
    Raises PrefenvsError for a file that is no HDF5, lacks keys, or holds arrays of other shapes.
    """
    path = Path(path)
    entry = entry or _recognise(path)
    task = (entry.task if entry else "") if task is None else (find_task(task).id if task else "")
    with open_hdf5(path) as file:
        parts = _parts(file, path)
        _check_sizes(parts, path)
        observations = _read(parts, "observations", path, np.float32, axes=2)
        steps = len(observations)
        if not steps:
            raise PrefenvsError(f"{path} holds no steps")
        actions = _read(parts, "actions", path, np.float32, axes=2, steps=steps)
        rewards = _read(parts, "rewards", path, np.float64, steps=steps)
        terminals = _read_flags(parts, "terminals", path, steps)
        if find(parts[0], "timeouts", path) is not None:
            timeouts = _read_flags(parts, "timeouts", path, steps)
        else:
            timeouts = time_limits(terminals, horizon or _horizon(entry, task, path))
        if split_at_goals is None:
            split_at_goals = entry is not None and entry.name.startswith("antmaze")
        ends = _goal_ends(parts, observations, terminals, timeouts, path) if split_at_goals else None
        ends = episode_ends(terminals, timeouts) if ends is None else ends
        trajectories = Trajectories(
            observations,
            actions,
            ends,
            rewards,
            _states(parts, observations, ends, task, path),
            terminated=terminals[ends - 1],
            task=task,
            source=f"d4rl/{entry.name}" if entry else str(path),
            final_observations=_final_observations(parts, ends, observations, path),
        )
    name = f"d4rl/{entry.name}" if entry else str(path)
    scores, limit = (entry.scores, entry.horizon) if entry else (None, horizon)
    return OfflineDataset(name, trajectories, terminals, timeouts, scores, horizon=limit)


def _recognise(path: Path) -> D4RLEntry | None:
    """The data set whose file or name this is, if any."""
    known = d4rl_entries()
    return known.get(path.stem) or next((entry for entry in known.values() if entry.file == path.name), None)


def _horizon(entry: D4RLEntry | None, task: str, path: Path) -> int:
    horizon = entry.horizon if entry else None
    if horizon is None and not task:
        raise PrefenvsError(f"{path} has no 'timeouts' and no known time limit: pass horizon=<steps>, or task=<id>")
    return horizon or find_task(task).horizon


def _parts(file: Any, path: Path) -> list[Any]:
    """The groups that hold the arrays: the file itself, or its parts in the order of their numbers."""
    virtual = find(file, "virtual", path)
    if "observations" not in file and virtual is not None:
        bad = next((key for key in virtual if not key.isdecimal()), None)
        if bad is not None or not len(virtual):
            raise PrefenvsError(f"{path} is not of D4RL's layout: its parts are numbered, but one is {bad!r}")
        return [find(virtual, key, path) for key in sorted(virtual, key=int)]
    missing = [key for key in ("observations", "actions", "rewards", "terminals") if key not in file]
    if missing:
        raise PrefenvsError(f"{path} is not of D4RL's layout: it has no {missing[0]!r}, only {', '.join(file)}")
    return [file]


def _check_sizes(parts: list[Any], path: Path) -> None:
    """Raise a PrefenvsError where what will be read takes more memory than the limit."""
    keys = ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel", "infos/goal")
    columns = [find_column(part, key, path) for part in parts for key in keys]
    check_size(sum(column_bytes(column) for column in columns if column is not None), path)


def _columns(parts: list[Any], key: str, path: Path, axes: int) -> list[Any]:
    """The data sets at `key` in all parts, of numbers with so many axes."""
    columns = []
    for part in parts:
        column = find_column(part, key, path)
        if column is None:
            raise PrefenvsError(f"{path} is not of D4RL's layout: {part.name} has no {key!r}")
        squeezable = axes == 1 and column.ndim == 2 and column.shape[1] == 1
        if (column.ndim != axes and not squeezable) or column.dtype.kind not in "biuf":
            raise PrefenvsError(
                f"{key} in {path} have shape {column.shape} and type {column.dtype}; expected numbers of "
                f"{'shape (steps, entries)' if axes == 2 else 'shape (steps,)'}"
            )
        columns.append(column)
    if len({column.shape[1:] for column in columns}) > 1:
        raise PrefenvsError(f"{key} in {path} have different shapes in its parts")
    return columns


def _read(parts: list[Any], key: str, path: Path, dtype: Any, axes: int = 1, steps: int | None = None) -> Array:
    """Read one array from all parts into one block of memory, converted on the way."""
    columns = _columns(parts, key, path, axes)
    total = sum(len(column) for column in columns)
    if steps is not None and total != steps:
        raise PrefenvsError(f"{path} has {steps} observations, but {total} {key}")
    array = np.empty((total, *columns[0].shape[1:]), dtype)
    begin = 0
    for column in columns:
        if len(column) and array.size:
            column.read_direct(array, dest_sel=np.s_[begin : begin + len(column)])
        begin += len(column)
    return array.reshape(total) if axes == 1 else array


def _read_flags(parts: list[Any], key: str, path: Path, steps: int) -> Array:
    """Read flags of any number type; HDF5 itself turns none but its own booleans into booleans."""
    columns = _columns(parts, key, path, axes=1)
    total = sum(len(column) for column in columns)
    if total != steps:
        raise PrefenvsError(f"{path} has {steps} observations, but {total} {key}")
    return np.concatenate([read_flags(column[()], f"{key} in {path}", len(column)) for column in columns])


def _final_observations(parts: list[Any], ends: Array, observations: Array, path: Path) -> Array | None:
    """Pick what was seen after each episode's last step, block by block, from `next_observations` if there are any."""
    columns = [find_column(part, "next_observations", path) for part in parts]
    if any(column is None for column in columns) or not len(ends):
        return None
    final = np.empty((len(ends), observations.shape[1]), np.float32)
    begin = 0
    for part, column in zip(parts, columns, strict=True):
        if column.shape[1:] != observations.shape[1:] or len(column) != len(part["observations"]):
            raise PrefenvsError(f"next_observations in {path} have shape {column.shape}, unlike its observations")
        if column.dtype.kind not in "biuf":
            raise PrefenvsError(f"next_observations in {path} are of type {column.dtype}; expected numbers")
        for low in range(0, len(column), BLOCK):
            high = min(low + BLOCK, len(column))
            first, last = np.searchsorted(ends - 1, [begin + low, begin + high])
            if first < last:
                final[first:last] = column[low:high][ends[first:last] - 1 - begin - low]
        begin += len(column)
    return final


def _states(parts: list[Any], observations: Array, ends: Array, task: str, path: Path) -> Array | None:
    """Full physics states (time, positions, velocities) where they give the observations, else None."""
    if task not in LOCOMOTION or any(
        find_column(part, key, path) is None for part in parts for key in ("infos/qpos", "infos/qvel")
    ):
        return None
    sizes = [_width(parts, key, len(observations), path) for key in ("infos/qpos", "infos/qvel")]
    states = np.empty((len(observations), 1 + sum(sizes)))
    begins = np.concatenate([[0], ends[:-1]])
    states[:, 0] = (np.arange(len(states)) - np.repeat(begins, ends - begins)) / find_task(task).fps
    begin = 0
    for part in parts:
        for low in range(0, len(part["observations"]), BLOCK):
            high = min(low + BLOCK, len(part["observations"]))
            rows = states[begin + low : begin + high]
            rows[:, 1 : 1 + sizes[0]] = part["infos/qpos"][low:high]
            rows[:, 1 + sizes[0] :] = part["infos/qvel"][low:high]
            if not _match(rows[:, 2:], observations[begin + low : begin + high], sizes[1]):
                return None
        begin += len(part["observations"])
    return states


def _width(parts: list[Any], key: str, steps: int, path: Path) -> int:
    """Entries in each row of a column that has one for each step."""
    shapes = {part[key].shape[1:] for part in parts}
    rows = sum(len(part[key]) for part in parts)
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 or rows != steps:
        raise PrefenvsError(f"{key} in {path} have {rows} rows of shapes {sorted(shapes)} for {steps} observations")
    return int(next(iter(shapes))[0])


def _match(seen: Array, observations: Array, velocities: int) -> bool:
    """Whether positions but the first, and velocities, are what was observed."""
    # Hopper and Walker2d clip their velocities at 10, HalfCheetah does not: rows beyond it say nothing.
    within = np.abs(seen[:, -velocities:]).max(axis=1) < 10
    same_size = seen.shape[1] == observations.shape[1]
    return same_size and np.allclose(seen[within], observations[within], atol=1e-3)


def _goal_ends(parts: list[Any], observations: Array, terminals: Array, timeouts: Array, path: Path) -> Array:
    """Ends of a maze's episodes, whose `terminals` mark the steps at the goal."""
    moved = np.linalg.norm(np.diff(observations[:, :2], axis=0), axis=1) > JUMP
    cuts = timeouts.copy()
    cuts[:-1] |= terminals[:-1] & moved
    if all(find(part, "infos/goal", path) is not None for part in parts):
        goals = _read(parts, "infos/goal", path, np.float64, axes=2, steps=len(observations))
        cuts[:-1] |= np.any(np.diff(goals, axis=0) != 0, axis=1)
    return episode_ends(np.zeros_like(cuts), cuts)
