"""Data sets as LeRobot's version 3.0: rows in Parquet files, one H.264 video for each camera and file of rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.frames.source import SegmentFrames
from prefenvs.segments import Array, Segment
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

EPISODES_PER_FILE = 100
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
KEYFRAMES = 2
"""Frames from one key frame to the next, as LeRobot has it: policies are trained on single frames."""
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
INDEX = "__index_level_0__"
SAMPLED = 100
"""Frames of each camera, over all episodes, of which statistics are made."""


def write_lerobot(
    dataset: OfflineDataset,
    folder: str | Path,
    *,
    size: int | tuple[int, int] = 256,
    fps: float | None = None,
    progress: bool | None = None,
) -> Path:
    """Write a data set that LeRobot 0.4 trains on, and return its folder, which appears only when it is whole.

    Observations become `observation.state`, true rewards `next.reward`; a recording's cameras, or the states as the
    task's camera draws them, become `observation.images.<camera>`. size: height of the pictures, or (width, height).
    fps: rate of the data, by default the recordings' or the task's; LeRobot has one rate and no other times. progress:
    show a bar; None does so in a terminal. Raises PrefenvsError for a folder that exists, for data without actions,
    and for recordings of no regular or of several rates.
    """
    folder = Path(folder)
    if folder.exists():
        raise PrefenvsError(f"{folder} exists: name another folder, or remove it first")
    data = dataset.trajectories
    if not data.actions.shape[1]:
        raise PrefenvsError(f"data set {dataset.name!r} holds no actions, which LeRobot's format needs")
    rate = fps or _rate(data)
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _Writer(dataset, new, size, rate).write(progress)
        return new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class _Writer:
    """One data set on its way into a folder."""

    def __init__(self, dataset: OfflineDataset, folder: Path, size: int | tuple[int, int], fps: float) -> None:
        self.dataset, self.data, self.folder = dataset, dataset.trajectories, folder
        self.fps = int(fps) if fps == int(fps) else fps
        self.task = find_task(self.data.task).sentence if self.data.task else dataset.name
        visible = self.data.episode(0).visible
        recorded = self.data.recordings
        self.names = [camera.name for camera in recorded[0].cameras] if recorded else ["camera"] * visible
        self.sources = [SegmentFrames(size, cameras=[name] if recorded else ()) for name in self.names]
        self.shapes = [self._even(source.shape(self.data.episode(0))) for source in self.sources]
        self.sampled: list[list[Array]] = [[] for _ in self.names]

    @staticmethod
    def _even(shape: tuple[int, int]) -> tuple[int, int]:
        return shape[0] + shape[0] % 2, shape[1] + shape[1] % 2

    def write(self, progress: bool | None) -> None:
        """Write rows, videos and metadata."""
        count = len(self.data)
        hidden = None if progress is None else not progress
        with tqdm(total=count, desc=self.folder.stem, unit="episode", disable=hidden) as bar:
            for file, first in enumerate(range(0, count, EPISODES_PER_FILE)):
                self._write_file(file, range(first, min(first + EPISODES_PER_FILE, count)), bar)
        for source in self.sources:
            source.close()
        _write_json(self.folder / "meta" / "info.json", self._info())
        _write_json(self.folder / "meta" / "stats.json", self._stats())
        self._write_tasks()

    def _write_file(self, number: int, episodes: range, bar: Any) -> None:
        import pyarrow as pa

        place = {"chunk_index": number // 1000, "file_index": number % 1000}
        tables, table = [], []
        for name, source in zip(self.names, self.sources, strict=True):
            path = self.folder / VIDEO.format(video_key=f"observation.images.{name}", **place)
            from prefenvs.frames.clips import ClipWriter

            with ClipWriter(path, Fraction(self.fps).limit_denominator(1000), keyframes=KEYFRAMES) as clip:
                for episode in episodes:
                    for frame in self._frames(name, source, self.data.episode(episode)):
                        clip.add(frame)
        begin = 0
        for episode in episodes:
            length = int(self.data.lengths[episode])
            tables.append(pa.table(self._rows(episode)))
            table.append(self._episode(episode, begin, length, place))
            begin += length
            bar.update()
        _write_parquet(pa.concat_tables(tables), self.folder / DATA.format(**place))
        _write_parquet(pa.Table.from_pylist(table), self.folder / EPISODES.format(**place))

    def _frames(self, name: str, source: SegmentFrames, episode: Segment) -> Iterator[Array]:
        every = max(1, len(self.data.observations) // SAMPLED)
        for step, frame in enumerate(source.stream(episode)):
            if step % every == 0:
                self.sampled[self.names.index(name)].append(
                    frame[:: max(1, len(frame) // 64), :: max(1, len(frame) // 64)]
                )
            yield frame

    def _rows(self, episode: int) -> dict[str, Any]:
        import pyarrow as pa

        begin, end = int(self.data.begins[episode]), int(self.data.ends[episode])
        steps = np.arange(end - begin)

        def vectors(array: Array) -> Any:
            rows = np.ascontiguousarray(array[begin:end], np.float32)
            if rows.shape[1] == 1:
                # LeRobot keeps a vector of one number as a number.
                return pa.array(rows[:, 0])
            return pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])

        rows: dict[str, Any] = {}
        if self.data.observations.shape[1]:
            rows["observation.state"] = vectors(self.data.observations)
        rows["action"] = vectors(self.data.actions)
        if self.data.true_rewards is not None:
            rows["next.reward"] = pa.array(self.data.true_rewards[begin:end].astype(np.float32))
        if self.dataset.successes is not None:
            rows["next.success"] = pa.array((steps == steps[-1]) & (self.dataset.successes[episode] > 0))
        return rows | {
            "timestamp": pa.array((steps / self.fps).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(len(steps), episode)),
            "index": pa.array(begin + steps),
            "task_index": pa.array(np.zeros(len(steps), np.int64)),
        }

    def _episode(self, episode: int, begin: int, length: int, place: dict[str, int]) -> dict[str, Any]:
        """The record of an episode in meta/episodes; `begin`: its first row in its file."""
        record: dict[str, Any] = {"episode_index": episode, "tasks": [self.task], "length": length}
        record |= {f"{part}/{key}": value for part in ("data", "meta/episodes") for key, value in place.items()}
        first = int(self.data.begins[episode])
        record |= {"dataset_from_index": first, "dataset_to_index": first + length}
        for name in self.names:
            key = f"videos/observation.images.{name}"
            times = {"from_timestamp": begin / self.fps, "to_timestamp": (begin + length) / self.fps}
            record |= {f"{key}/{what}": value for what, value in (place | times).items()}
        return record

    def _info(self) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        if self.data.observations.shape[1]:
            numbers["observation.state"] = {"dtype": "float32", "shape": [self.data.observations.shape[1]]}
        numbers["action"] = {"dtype": "float32", "shape": [self.data.actions.shape[1]]}
        if self.data.true_rewards is not None:
            numbers["next.reward"] = {"dtype": "float32", "shape": [1]}
        if self.dataset.successes is not None:
            numbers["next.success"] = {"dtype": "bool", "shape": [1]}
        views = {
            f"observation.images.{name}": {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": "h264",
                    "video.pix_fmt": "yuv420p",
                    "video.is_depth_map": False,
                    "video.fps": self.fps,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
            for name, (width, height) in zip(self.names, self.shapes, strict=True)
        }
        indices = {
            key: {"dtype": "int64", "shape": [1]} for key in ("frame_index", "episode_index", "index", "task_index")
        }
        features = numbers | views | {"timestamp": {"dtype": "float32", "shape": [1]}} | indices
        return {
            "codebase_version": "v3.0",
            "robot_type": self.data.source or None,
            "total_episodes": len(self.data),
            "total_frames": len(self.data.observations),
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self.data)}"},
            "data_path": DATA,
            "video_path": VIDEO if self.names else None,
            "features": {name: {"names": None} | feature for name, feature in features.items()},
        }

    def _stats(self) -> dict[str, Any]:
        """Statistics by feature, as LeRobot normalises with them: of pictures by channel, from 0 to 1."""
        count, data = len(self.data.observations), self.data
        columns: dict[str, Array] = {"action": data.actions}
        if data.observations.shape[1]:
            columns["observation.state"] = data.observations
        if data.true_rewards is not None:
            columns["next.reward"] = data.true_rewards[:, None]
        steps = np.concatenate([np.arange(length) for length in data.lengths])
        columns |= {
            "timestamp": (steps / self.fps)[:, None],
            "frame_index": steps[:, None],
            "episode_index": np.repeat(np.arange(len(data)), data.lengths)[:, None],
            "index": np.arange(count)[:, None],
            "task_index": np.zeros((count, 1)),
        }
        stats: dict[str, Any] = {name: _summary(column.astype(np.float64), count) for name, column in columns.items()}
        for name, sampled in zip(self.names, self.sampled, strict=True):
            pixels = np.concatenate([frame.reshape(-1, 3) for frame in sampled]) / 255.0
            summary = _summary(pixels, len(sampled))
            shaped = {key: [[[value]] for value in values] for key, values in summary.items() if key != "count"}
            stats[f"observation.images.{name}"] = shaped | {"count": [len(sampled)]}
        return stats

    def _write_tasks(self) -> None:
        import pyarrow as pa

        # pandas reads the sentences as the table's index.
        kinds = (("task_index", "task_index", "int64", "int64"), (None, INDEX, "unicode", "object"))
        columns = [dict(zip(("name", "field_name", "pandas_type", "numpy_type"), kind, strict=True)) for kind in kinds]
        index = {"index_columns": [INDEX], "columns": columns, "column_indexes": [], "pandas_version": "2.2.0"}
        table = pa.table({"task_index": pa.array([0]), INDEX: pa.array([self.task])})
        described = table.replace_schema_metadata({"pandas": json.dumps(index)})
        _write_parquet(described, self.folder / "meta" / "tasks.parquet")


def _rate(data: Trajectories) -> float:
    """The one rate of the data."""
    if data.recordings is None:
        return float(find_task(data.task).fps) if data.task else 30.0
    rates = {round(recording.fps, 3) for recording in data.recordings if len(recording) > 1}
    uneven = next((i for i, recording in enumerate(data.recordings) if not recording.regular), None)
    if uneven is not None or len(rates) != 1:
        which = (
            f"episode {data.episode_numbers[uneven]} has no regular one" if uneven is not None else f"{sorted(rates)}"
        )
        raise PrefenvsError(
            f"LeRobot's format has one rate for all steps ({which}): give fps, and steps are taken to have it"
        )
    return rates.pop()


def _summary(column: Array, count: int) -> dict[str, list[float]]:
    summary = {name: getattr(np, name)(column, 0).tolist() for name in ("min", "max", "mean", "std")}
    summary |= {name: np.quantile(column, share, axis=0).tolist() for name, share in QUANTILES.items()}
    return summary | {"count": [count]}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


def _write_parquet(table: Any, path: Path) -> None:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path)
