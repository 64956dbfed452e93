"""Minari's data sets, read and written: by name under Minari's own folder, or as a folder anywhere.

Minari keeps one record an episode, with T + 1 observations for T actions, so that no transition is lost. Simulator
states go with it as `infos/state`, scenes and the policy that acted as metadata of each episode.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.datasets.d4rl.hdf5 import first_line
from prefenvs.datasets.formats.columns import read_column, read_flags
from prefenvs.datasets.formats.minari_files import check_folder
from prefenvs.datasets.formats.minari_pictures import (
    RATE,
    picture_keys,
    record_pictures,
    skip_pictures,
    without_pictures,
)
from prefenvs.datasets.formats.spaces import check_space, flatten, unflatten_discrete
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sizes import misfit
from prefenvs.errors import PrefenvsError, failure_told, import_extra, near_matches
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array
from prefenvs.tasks import find_task, list_tasks
from prefenvs.tasks.recorded import PREFIX
from prefenvs.trajectories import Trajectories

# Episodes read while a file is open.
BLOCK = 64


def read_minari(name_or_path: str | Path, task: str | None = None) -> OfflineDataset:
    """Read a Minari data set: a folder, or a name ("minari/" in front is allowed), which Minari downloads if need be.

    Boxes are flattened, dictionaries and tuples of them concatenated in the order of their space, and discrete actions
    become one-hot rows. Rewards become `true_rewards`. `infos/state` becomes `states` where it is the simulator's full
    state, as `write_minari` writes it; other layouts, such as Minari's dictionaries or vectors of positions and
    velocities, are left out with a warning.

    task: of the data; by default the one whose id or environment the file names, where its spaces have the same sizes.
    Pictures stay in their HDF5 file and become recordings. Raises PrefenvsError where there is no such data set here
    and none can be had, for damaged files, and for text.
    """
    minari = _import_minari()
    folder = _find_folder(minari, name_or_path)
    with failure_told(f"{folder} is no Minari data set"):
        check_folder(folder)
        storage = minari.MinariDataset(folder).storage
        return _read(storage, storage.metadata, task)


def _read(storage: Any, metadata: dict[str, Any], task: str | None) -> OfflineDataset:
    name = f"minari/{metadata['dataset_id']}"
    pictures = bool(picture_keys(storage.observation_space))
    if pictures:
        skip_pictures(storage, name)
    check_space(without_pictures(storage.observation_space), f"observations of {name}")
    check_space(storage.action_space, f"actions of {name}")
    columns = _read_columns(storage, name, ours="prefenvs_task" in metadata)
    episodes = list(_in_blocks(storage.get_episode_metadata, storage.total_episodes))

    def of_each(key: str, kind: Any) -> Array | None:
        return np.array([episode[key] for episode in episodes], kind) if all(key in e for e in episodes) else None

    columns["scenes"] = of_each("scene", np.float64)
    if metadata.get("prefenvs_ends_unknown"):
        columns["terminated"] = None
    task = _find_task(metadata, columns, name) if task is None else (find_task(task).id if task else "")
    if "states" in columns and task and "prefenvs_task" not in metadata:
        sizes = [columns[key].shape[1] for key in ("observations", "actions", "states")]
        if not misfit(task, *sizes[:2]) and misfit(task, *sizes):
            _leave_out_states(columns, name, misfit(task, *sizes))
    if pictures:
        columns["recordings"] = record_pictures(storage, columns["ends"], find_task(task).fps if task else RATE)
        task = task or PREFIX + str(metadata["dataset_id"])
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    # Where some lie within episodes, as at the goals of D4RL's mazes, the last ones do not say all.
    terminals = columns.pop("terminals")
    within = terminals.sum() > np.sum(terminals[columns["ends"] - 1])
    return OfflineDataset(
        name,
        Trajectories(**columns, task=task, source=name),
        terminals=terminals if within else None,
        reference_scores=None if low is None or high is None else (float(low), float(high)),
        policies=of_each("policy", np.str_),
        successes=of_each("success", np.float64),
        action_space=storage.action_space,
        horizon=metadata.get("prefenvs_horizon"),
    )


def write_minari(
    dataset: OfflineDataset,
    name_or_path: str | Path,
    *,
    discrete: bool | spaces.Discrete = False,
    description: str = "",
) -> Path:
    """Write a data set that Minari and `read_minari` read, and return its folder.

    name_or_path: a Minari name with "minari/" in front and a version (-v0) at the end, else a folder, whose last part
    becomes the name.
    discrete: write one-hot action rows as the integers of this space; True is for the data set's own discrete space,
    and counts from 0 where it tells none. description: a sentence for its readers.
    Trajectories without `final_observations` lose the last step of each episode, whose observation then ends it as a
    truncation; those without true rewards cannot be written, since the format has no data without rewards. The format
    has no word for an end that is unknown: such episodes are truncated for Minari, and unknown again for `read_minari`.
    Raises PrefenvsError for what cannot be written, and for a folder that exists.
    """
    folder, dataset_id = find_place(name_or_path)
    if folder.exists():
        raise PrefenvsError(f"{folder} exists: name another data set, or remove it first")
    data = dataset.trajectories
    if data.true_rewards is None:
        raise PrefenvsError(f"data set {dataset.name!r} has no true rewards, which Minari's format needs")
    if data.final_observations is None and not np.any(data.lengths > 1):
        raise PrefenvsError("nothing is left to write: without final_observations each episode loses its last step")
    action_space = _action_space(dataset, discrete)
    if isinstance(action_space, spaces.Discrete):
        data = replace(data, actions=unflatten_discrete(data.actions, action_space, "actions"))
    from minari.dataset.minari_storage import MinariStorage

    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    (new / "data").mkdir(parents=True)
    observation_space = spaces.Box(-np.inf, np.inf, data.observations.shape[1:], np.float32)
    storage = MinariStorage.new(new / "data", observation_space, action_space, data_format="hdf5", jpeg_encoding=False)
    metadata: dict[str, Any] = {
        "dataset_id": dataset_id,
        "minari_version": importlib.metadata.version("minari"),
        "prefenvs_task": data.task,
    }
    if description:
        metadata["description"] = description
    if dataset.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = dataset.reference_scores
    if dataset.horizon is not None:
        metadata["prefenvs_horizon"] = dataset.horizon
    if data.terminated is None and data.final_observations is not None:
        metadata["prefenvs_ends_unknown"] = True
    storage.update_metadata(metadata)
    storage.update_episodes(_episode_buffers(data, dataset.terminals))
    storage.update_episode_metadata(_episode_metadata(dataset))
    return new.rename(folder)


def _import_minari() -> Any:
    import_extra("h5py", "a data set of Minari's", "offline")
    return import_extra("minari", "a data set of Minari's")


def _find_folder(minari: Any, name_or_path: str | Path) -> Path:
    """The folder with Minari's files, after a download where there is none under this name."""
    path = Path(name_or_path)
    for folder in (path / "data", path):
        if (folder / "metadata.json").is_file():
            return folder
    name = str(name_or_path).removeprefix("minari/")
    from minari.storage.datasets_root_dir import get_dataset_path

    try:
        folder = Path(get_dataset_path(name)) / "data"
        if not folder.exists():
            _download(minari, name)
    except Exception as error:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            local = list(minari.list_local_datasets())
        near = near_matches(name, local) or (f" Here are {', '.join(local[:5])}." if local else "")
        raise PrefenvsError(
            f"Minari data set {name!r} is not here, and cannot be downloaded ({first_line(error)}).{near}"
        ) from error
    return folder


def _download(minari: Any, name: str) -> None:
    """Let Minari download; without a network its client would fill the screen before it gives up."""
    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)
    try:
        minari.download_dataset(name)
    finally:
        client.setLevel(level)


def _read_columns(storage: Any, name: str, ours: bool) -> dict[str, Any]:
    """Fill the arrays of `Trajectories`, episode by episode; `ours`: written here, so that states must be sound."""
    count, steps = int(storage.total_episodes), int(storage.total_steps)
    if count < 1 or steps < 1:
        raise PrefenvsError(f"data set {name!r} holds no episodes")
    check_size(8 * count, name)
    columns: dict[str, Any] = {}
    ends, begin = np.zeros(count, np.int64), 0
    for i, episode in enumerate(_in_blocks(storage.get_episodes, count)):
        rows, last = _read_episode(episode, storage, name, i)
        length = len(rows["actions"])
        state = (episode["infos"] or {}).get("state")
        if state is not None and (i == 0 or "states" in columns or ours):
            problem = _state_problem(state, length)
            if problem and ours:
                raise PrefenvsError(f"infos/state in episode {i} of {name!r} {problem}")
            if problem:
                _leave_out_states(columns, name, f"infos/state in episode {i} {problem}")
            else:
                rows["states"] = np.asarray(state)[:length]
        if i == 0:
            columns |= _make_columns(rows, count, steps, name)
        if ("states" in columns) != ("states" in rows):
            if ours:
                raise PrefenvsError(f"only some episodes of {name!r} carry infos/state; episode {i} differs")
            _leave_out_states(columns, name, f"episode {i} has no infos/state")
            rows.pop("states", None)
        end = begin + length
        if end > steps:
            raise PrefenvsError(f"{name!r} holds more steps than the {steps} that its metadata tell")
        for key, value in rows.items():
            columns[key][begin:end] = value
        columns["final_observations"][i], columns["terminated"][i] = last
        ends[i] = begin = end
    if begin != steps:
        raise PrefenvsError(f"{name!r} holds {begin} steps, but its metadata tell of {steps}")
    return columns | {"ends": ends}


def _read_episode(episode: dict[str, Any], storage: Any, name: str, i: int) -> tuple[dict[str, Array], Any]:
    """Return an episode's columns, and its final observation with whether the task ended it."""
    where = f"in episode {i} of {name!r}"
    acted = flatten(episode["actions"], storage.action_space, f"actions {where}")
    length = len(acted)
    space = without_pictures(storage.observation_space)
    bare = isinstance(space, spaces.Dict) and not spaces.flatdim(space)
    seen = np.zeros((length + 1, 0)) if bare else flatten(episode["observations"], space, f"observations {where}")
    if length < 1 or len(seen) != length + 1:
        raise PrefenvsError(f"episode {i} of {name!r} has {len(seen)} observations for {length} actions")
    rewards = read_column(episode["rewards"], f"rewards {where}", length, np.float64)
    terminations = read_flags(episode["terminations"], f"terminations {where}", length)
    rows = {"observations": seen[:-1], "actions": acted, "true_rewards": rewards, "terminals": terminations}
    return rows, (seen[-1], terminations[-1])


def _make_columns(rows: dict[str, Array], count: int, steps: int, name: str) -> dict[str, Array]:
    """Empty columns for all episodes, as wide as those of the first."""
    types: dict[str, Any] = {"true_rewards": np.float64, "states": np.float64, "terminals": bool}
    widths = sum(int(np.prod(value.shape[1:])) * (2 if key in types else 1) for key, value in rows.items())
    check_size(4.0 * steps * widths, name)
    columns: dict[str, Array] = {
        key: np.empty((steps, *value.shape[1:]), types.get(key, np.float32)) for key, value in rows.items()
    }
    columns["final_observations"] = np.empty((count, rows["observations"].shape[1]), np.float32)
    columns["terminated"] = np.zeros(count, bool)
    return columns


def _state_problem(state: Any, length: int) -> str:
    """Say why `infos/state` of an episode is no column of states, or return an empty string."""
    if isinstance(state, dict | tuple | list):
        return f"is a {type(state).__name__}, not one full state a step"
    array = np.asarray(state)
    if array.ndim != 2 or array.dtype.kind not in "iuf" or not array.shape[1]:
        return f"has shape {array.shape} and type {array.dtype}, not one full state a step"
    if len(array) not in (length, length + 1):
        return f"has {len(array)} rows for {length} steps"
    if not np.isfinite(array[:length]).all():
        return "holds NaN or infinite values"
    return ""


def _leave_out_states(columns: dict[str, Any], name: str, why: str) -> None:
    columns.pop("states", None)
    warnings.warn(f"{name} is read without simulator states, so its segments cannot be rendered: {why}", stacklevel=4)


def _in_blocks(read: Callable[[range], Iterable[Any]], count: int) -> Iterator[Any]:
    """Read `count` episodes some at a time: as long as a file is open, what HDF5 remembers of it grows to 32 MB."""
    for first in range(0, count, BLOCK):
        yield from read(range(first, min(first + BLOCK, count)))


def _find_task(metadata: dict[str, Any], columns: dict[str, Any], name: str) -> str:
    """The task that a data set names, if it is one of ours and has these sizes; else an empty id."""
    if metadata.get("prefenvs_task"):
        return find_task(str(metadata["prefenvs_task"])).id
    spec = metadata.get("env_spec")
    environment = str(json.loads(spec).get("id", "")).removeprefix("prefenvs/") if spec else ""
    for task in list_tasks():
        if environment in (task.id, task.source):
            problem = misfit(task.id, columns["observations"].shape[1], columns["actions"].shape[1])
            if problem:
                warnings.warn(f"{name} is of {environment}, but not of our task {task.id}: {problem}", stacklevel=4)
                return ""
            return task.id
    return ""


def find_place(name_or_path: str | Path) -> tuple[Path, str]:
    """Return the absolute folder that `write_minari` writes and the name that Minari gives it.

    Raises PrefenvsError for a name that Minari does not take, and where Minari is not installed.
    """
    _import_minari()
    text = str(name_or_path)
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

    named = text.startswith("minari/")
    dataset_id = text.removeprefix("minari/") if named else Path(text).absolute().name
    if not named and not re.search(r"-v\d+$", dataset_id):
        dataset_id += "-v0"
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise PrefenvsError(
            f"{dataset_id!r} is no name for a Minari data set: letters, digits, - and _ with a version at the end, "
            "such as drawer-open-mixed-v0"
        ) from error
    folder = Path(get_dataset_path(dataset_id)) if named else Path(text)
    # Minari measures a data set's size wrongly, or not at all, under a relative path.
    return folder.absolute(), dataset_id


def _action_space(dataset: OfflineDataset, discrete: bool | spaces.Discrete) -> spaces.Space[Any]:
    width = dataset.trajectories.actions.shape[1]
    if not discrete:
        return spaces.Box(-np.inf, np.inf, (width,), np.float32)
    own = dataset.action_space if discrete is True else discrete
    return own if isinstance(own, spaces.Discrete) else spaces.Discrete(width)


def _episode_buffers(data: Trajectories, terminals: Array | None) -> Iterator[Any]:
    """One record an episode, made when the writer asks for it; terminals: flags of each step [S], where known."""
    from minari.data_collector import EpisodeBuffer

    assert data.true_rewards is not None
    for i, (begin, end) in enumerate(zip(data.begins, data.ends, strict=True)):
        if data.final_observations is None:
            end -= 1
            seen, terminated = data.observations[begin : end + 1], False
        else:
            seen = np.concatenate([data.observations[begin:end], data.final_observations[i : i + 1]])
            terminated = data.terminated is not None and bool(data.terminated[i])
        if end == begin:
            continue
        last = np.arange(begin, end) == end - 1
        terminations = last & terminated if terminals is None else terminals[begin:end]
        infos = None
        if data.states is not None:
            # Minari wants a row for the last observation too; a state that was not recorded is shown as such.
            unknown = np.full((1, data.states.shape[1]), np.nan)
            after = unknown if data.final_observations is not None else data.states[end : end + 1]
            infos = {"state": np.concatenate([data.states[begin:end], after])}
        yield EpisodeBuffer(
            observations=seen,
            actions=data.actions[begin:end],
            rewards=data.true_rewards[begin:end],
            terminations=terminations,
            truncations=last & ~terminations,
            infos=infos,
        )


def _episode_metadata(dataset: OfflineDataset) -> list[dict[str, Any]]:
    data = dataset.trajectories
    kept = np.flatnonzero(data.lengths > (0 if data.final_observations is not None else 1))
    records: list[dict[str, Any]] = [{} for _ in kept]
    for record, i in zip(records, kept, strict=True):
        if data.scenes is not None:
            record["scene"] = data.scenes[i]
        if dataset.policies is not None:
            record["policy"] = str(dataset.policies[i])
        if dataset.successes is not None:
            record["success"] = float(dataset.successes[i])
    return records
