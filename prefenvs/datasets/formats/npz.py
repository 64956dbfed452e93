"""Episodes as a folder of .npz files, readable by NumPy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.d4rl.hdf5 import first_line
from prefenvs.datasets.formats.columns import read_column, read_ends, read_flags, read_numbers
from prefenvs.datasets.formats.flat import episode_ends, time_limits
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.internal.file_sizes import check_npz, check_size
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
    "inferred": bool,
    "episode_numbers": np.int64,
}
FLAGS = ("interventions", "terminals", "timeouts")
STEPS = {*PER_STEP, *FLAGS}
READ = {*STEPS, *PER_EPISODE, "ends", "rewards", "next_observations"}
# What a data set holds beside its trajectories.
BESIDE = ("policies", "successes", "inferred", *FLAGS)


def write_npz(dataset: OfflineDataset, folder: str | Path) -> Path:
    """Write a data set as <folder>/episodes.npz and dataset.json; a folder that holds something is refused.

    Raises PrefenvsError for such a folder.
    """
    folder = Path(folder)
    check_folder(folder)
    new = folder.with_name(folder.name + ".new")
    new.mkdir(parents=True, exist_ok=True)
    save_episodes(new / "episodes.npz", dataset.trajectories, **{name: getattr(dataset, name) for name in BESIDE})
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


def check_folder(folder: Path) -> None:
    """Raise a PrefenvsError for a folder that holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrefenvsError(f"{folder} exists and is not empty: name another folder, or remove it first")


def save_episodes(
    path: Path,
    trajectories: Trajectories,
    policies: Array | None = None,
    successes: Array | None = None,
    **others: Array | None,
) -> None:
    """Write the arrays of some episodes into one .npz file, which appears only when it is whole.

    others: the rest of `BESIDE`.
    """
    names = ("ends", *PER_STEP, "scenes", "terminated", "final_observations")
    arrays = {name: getattr(trajectories, name) for name in names} | {"episode_numbers": trajectories.numbers}
    arrays |= {"policies": policies, "successes": successes, **others}
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    temporary.replace(path)


def read_npz(folder: str | Path, task: str | None = None) -> OfflineDataset:
    """Read a folder of .npz files, in the order of their names, or one such file.

    Each file holds `observations` [S, obs], `actions` [S, act] and either `ends` [E] or D4RL's `terminals` [S] and, if
    there were time limits, `timeouts` [S]; then, if known, `true_rewards` (or D4RL's `rewards`) [S], `states` [S, s],
    `interventions` [S], `scenes` [E, m], `terminated` [E], `final_observations` [E, obs], `policies`, `successes`,
    `inferred` and `episode_numbers` [E]. Beside `ends`, D4RL's flags say of each step what they say there. All files
    hold the same ones.

    task: of the data; by default what dataset.json beside them says. Objects are never unpickled. Raises PrefenvsError
    for a damaged file, missing arrays, and arrays that do not fit together.
    """
    folder = Path(folder)
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.npz"))
    if not paths:
        raise PrefenvsError(f"{folder} holds no .npz file")
    description = _describe(folder)
    task = description.get("task", "") if task is None else task
    if task:
        task = find_task(task).id
    columns: dict[str, Any] = {}
    offset = done = 0
    layout: set[str] | None = None
    shapes = [_shapes(path) for path in paths]
    rows = sum(shape["observations"][0] for shape in shapes)
    # The parts of a data set are held together.
    check_size(sum(_floats(shape) for shape in shapes) * 4.0, folder)
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
            _place(columns, name, array, offset if name in STEPS else done, rows if name in STEPS else None, path)
        offset, done = offset + steps, done + episodes
        # Only one file at a time takes memory beside the whole.
        del arrays, array
    known = {name: columns.pop(name, None) for name in BESIDE}
    numbers = columns.pop("episode_numbers", None)
    if numbers is not None and np.any(np.diff(numbers) <= 0):
        raise PrefenvsError(f"the episode_numbers in {folder} do not rise: {numbers[:5].tolist()}...; leave them out")
    trajectories = Trajectories(**columns, numbers=numbers, task=task, source=description.get("source") or folder.name)
    scores, horizon = description.get("reference_scores"), description.get("horizon")
    return OfflineDataset(str(folder), trajectories, reference_scores=scores, horizon=horizon, **known)


def _describe(folder: Path) -> dict[str, Any]:
    """What dataset.json says; a mark of the byte order, which some editors put in front, is passed over."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise PrefenvsError(f"{path} is damaged: {first_line(error)}") from None
    if not isinstance(description, dict):
        raise PrefenvsError(f"{path} is damaged: it holds no JSON object")
    for key in ("task", "source"):
        if not isinstance(description.get(key) or "", str):
            raise PrefenvsError(f"{path} is damaged: {key} is {description[key]!r}, no text")
    scores = description.get("reference_scores")
    if scores is not None:
        if not isinstance(scores, list) or [type(score) in (int, float) for score in scores] != [True, True]:
            raise PrefenvsError(f"{path} is damaged: reference_scores are {scores!r}, not two numbers")
        description["reference_scores"] = (float(scores[0]), float(scores[1]))
    return description


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays in a file, from their headers."""
    with failure_told(f"{path} cannot be read"):
        shapes = check_npz(path, READ)
    if not shapes.get("observations"):
        raise PrefenvsError(f"{path} holds no array 'observations'")
    return shapes


def _floats(shapes: dict[str, tuple[int, ...]]) -> int:
    total = 0
    for name in PER_STEP:
        entries = 1
        for axis in shapes.get(name, (0,)):
            entries *= axis
        total += entries
    return total


def _load(path: Path, task: str) -> dict[str, Array]:
    """The arrays of one file, by the names of `Trajectories` and in its types."""
    with failure_told(f"{path} cannot be read"), np.load(path, allow_pickle=False) as file:
        found = {name: file[name] for name in file.files if name in READ}
    if "true_rewards" not in found and "rewards" in found:
        found["true_rewards"] = found.pop("rewards")
    missing = [name for name in ("observations", "actions") if name not in found]
    if missing or ("ends" not in found and "terminals" not in found):
        raise PrefenvsError(f"{path} lacks {missing[0] if missing else 'ends, or terminals and timeouts'!r}")
    if found["observations"].ndim != 2 or found["actions"].ndim != 2:
        raise PrefenvsError(f"{path}: observations and actions must have two axes, steps and entries")
    if "ends" not in found:
        found |= _flagged_ends(found, path, task)
    return _convert(found, path)


def _convert(found: dict[str, Array], path: Path) -> dict[str, Array]:
    """Check the arrays of one file, and bring them into the types of `Trajectories`."""
    arrays = {"ends": read_ends(found["ends"], f"ends in {path}")}
    for name, kind in {**PER_STEP, **dict.fromkeys(FLAGS, bool), **PER_EPISODE}.items():
        if name not in found:
            continue
        what = f"{name} in {path}"
        rows = len(found["observations"] if name in STEPS else arrays["ends"])
        if found[name].ndim < 1 or len(found[name]) != rows:
            raise PrefenvsError(f"{what} has {len(np.atleast_1d(found[name]))} rows, expected {rows}")
        if kind is bool:
            arrays[name] = read_flags(found[name], what, rows)
        elif name in ("true_rewards", "successes"):
            arrays[name] = read_column(found[name], what, rows, kind)
        elif name == "policies":
            if found[name].dtype.kind != "U" or found[name].ndim != 1:
                raise PrefenvsError(f"{what} are of type {found[name].dtype}; expected a text for each episode")
            arrays[name] = found[name]
        else:
            arrays[name] = read_numbers(found[name], what, kind)
    if len(arrays["ends"]) and arrays["ends"][-1] != len(arrays["observations"]):
        raise PrefenvsError(
            f"the last episode in {path} ends at step {arrays['ends'][-1]} of {len(arrays['observations'])}"
        )
    return arrays


def _flagged_ends(found: dict[str, Array], path: Path, task: str) -> dict[str, Array]:
    terminals = read_flags(found["terminals"], f"terminals in {path}", found["terminals"].size)
    if "timeouts" in found:
        timeouts = read_flags(found["timeouts"], f"timeouts in {path}", found["timeouts"].size)
    elif task:
        timeouts = time_limits(terminals, find_task(task).horizon)
    else:
        raise PrefenvsError(f"{path} has no 'timeouts' and no known time limit: name its task (--task, or task=<id>)")
    if not len(terminals) == len(timeouts) == len(found["observations"]):
        raise PrefenvsError(
            f"{path} has {len(found['observations'])} observations, but {len(terminals)} terminals and "
            f"{len(timeouts)} timeouts"
        )
    if not len(terminals):
        raise PrefenvsError(f"{path} holds no steps")
    ends = episode_ends(terminals, timeouts)
    if found.get("next_observations", found["observations"]).shape != found["observations"].shape:
        raise PrefenvsError(f"next_observations in {path} have another shape than its observations")
    final = {"final_observations": found["next_observations"][ends - 1]} if "next_observations" in found else {}
    return {"ends": ends, "terminated": terminals[ends - 1], "terminals": terminals, "timeouts": timeouts, **final}


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
