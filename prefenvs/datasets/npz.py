"""Episodes as a folder of .npz files, readable by NumPy alone."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.flat import episode_ends, time_limits
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

# Beside the arrays: task, source, reference scores.
DESCRIPTION = "dataset.json"
PER_STEP = {"observations": np.float32, "actions": np.float32, "true_rewards": np.float64, "states": np.float64}
PER_EPISODE = {
    "scenes": np.float64,
    "terminated": bool,
    "final_observations": np.float32,
    "policies": np.str_,
    "successes": np.float64,
}


def write_npz(dataset: OfflineDataset, folder: str | Path) -> Path:
    """Write a data set as <folder>/episodes.npz and dataset.json; a folder that holds something is refused."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrefenvsError(f"{folder} exists and is not empty: name another folder, or remove it first")
    new = folder.with_name(folder.name + ".new")
    new.mkdir(parents=True, exist_ok=True)
    save_episodes(new / "episodes.npz", dataset.trajectories, dataset.policies, dataset.successes)
    description = {
        "task": dataset.task,
        "source": dataset.trajectories.source,
        "reference_scores": dataset.reference_scores,
        "horizon": dataset.horizon,
    }
    (new / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    if folder.exists():
        folder.rmdir()
    return new.rename(folder)


def save_episodes(
    path: Path, trajectories: Trajectories, policies: Array | None = None, successes: Array | None = None
) -> None:
    """Write the arrays of some episodes into one .npz file, which appears only when it is whole."""
    names = ("ends", *PER_STEP, "scenes", "terminated", "final_observations")
    arrays = {name: getattr(trajectories, name) for name in names}
    arrays |= {"policies": policies, "successes": successes}
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    temporary.replace(path)


def read_npz(folder: str | Path, task: str | None = None) -> OfflineDataset:
    """Read a folder of .npz files, in the order of their names.

    Each file holds `observations` [S, obs], `actions` [S, act] and either `ends` [E] or D4RL's `terminals` [S] and, if
    there were time limits, `timeouts` [S]; then, if known, `true_rewards` (or D4RL's `rewards`) [S], `states` [S, s],
    `scenes` [E, m], `terminated` [E], `final_observations` [E, obs], `policies` and `successes` [E]. All files hold the
    same ones.

    task: of the data; by default what dataset.json beside them says. Objects are never unpickled. Raises PrefenvsError
    for a damaged file, missing arrays, and arrays that do not fit together.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise PrefenvsError(f"{folder} holds no .npz file")
    description = _describe(folder)
    task = description.get("task", "") if task is None else task
    if task:
        task = find_task(task).id
    columns: dict[str, Any] = {}
    offset = done = 0
    layout: set[str] | None = None
    rows = sum(_rows(path) for path in paths)
    for path in paths:
        arrays = _load(path, task)
        if layout not in (None, set(arrays)):
            raise PrefenvsError(
                f"{path} holds other arrays than {paths[0].name}: {', '.join(sorted(layout ^ set(arrays)))}"
            )
        layout = set(arrays)
        steps, episodes = len(arrays["observations"]), len(arrays["ends"])
        arrays["ends"] = arrays["ends"] + offset
        for name, array in arrays.items():
            _place(columns, name, array, offset if name in PER_STEP else done, rows if name in PER_STEP else None, path)
        offset, done = offset + steps, done + episodes
        # Only one file at a time takes memory beside the whole.
        del arrays, array
    known = {name: columns.pop(name, None) for name in ("policies", "successes")}
    scores = description.get("reference_scores")
    trajectories = Trajectories(**columns, task=task, source=description.get("source") or folder.name)
    horizon = description.get("horizon")
    return OfflineDataset(
        str(folder), trajectories, reference_scores=None if scores is None else tuple(scores), horizon=horizon, **known
    )


def _describe(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text()) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise PrefenvsError(f"{path} is damaged: {error}") from None
    if not isinstance(description, dict):
        raise PrefenvsError(f"{path} is damaged: it holds no JSON object")
    return description


def _rows(path: Path) -> int:
    """Steps in a file, from the header of its observations."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("observations.npy") as member:
            headers: Any = np.lib.format
            version = headers.read_magic(member)
            read = headers.read_array_header_1_0 if version == (1, 0) else headers.read_array_header_2_0
            return int(read(member)[0][0])
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise PrefenvsError(f"{path} holds no array 'observations': {str(error).splitlines()[0]}") from error


def _load(path: Path, task: str) -> dict[str, Array]:
    """The arrays of one file, by the names of `Trajectories` and in its types."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise PrefenvsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if "true_rewards" not in found and "rewards" in found:
        found["true_rewards"] = found.pop("rewards").reshape(-1)
    missing = [name for name in ("observations", "actions") if name not in found]
    if missing or ("ends" not in found and "terminals" not in found):
        raise PrefenvsError(f"{path} lacks {missing[0] if missing else 'ends, or terminals and timeouts'!r}")
    if found["observations"].ndim != 2 or found["actions"].ndim != 2:
        raise PrefenvsError(f"{path}: observations and actions must have two axes, steps and entries")
    if "ends" not in found:
        found |= _flagged_ends(found, path, task)
    types = {**PER_STEP, **PER_EPISODE, "ends": np.int64}
    arrays = {name: np.asarray(found[name], kind) for name, kind in types.items() if name in found}
    for name, array in arrays.items():
        rows = len(arrays["observations"] if name in PER_STEP else arrays["ends"])
        if len(array) != rows:
            raise PrefenvsError(f"{name} in {path} has {len(array)} rows, expected {rows}")
    if len(arrays["ends"]) and arrays["ends"][-1] != len(arrays["observations"]):
        raise PrefenvsError(
            f"the last episode in {path} ends at step {arrays['ends'][-1]} of {len(arrays['observations'])}"
        )
    return arrays


def _flagged_ends(found: dict[str, Array], path: Path, task: str) -> dict[str, Array]:
    terminals = found["terminals"].reshape(-1).astype(bool)
    if "timeouts" in found:
        timeouts = found["timeouts"].reshape(-1).astype(bool)
    elif task:
        timeouts = time_limits(terminals, find_task(task).horizon)
    else:
        raise PrefenvsError(f"{path} has no 'timeouts' and no known time limit: pass task=<id>")
    if not len(terminals) == len(timeouts) == len(found["observations"]):
        raise PrefenvsError(
            f"{path} has {len(found['observations'])} observations, but {len(terminals)} terminals and "
            f"{len(timeouts)} timeouts"
        )
    ends = episode_ends(terminals, timeouts)
    final = {"final_observations": found["next_observations"][ends - 1]} if "next_observations" in found else {}
    return {"ends": ends, "terminated": terminals[ends - 1], **final}


def _place(columns: dict[str, Any], name: str, array: Array, begin: int, rows: int | None, path: Path) -> None:
    """Put a file's array behind those of the files before it; of an only file the array itself is taken."""
    if rows == len(array) and begin == 0:
        columns[name] = array
        return
    if name not in columns:
        columns[name] = array if rows is None else np.empty((rows, *array.shape[1:]), array.dtype)
    if columns[name].shape[1:] != array.shape[1:]:
        raise PrefenvsError(f"{name} in {path} have another shape than in the files before")
    if rows is not None:
        columns[name][begin : begin + len(array)] = array
    elif begin:
        columns[name] = np.concatenate([columns[name], array])
