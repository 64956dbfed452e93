"""Trajectories in the on-disk format of the imitation library: a Hugging Face data set, one row for each episode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

INSTALL = "install the extra with `pip install 'prefenvs[imitation]'`"


def read_imitation(
    path: str | Path, task: str = "", source: str | None = None, discrete_actions: int | None = None
) -> Trajectories:
    """Read episodes that imitation's `serialize.save` or `write_imitation` wrote.

    imitation keeps T + 1 observations for T actions: the last ones become `final_observations`. Its rewards, where
    there are any, are the environment's and become `true_rewards`. Its `terminal` is True for every finished episode,
    time limit or not; an episode counts as terminated only where the last step's info holds "TimeLimit.truncated":
    false, and `terminated` is None if one of them leaves it open. Infos are read as plain JSON, never as objects.

    task, source: kept in the trajectories (`source` defaults to the folder's name). discrete_actions: number of actions
    where they are integers, which become one-hot rows; by default the largest in the file plus one.
    Raises PrefenvsError for other files, images and dictionary observations.
    """
    columns = _read_columns(Path(path))
    obs, widths = _flatten(columns["obs"], path, "observations")
    lengths = _lengths(columns["acts"])
    if not len(lengths):
        raise PrefenvsError(f"{path} holds no episodes")
    if not np.array_equal(_lengths(columns["obs"]), lengths + 1) or np.any(lengths < 1):
        raise PrefenvsError(f"{path} has an episode whose observations are not one more than its actions")
    ends = np.cumsum(lengths)
    last = ends + np.arange(len(ends))
    return Trajectories(
        observations=np.delete(obs.reshape(-1, widths), last, axis=0),
        actions=_read_actions(columns["acts"], path, discrete_actions),
        ends=ends,
        true_rewards=_values(columns["rews"]).astype(np.float64) if "rews" in columns else None,
        terminated=_read_terminated(columns),
        task=task,
        source=Path(path).name if source is None else source,
        final_observations=obs.reshape(-1, widths)[last],
    )


def write_imitation(trajectories: Trajectories, path: str | Path, discrete: bool = False) -> None:
    """Write episodes so that imitation's `serialize.load` reads them; true rewards, where known, become its `rews`.

    imitation needs the observation after each last step. Trajectories without `final_observations` therefore lose the
    last step of each episode, whose observation then ends it, and are marked as not terminal. States and scenes have no
    place in the format. discrete: write one-hot action rows as the integers that discrete action spaces use.
    """
    datasets = _import_datasets()
    if Path(path).is_file():
        raise PrefenvsError(f"{path} is a file; imitation's format is a folder, so name another path")
    whole = trajectories.final_observations is not None
    if not whole and not np.any(trajectories.lengths > 1):
        raise PrefenvsError("nothing is left to write: without final_observations each episode loses its last step")
    actions = trajectories.actions.argmax(-1) if discrete else trajectories.actions
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
        if whole and trajectories.terminated is not None:
            infos[-1] = json.dumps({"TimeLimit.truncated": not trajectories.terminated[i]})
        for name, value in {"obs": seen, "acts": actions[begin:end], "infos": infos, "terminal": whole}.items():
            rows[name].append(value)
        if trajectories.true_rewards is not None:
            rows["rews"].append(trajectories.true_rewards[begin:end])
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))


def _import_datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PrefenvsError(f"imitation's trajectory format needs the package `datasets`: {INSTALL}") from error
    return datasets


def _read_columns(path: Path) -> dict[str, Any]:
    datasets = _import_datasets()
    if path.is_file():
        raise PrefenvsError(
            f"{path} is a file: imitation's older .npz and .pkl formats can run code when read and are not supported; "
            "load it with imitation and save it again as a folder"
        )
    try:
        table = datasets.load_from_disk(str(path)).with_format("arrow")[:]
        columns = {name: table[name].combine_chunks() for name in table.column_names}
    except Exception as error:
        raise PrefenvsError(f"{path} is no folder of imitation trajectories: {str(error).splitlines()[0]}") from error
    missing = {"obs", "acts", "infos", "terminal"} - set(columns)
    if missing:
        raise PrefenvsError(f"{path} is no folder of imitation trajectories: it has no column {sorted(missing)[0]!r}")
    return columns


def _lengths(column: Any) -> Array:
    """Return the steps [E] of each episode in a list column."""
    return np.diff(column.offsets.to_numpy()).astype(np.int64)


def _values(column: Any) -> Array:
    """Return the items of a list column, end to end."""
    values: Array = column.flatten().to_numpy(zero_copy_only=False)
    return values


def _kind(column: Any) -> str:
    """Return the NumPy kind of a list column's items: "f" and "i" are numbers, anything else is not."""
    item = getattr(column.type, "value_type", None)
    return "" if item is None or hasattr(item, "value_type") else np.dtype(item.to_pandas_dtype()).kind


def _flatten(column: Any, path: str | Path, what: str) -> tuple[Array, int]:
    """Return the numbers of a column of lists of vectors, float32, and the vectors' common width."""
    steps = column.flatten()
    if _kind(steps) not in ("f", "i"):
        raise PrefenvsError(f"the {what} in {path} are of type {steps.type}; only vectors are supported")
    widths = np.unique(_lengths(steps))
    if len(widths) > 1:
        raise PrefenvsError(f"the {what} in {path} are vectors of different sizes, {widths.tolist()}")
    return _values(steps).astype(np.float32), int(widths[0]) if len(widths) else 0


def _read_actions(column: Any, path: str | Path, count: int | None) -> Array:
    if _kind(column) != "i":
        values, width = _flatten(column, path, "actions")
        return values.reshape(-1, width)
    chosen = _values(column).astype(np.int64)
    count = int(chosen.max()) + 1 if count is None else count
    if chosen.min() < 0 or chosen.max() >= count:
        raise PrefenvsError(
            f"an action in {path} is {chosen.max()}, outside the {count} discrete actions 0 to {count - 1}"
        )
    return np.eye(count, dtype=np.float32)[chosen]


def _read_terminated(columns: dict[str, Any]) -> Array | None:
    terminal = columns["terminal"].to_numpy(zero_copy_only=False)
    ends = columns["infos"].offsets.to_numpy()[1:] - columns["infos"].offsets.to_numpy()[0]
    infos = columns["infos"].flatten()
    truncated = [json.loads(infos[int(end) - 1].as_py()).get("TimeLimit.truncated") for end in ends]
    if any(finished and not isinstance(cut, bool) for finished, cut in zip(terminal, truncated, strict=True)):
        return None
    return np.array([finished and not cut for finished, cut in zip(terminal, truncated, strict=True)], bool)
