"""Trajectories in the on-disk format of the imitation library: a Hugging Face data set, one row for each episode."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.datasets.formats.columns import check_columns, read_column, read_flags, read_numbers
from prefenvs.datasets.formats.minari_files import check_uncompressed
from prefenvs.datasets.formats.spaces import flatten, unflatten_discrete
from prefenvs.datasets.sizes import task_action_space
from prefenvs.errors import PrefenvsError, failure_told, import_extra
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array
from prefenvs.tasks import known_task
from prefenvs.trajectories import Trajectories

# The last info of an episode of which nobody knows whether the task ended it.
UNKNOWN_END = json.dumps({"TimeLimit.truncated": None})


def read_imitation(
    path: str | Path,
    task: str = "",
    source: str | None = None,
    discrete_actions: int | None = None,
    *,
    action_space: spaces.Space[Any] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    horizon: int | None = None,
) -> Trajectories:
    """Read episodes that imitation's `serialize.save` or `write_imitation` wrote.

    imitation keeps T + 1 observations for T actions: the last ones become `final_observations`. Its rewards, where
    there are any, are the environment's and become `true_rewards`. Its `terminal` is True for every finished episode,
    time limit or not: the task ended those whose last info holds a false "TimeLimit.truncated" and, where infos do not
    tell, those shorter than the horizon. Without infos and horizon, or where `write_imitation` was told of no ends,
    `terminated` is None, and learners that bootstrap say so. Infos are read as plain JSON, never as objects.

    task, source: kept in the trajectories (`source` defaults to the folder's name). action_space, observation_space: of
    the data, by default the task's; discrete ones become one-hot rows. discrete_actions: number of actions where no
    space is known, by default the largest in the file plus one. horizon: steps until the time limit, by default the
    task's, where the task is one of the suite.
    Raises PrefenvsError for other files, images and dictionary observations, and values outside a discrete space.
    """
    path = Path(path)
    columns = _read_columns(path)
    row = known_task(task)
    if row is not None:
        horizon = row.horizon if horizon is None else horizon
        action_space = _task_space(task) if action_space is None else action_space
    if discrete_actions is not None:
        action_space = spaces.Discrete(discrete_actions)
    with failure_told(f"{path} is no folder of imitation trajectories"):
        obs = _read_values(columns["obs"], observation_space, f"observations in {path}")
        actions = _read_actions(columns["acts"], action_space, f"actions in {path}")
        rewards = _read_rewards(columns["rews"], len(actions), path) if "rews" in columns else None
        lengths, seen = _lengths(columns["acts"]), _lengths(columns["obs"])
    if not len(lengths):
        raise PrefenvsError(f"{path} holds no episodes")
    if not np.array_equal(seen, lengths + 1) or np.any(lengths < 1):
        raise PrefenvsError(f"{path} has an episode whose observations are not one more than its actions")
    ends = np.cumsum(lengths)
    last = ends + np.arange(len(ends))
    trajectories = Trajectories(
        observations=np.delete(obs, last, axis=0),
        actions=actions,
        ends=ends,
        true_rewards=rewards,
        terminated=_read_terminated(columns, lengths, horizon, path),
        task=task,
        source=path.name if source is None else source,
        final_observations=obs[last],
    )
    check_columns(trajectories, str(path))
    return trajectories


def imitation_action_space(path: str | Path, trajectories: Trajectories) -> spaces.Space[Any] | None:
    """Return the discrete action space where a folder keeps actions as whole numbers, else None."""
    if _kind(_read_columns(Path(path))["acts"]) not in ("i", "u"):
        return None
    return spaces.Discrete(trajectories.actions.shape[1])


def write_imitation(trajectories: Trajectories, path: str | Path, discrete: bool | spaces.Discrete = False) -> None:
    """Write episodes so that imitation's `serialize.load` reads them; true rewards, where known, become its `rews`.

    imitation needs the observation after each last step. Trajectories without `final_observations` therefore lose the
    last step of each episode, whose observation then ends it, and are marked as not terminal. States and scenes have no
    place in the format. discrete: write one-hot action rows as the integers of this space; True counts from 0. Raises
    PrefenvsError for rows that are not one-hot, for a path that is a file, and where nothing is left to write.
    """
    datasets = _import_datasets()
    if Path(path).is_file():
        raise PrefenvsError(f"{path} is a file; imitation's format is a folder, so name another path")
    whole = trajectories.final_observations is not None
    if not whole and not np.any(trajectories.lengths > 1):
        raise PrefenvsError("nothing is left to write: without final_observations each episode loses its last step")
    actions = trajectories.actions
    if discrete:
        space = spaces.Discrete(actions.shape[1]) if discrete is True else discrete
        actions = unflatten_discrete(actions, space, "actions")
    rows: dict[str, list[Any]] = {"obs": [], "acts": [], "infos": [], "terminal": []}
    if trajectories.true_rewards is not None:
        rows["rews"] = []
    for i, (begin, end) in enumerate(zip(trajectories.begins, trajectories.ends, strict=True)):
        if trajectories.final_observations is not None:
            seen = np.concatenate([trajectories.observations[begin:end], trajectories.final_observations[i : i + 1]])
        elif end - begin > 1:
            end, seen = end - 1, trajectories.observations[begin:end]
        else:
            continue
        infos = ["{}"] * (end - begin)
        if whole:
            ended = trajectories.terminated
            infos[-1] = UNKNOWN_END if ended is None else json.dumps({"TimeLimit.truncated": not ended[i]})
        for name, value in {"obs": seen, "acts": actions[begin:end], "infos": infos, "terminal": whole}.items():
            rows[name].append(value)
        if trajectories.true_rewards is not None:
            rows["rews"].append(trajectories.true_rewards[begin:end])
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))


def _import_datasets() -> Any:
    return import_extra("datasets", "imitation's trajectory format", "imitation")


def _read_columns(path: Path) -> dict[str, Any]:
    datasets = _import_datasets()
    if path.is_file():
        raise PrefenvsError(
            f"{path} is a file: imitation's older .npz and .pkl formats can run code when read and are not supported; "
            "load it with imitation and save it again as a folder"
        )
    with failure_told(f"{path} is no folder of imitation trajectories"):
        for file in _data_files(path):
            check_uncompressed(file)
        check_size(sum(file.stat().st_size for file in _data_files(path)), path)
        table = datasets.load_from_disk(str(path)).with_format("arrow")[:]
        # Arrow trusts its files, and reads past their end where they are damaged.
        table.validate(full=True)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
    missing = {"obs", "acts", "infos", "terminal"} - set(columns)
    if missing:
        raise PrefenvsError(f"{path} is no folder of imitation trajectories: it has no column {sorted(missing)[0]!r}")
    for name, column in columns.items():
        if column.null_count or (name in ("obs", "acts", "infos", "rews") and not hasattr(column, "flatten")):
            raise PrefenvsError(f"{path} is damaged: column {name!r} holds {column.type} with nothing in some rows")
    return columns


def _data_files(path: Path) -> list[Path]:
    """The Arrow files that state.json names; they lie in the folder itself."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    names = [str(entry["filename"]) for entry in state["_data_files"]]
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise PrefenvsError(f"{path} names the file {outside[0]!r} outside of the folder, which is not read")
    return [path / name for name in names]


def _task_space(task: str) -> spaces.Space[Any] | None:
    """The task's action space, None where its package is not installed."""
    try:
        return task_action_space(task)
    except PrefenvsError:
        return None


def _lengths(column: Any) -> Array:
    """Return the steps [E] of each episode in a list column."""
    return np.diff(column.offsets.to_numpy()).astype(np.int64)


def _kind(column: Any) -> str:
    """Return the NumPy kind of a list column's items: "f", "i", "u" and "b" are numbers, anything else is not."""
    item = getattr(column.type, "value_type", None)
    return "" if item is None or hasattr(item, "value_type") else np.dtype(item.to_pandas_dtype()).kind


def _values(column: Any, what: str) -> Array:
    """Return the numbers of a list column, end to end: [N] of lists of numbers, [N, n] of lists of vectors."""
    if _kind(column) in tuple("biuf"):
        values: Array = column.flatten().to_numpy(zero_copy_only=False)
        return read_numbers(values, what)
    steps = column.flatten()
    if _kind(steps) not in tuple("biuf"):
        raise PrefenvsError(f"the {what} are of type {steps.type}; only vectors are supported")
    widths = np.unique(_lengths(steps))
    if len(widths) > 1:
        raise PrefenvsError(f"the {what} are vectors of different sizes, {widths.tolist()}")
    values = read_numbers(steps.flatten().to_numpy(zero_copy_only=False), what)
    return values.reshape(len(steps), int(widths[0]) if len(widths) else 0)


def _read_values(column: Any, space: spaces.Space[Any] | None, what: str) -> Array:
    """Return the vectors [N, n] of a column as float32, those of a discrete space one-hot."""
    values = _values(column, what)
    if space is not None:
        return flatten(values, space, what).astype(np.float32, copy=False)
    if values.ndim != 2:
        raise PrefenvsError(f"the {what} are single numbers; pass the space that they are of, such as Discrete(16)")
    return read_numbers(values, what, np.float32)


def _read_actions(column: Any, space: spaces.Space[Any] | None, what: str) -> Array:
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) and _kind(column) not in ("i", "u"):
        rows = _values(column, what)
        if rows.ndim == 2 and rows.dtype.kind == "f" and rows.shape[1] == spaces.flatdim(space):
            # One-hot rows already, as `write_imitation` writes them unless told otherwise.
            return read_numbers(rows, what, np.float32)
    if space is not None or _kind(column) not in ("i", "u"):
        return _read_values(column, space, what)
    chosen = _values(column, what)
    if chosen.min(initial=0) < 0:
        raise PrefenvsError(
            f"the {what} go down to {chosen.min()}: name their task, or pass action_space=Discrete(n, start=...)"
        )
    return flatten(chosen, spaces.Discrete(int(chosen.max(initial=0)) + 1), what)


def _read_rewards(column: Any, steps: int, path: Path) -> Array:
    return read_column(_values(column, f"rewards in {path}"), f"rewards in {path}", steps, np.float64)


def _read_terminated(columns: dict[str, Any], lengths: Array, horizon: int | None, path: Path) -> Array | None:
    """Whether the task ended each episode, [E]; None where that cannot be known of a finished one."""
    terminal = read_flags(columns["terminal"].to_numpy(zero_copy_only=False), f"terminal in {path}", len(lengths))
    infos = columns["infos"]
    if not np.array_equal(_lengths(infos), lengths):
        raise PrefenvsError(f"{path} has an episode with other numbers of infos and actions")
    texts, last = infos.flatten(), np.cumsum(lengths) - 1
    terminated = np.zeros(len(lengths), bool)
    unknown = False
    for i in np.flatnonzero(terminal):
        info = texts[int(last[i])].as_py()
        cut = _read_truncated(info)
        if cut is None and info != UNKNOWN_END and horizon is not None and lengths[i] <= horizon:
            cut = bool(lengths[i] == horizon)
        unknown = unknown or cut is None
        terminated[i] = not cut
    return None if unknown else terminated


def _read_truncated(info: Any) -> bool | None:
    """Return "TimeLimit.truncated" of an info in JSON, None where it is not there or no flag.

    imitation writes NumPy's scalars as the call that makes them; their bytes are read, and nothing is called.
    """
    try:
        value = json.loads(info)["TimeLimit.truncated"]
        if isinstance(value, dict):
            make, arguments = value["py/reduce"][:2]
            kind, content = arguments["py/tuple"]
            code = kind["py/reduce"][1]["py/tuple"][0]
            if not str(make["py/function"]).endswith("multiarray.scalar") or str(code)[0] not in "biuf":
                return None
            value = np.frombuffer(base64.b64decode(content["py/b64"]), np.dtype(code))[0].item()
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return None
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None
