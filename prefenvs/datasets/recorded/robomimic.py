"""robomimic's HDF5 files: demonstrations with vectors and pictures, several keys, and masks that name subsets.

Layout (robomimic 0.3 to 0.5): data/demo_<i>/{actions, rewards, dones, obs/<key>, next_obs/<key>}, attributes `env_args`
of data, and mask/<name> with the names of demonstrations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.d4rl.hdf5 import column_bytes, find, find_column, open_hdf5
from prefenvs.datasets.formats.columns import check_finite, read_column, read_numbers
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.recorded.episodes import Faults, told_by_all
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.frames.recording import Camera, Recording
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.tasks.recorded import PREFIX
from prefenvs.trajectories import Trajectories

RATE = 20.0
"""Steps per second where the file does not tell robosuite's control frequency."""


def is_robomimic(path: Path) -> bool:
    """Tell whether an HDF5 file has robomimic's layout."""
    with open_hdf5(path) as file:
        data = file.get("data")
        return data is not None and hasattr(data, "keys") and any(name.startswith("demo") for name in data)


def read_robomimic(
    path: str | Path,
    task: str | None = None,
    mask: str | None = None,
    observations: Sequence[str] | None = None,
    skip_damaged: bool = False,
) -> OfflineDataset:
    """Read a robomimic file: vectors and actions now, pictures when they are looked at.

    task: id of the task, by default recorded:<name of the environment>. mask: subset of the demonstrations, such as
    "train" or "20_percent"; all by default. observations: keys of vectors that are taken, in this order; all by
    default. skip_damaged: leave damaged demonstrations out. Raises PrefenvsError naming file and demonstration.
    """
    path = Path(path)
    faults = Faults(str(path), skip_damaged)
    with open_hdf5(path) as file:
        data = find(file, "data", path)
        environment = _environment(data, path)
        rate = float(environment.get("env_kwargs", {}).get("control_freq") or RATE)
        if not 0 < rate <= 1000:
            raise PrefenvsError(f"{path} tells a control frequency of {rate:g} Hz, which no robot has")
        names = _demonstrations(file, data, mask, path)
        check_size(sum(_bytes(data, name, path) for name in names), path)
        read: dict[int, dict[str, Any]] = {}
        for name in names:
            number = int(re.sub(r"\D", "", name) or 0)
            columns = faults.attempt(number, lambda name=name: _read(data, name, observations, rate, path))  # type: ignore[misc]
            if columns is not None:
                read[number] = columns
    faults.compare({number: columns["layout"] for number, columns in read.items()})
    read = {number: columns for number, columns in read.items() if number not in faults.found}
    faults.warn(len(names))
    kept = [read[number] for number in sorted(read)]
    sentence = task or PREFIX + str(environment.get("env_name") or path.stem)
    way_out = "give FILE.hdf5#MASK, with a mask of demonstrations that hold them"
    rewards, finals = (
        told_by_all({number: read[number][key] for number in sorted(read)}, key, str(path), way_out)
        for key in ("rewards", "next_obs")
    )
    recordings = [columns["recording"] for columns in kept]
    trajectories = Trajectories(
        np.concatenate([columns["observations"] for columns in kept]),
        np.concatenate([columns["actions"] for columns in kept]),
        np.cumsum([len(columns["actions"]) for columns in kept]),
        true_rewards=None if rewards is None else np.concatenate(rewards),
        terminated=np.array([columns["terminated"] for columns in kept]),
        task=find_task(sentence).id,
        source=path.stem,
        final_observations=None if finals is None else np.stack(finals),
        recordings=None if any(recording is None for recording in recordings) else tuple(recordings),
        numbers=np.array(sorted(read), np.int64),
    )
    return OfflineDataset(str(path) if mask is None else f"{path}#{mask}", trajectories)


def _environment(data: Any, path: Path) -> dict[str, Any]:
    try:
        environment = json.loads(data.attrs.get("env_args", "{}"))
        return environment if isinstance(environment, dict) else {}
    except (ValueError, TypeError, RecursionError) as error:
        raise PrefenvsError(f"{path} is damaged: env_args cannot be read: {error}") from error


def _demonstrations(file: Any, data: Any, mask: str | None, path: Path) -> list[str]:
    """The names of the demonstrations to read, by number."""
    held = sorted(
        (name for name in data if name.startswith("demo")), key=lambda name: int(re.sub(r"\D", "", name) or 0)
    )
    if mask is None:
        return held
    masks = sorted(file["mask"]) if "mask" in file else []
    if mask not in masks:
        raise PrefenvsError(
            f"{path} has no mask {mask!r}: {', '.join(masks) or 'it has none at all'}.{near_matches(mask, masks)}"
        )
    wanted = {
        name.decode() if isinstance(name, bytes) else str(name) for name in find_column(file, f"mask/{mask}", path)
    }
    if wanted - set(held):
        raise PrefenvsError(f"mask {mask!r} of {path} names {sorted(wanted - set(held))[0]}, which is not there")
    return [name for name in held if name in wanted]


def _bytes(data: Any, name: str, path: Path) -> int:
    group = find(data, f"{name}/obs", path)
    columns = [] if group is None else [find_column(group, key, path) for key in group]
    return sum(column_bytes(column) for column in columns if column.ndim <= 2)


def _read(data: Any, name: str, observations: Sequence[str] | None, rate: float, path: Path) -> dict[str, Any]:
    where = f"in {name} of {path}"
    acted = find_column(data, f"{name}/actions", path)
    seen = find(data, f"{name}/obs", path)
    if acted is None or seen is None:
        raise PrefenvsError(f"{'actions' if acted is None else 'obs'} are missing {where}")
    actions = read_numbers(acted[()], f"actions {where}", np.float32)
    steps = len(actions)
    if actions.ndim != 2 or not steps:
        raise PrefenvsError(f"actions {where} have shape {actions.shape}, not one vector a step")
    columns = {key: find_column(seen, key, path) for key in seen}
    for key, column in columns.items():
        if column.ndim < 1 or len(column) != steps:
            raise PrefenvsError(f"obs/{key} {where} has shape {column.shape} for {steps} actions")
    pictures = [key for key, column in columns.items() if column.ndim == 4]
    vectors = [key for key, column in columns.items() if column.ndim <= 2] if observations is None else observations
    missing = [key for key in vectors if key not in columns]
    if missing:
        raise PrefenvsError(f"obs/{missing[0]} is missing {where}: it has {', '.join(sorted(columns))}")
    after = find(data, f"{name}/next_obs", path)
    rewards, dones = (find_column(data, f"{name}/{key}", path) for key in ("rewards", "dones"))
    recording = None
    if pictures:
        cameras = tuple(Camera(key.removesuffix("_image"), path.name, f"data/{name}/obs/{key}") for key in pictures)
        recording = Recording(cameras, np.arange(steps) / rate, str(path.parent))
    result: dict[str, Any] = {
        "observations": _vectors({key: columns[key][()] for key in vectors}, steps, where),
        "actions": actions,
        "rewards": None if rewards is None else read_column(rewards[()], f"rewards {where}", steps, np.float64),
        "terminated": dones is not None and bool(dones[-1]),
        "next_obs": None if after is None else _vectors({key: after[key][-1:] for key in vectors}, 1, where)[0],
        "recording": recording,
        "layout": {f"obs/{key}": _size(columns[key]) for key in vectors}
        | {f"obs/{key}": "a camera" for key in pictures}
        | {"actions": _size(actions)},
    }
    for key in ("observations", "actions", "rewards", "next_obs"):
        if result[key] is not None:
            check_finite(result[key], key, where.removeprefix("in "))
    return result


def _size(column: Any) -> str:
    return f"a vector of {int(np.prod(column.shape[1:]))}"


def _vectors(columns: dict[str, Any], steps: int, where: str) -> Array:
    parts = [read_numbers(value, f"obs/{key} {where}", np.float32).reshape(steps, -1) for key, value in columns.items()]
    return np.concatenate([np.zeros((steps, 0), np.float32), *parts], axis=1)
