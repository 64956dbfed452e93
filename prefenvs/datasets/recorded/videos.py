"""A folder of videos with a table of episodes: no actions, so for labels, rewards and judging only.

`episodes.csv` has a row for each episode. Columns: `video`, a file or folder of pictures relative to the table, or
`video_<camera>` for several cameras; then, as far as known, `start` and `end` (seconds in the video, by default all of
it), `fps` (steps per second; by default each frame of the first camera is a step), `task` (a sentence), `policy`, and
`success` (0 to 1).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.recorded.episodes import Faults, choose_task, inside, told_by_all
from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Camera, Recording
from prefenvs.frames.video import VIDEOS, check_recording, index_video, list_pictures
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

TABLE = "episodes.csv"
OPTIONAL = ("start", "end", "fps", "task", "policy", "success")


def read_videos(folder: str | Path, task: str | None = None, skip_damaged: bool = False) -> OfflineDataset:
    """Read a folder of videos and its episodes.csv; observations and actions have no entries.

    task: sentence of the task whose episodes are read, where there are several. skip_damaged: leave out episodes whose
    videos are missing, damaged or too short, or whose pictures are. Raises PrefenvsError naming table, row and file.
    """
    folder = Path(folder)
    rows = _read_table(folder / TABLE)
    task_id, chosen = choose_task([row.get("task") or folder.name for row in rows], task, str(folder))
    faults = Faults(str(folder), skip_damaged)
    made = {n: faults.attempt(n, partial(_recording, folder, rows[n], n, look=skip_damaged)) for n in chosen}
    faults.warn(len(chosen))
    recordings = {number: recording for number, recording in made.items() if recording is not None}
    lengths = [len(recording) for recording in recordings.values()]
    trajectories = Trajectories(
        np.zeros((sum(lengths), 0), np.float32),
        np.zeros((sum(lengths), 0), np.float32),
        np.cumsum(lengths),
        task=task_id,
        source=folder.name,
        recordings=tuple(recordings.values()),
        numbers=np.array(list(recordings), np.int64),
    )
    policies = [rows[number].get("policy", "") for number in recordings]
    told = {number: rows[number].get("success") or None for number in recordings}
    known = told_by_all(told, "success", str(folder), f"fill the column of {TABLE}")
    successes = (
        None
        if known is None
        else [_number(rows[number], "success", number, folder / TABLE, 0.0) for number in recordings]
    )
    return OfflineDataset(
        str(folder),
        trajectories,
        policies=np.array(policies) if any(policies) else None,
        successes=None if successes is None else np.array(successes),
    )


def _read_table(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = list(reader.fieldnames or ())
            rows = [{key: value for key, value in row.items() if key} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PrefenvsError(f"{path} cannot be read as a table: {error}") from error
    unknown = [name for name in names if name not in OPTIONAL and name != "video" and not name.startswith("video_")]
    if unknown or not any(name.startswith("video") for name in names):
        raise PrefenvsError(
            f"{path} has the columns {', '.join(names)}: it needs video, or video_<camera> for each of several, and "
            f"may have {', '.join(OPTIONAL)}"
        )
    if not rows:
        raise PrefenvsError(f"{path} names no episode")
    return rows


def _recording(folder: Path, row: Mapping[str, str], number: int, *, look: bool) -> Recording:
    table = folder / TABLE
    start = _number(row, "start", number, table, 0.0)
    fps = _number(row, "fps", number, table, math.nan)
    if not (math.isnan(fps) or 0 < fps <= 1000):
        raise PrefenvsError(f"fps {fps:g} in row {number + 1} of {table} is no rate: leave it empty, or give a number")
    names = [name for name in row if name.startswith("video")]
    files = {name.removeprefix("video_"): inside(folder, row[name] or "") for name in names}
    for name, file in files.items():
        if file == "." or not (folder / file).exists():
            raise PrefenvsError(f"camera {name!r} in row {number + 1} of {table} has no file {file!r}")
    first = next(iter(files.values()))
    times = _times(folder / first, start, _number(row, "end", number, table, math.inf), fps)
    if not len(times):
        raise PrefenvsError(f"row {number + 1} of {table} leaves no frame of {first}: correct start and end")

    def begin(file: str) -> float:
        # Pictures in a folder are counted, frames of a video are found by time.
        return start if Path(file).suffix.lower() in VIDEOS else round(start * (0.0 if math.isnan(fps) else fps))

    cameras = tuple(Camera(name, file, start=begin(file)) for name, file in files.items())
    recording = Recording(cameras, times, str(folder))
    check_recording(recording, look=look)
    return recording


def _times(path: Path, start: float, end: float, fps: float) -> Array:
    """Return when the steps of an episode were seen, from its start on."""
    if path.suffix.lower() in VIDEOS:
        index = index_video(path)
        if not math.isnan(fps):
            return np.arange(0.0, min(end, index.end) - start - 0.5 / fps, 1.0 / fps)
        return index.times[(index.times >= start - 1e-6) & (index.times < end - 1e-6)] - start
    if math.isnan(fps):
        raise PrefenvsError(f"{path} is no video, so nothing tells how fast its pictures follow: give fps in the table")
    count = len(list_pictures(path)) if path.is_dir() else 0
    return np.arange(0.0, min(end, count / fps) - start - 0.5 / fps, 1.0 / fps)


def _number(row: Mapping[str, str], name: str, number: int, table: Path, default: float) -> float:
    text = (row.get(name) or "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if text and not math.isfinite(value):
        raise PrefenvsError(f"{name} in row {number + 1} of {table} is {text!r}, no number")
    return value
