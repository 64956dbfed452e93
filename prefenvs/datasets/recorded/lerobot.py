"""LeRobot's data sets, versions 2.0, 2.1 and 3.0: numbers in Parquet files, pictures in videos, read by episode.

Format: https://huggingface.co/docs/lerobot/lerobot-dataset-v3, and what lerobot 0.3.3 and 0.4.4 write. A feature
`observation.*` of numbers joins the observations in the order of meta/info.json, `action` are the actions,
`next.reward` the true rewards and `next.success` the successes, both privileged; features of pictures become cameras.
`complementary_info.is_intervention` (or one of `INTERVENTIONS`) tells where a person acted in the place of a policy.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.recorded.episodes import Faults, choose_task, inside
from prefenvs.errors import PrefenvsError, failure_told, import_extra
from prefenvs.frames.recording import Camera, Recording
from prefenvs.internal.file_sizes import check_size
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

VERSIONS = ("v2.0", "v2.1", "v3.0")
ORDER = ("episode_index", "frame_index")
BOOKKEEPING = ("timestamp", *ORDER, "index", "task_index")
INTERVENTIONS = ("complementary_info.is_intervention", "is_intervention", "intervention")


@dataclass(frozen=True)
class Episode:
    """One episode as the metadata have it.

    data: file of its rows; begin: its first row there; videos: file, and first and last second there, by camera.
    """

    number: int
    length: int
    task: str
    data: str
    begin: int
    videos: Mapping[str, tuple[str, float, float]]


@dataclass(frozen=True)
class Layout:
    """Which features of a data set are what, and their widths."""

    observations: dict[str, int]
    actions: dict[str, int]
    videos: tuple[str, ...]
    images: tuple[str, ...]
    reward: bool
    success: bool
    intervention: str = ""

    @property
    def columns(self) -> list[str]:
        """Columns of the Parquet files that are read; pictures are not among them."""
        extra = ["next.reward"] * self.reward + ["next.success"] * self.success
        extra += [self.intervention] * bool(self.intervention)
        return [*self.observations, *self.actions, *extra, "timestamp", *ORDER]


def read_lerobot(folder: str | Path, task: str | None = None, skip_damaged: bool = False) -> OfflineDataset:
    """Read a LeRobot data set; its numbers are read now, its pictures when they are looked at.

    task: the sentence of the task whose episodes are read, where there are several, or a task of the suite that all of
    them are of. skip_damaged: leave damaged episodes out, for which all videos are looked through. Raises PrefenvsError
    for unknown versions, and naming file and episode for what is damaged.
    """
    folder = Path(folder)
    info = _read_info(folder)
    layout = _read_layout(info, folder)
    faults = Faults(str(folder), skip_damaged)
    episodes = list(_read_episodes(folder, info, layout))
    if not episodes:
        raise PrefenvsError(f"{folder} holds no episode")
    task_id, chosen = choose_task([episode.task for episode in episodes], task, str(folder))
    episodes = [episodes[i] for i in chosen]
    for episode in episodes:
        _check_files(folder, episode, faults)
    rows, whole = _read_rows(folder, [e for e in episodes if e.number not in faults.found], layout, faults)
    recordings = {
        episode.number: recording
        for episode in episodes
        if episode.number in rows and (recording := _recording(folder, episode, layout, rows, faults)) is not None
    }
    faults.check(recordings)
    faults.warn(len(episodes))
    kept = [rows[episode.number] for episode in episodes if episode.number not in faults.found]
    shown = tuple(recordings[e.number] for e in episodes if e.number in recordings and e.number not in faults.found)

    ends = np.cumsum([len(columns["actions"]) for columns in kept])

    def joined(name: str) -> Array:
        return np.concatenate([columns[name] for columns in kept]) if faults.found else whole[name]

    trajectories = Trajectories(
        joined("observations"),
        joined("actions"),
        ends,
        true_rewards=joined("rewards") if layout.reward else None,
        task=task_id,
        source=folder.name,
        recordings=shown or None,
        numbers=np.array([episode.number for episode in episodes if episode.number not in faults.found], np.int64),
    )
    successes = [float(columns["success"].any()) for columns in kept] if layout.success else None
    return OfflineDataset(
        str(folder),
        trajectories,
        successes=None if successes is None else np.array(successes),
        interventions=joined("interventions") if layout.intervention else None,
    )


def is_lerobot(folder: Path) -> bool:
    """Tell whether a folder has LeRobot's metadata."""
    return (folder / "meta" / "info.json").is_file()


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = str(info["codebase_version"])
        features, fps = info["features"], float(info["fps"])
        if not isinstance(features, dict):
            raise TypeError("features are no object")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PrefenvsError(f"{path} is no LeRobot data set's: {type(error).__name__} {error}") from error
    if version not in VERSIONS:
        raise PrefenvsError(
            f"{path} is of LeRobot's version {version!r}, and {', '.join(VERSIONS)} are read: convert it with "
            "LeRobot's own scripts"
        )
    if not 0 < fps <= 1000:
        raise PrefenvsError(f"{path} tells {fps:g} frames per second: write the rate of the recording into it")
    return info  # type: ignore[no-any-return]


def _read_layout(info: Mapping[str, Any], folder: Path) -> Layout:
    features, path = info["features"], folder / "meta" / "info.json"
    observations, actions, cameras, others = {}, {}, {"video": [], "image": []}, []  # type: ignore[var-annotated]
    for name, feature in features.items():
        try:
            dtype, shape = str(feature["dtype"]), tuple(int(side) for side in feature["shape"])
        except (KeyError, TypeError, ValueError) as error:
            raise PrefenvsError(f"feature {name!r} in {path} has no dtype and shape") from error
        numbers = dtype.startswith(("float", "int", "uint", "bool"))
        if dtype in cameras:
            cameras[dtype].append(name)
        elif numbers and name.startswith("observation.") and len(shape) <= 1:
            observations[name] = int(np.prod(shape))
        elif numbers and name == "action" and len(shape) <= 1:
            actions[name] = int(np.prod(shape))
        elif numbers and not name.startswith("next.") and name not in BOOKKEEPING:
            others.append(name)
    if others and not (observations and actions):
        warnings.warn(
            f"{path} names no {'action' if observations else 'observation.state'}, so these numbers are not read: "
            f"{', '.join(others)}; give them LeRobot's names, observation.* and action, there and in the Parquet files",
            stacklevel=3,
        )
    missing = [name for name in ("timestamp", *ORDER) if name not in features]
    if missing:
        raise PrefenvsError(f"{path} tells of no feature {missing[0]!r}, which every LeRobot data set has")
    videos, images = tuple(cameras["video"]), tuple(cameras["image"])
    flag = next((name for name in INTERVENTIONS if name in features), "")
    return Layout(observations, actions, videos, images, "next.reward" in features, "next.success" in features, flag)


def _read_episodes(folder: Path, info: Mapping[str, Any], layout: Layout) -> Iterator[Episode]:
    try:
        if info["codebase_version"] == "v3.0":
            yield from _episodes_of_v3(folder, info, layout)
        else:
            yield from _episodes_of_v2(folder, info, layout)
    except PrefenvsError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OSError) as error:
        raise PrefenvsError(f"the episodes in {folder / 'meta'} are damaged: {type(error).__name__} {error}") from error


def _episodes_of_v2(folder: Path, info: Mapping[str, Any], layout: Layout) -> Iterator[Episode]:
    lines = (folder / "meta" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    size = int(info["chunks_size"])
    for record in (json.loads(line) for line in lines if line.strip()):
        number = int(record["episode_index"])
        about = {"episode_chunk": number // size, "episode_index": number}
        videos = {
            name: (inside(folder, info["video_path"].format(video_key=name, **about)), 0.0, np.inf)
            for name in layout.videos
        }
        data = inside(folder, info["data_path"].format(**about))
        yield Episode(number, int(record["length"]), _sentence(record["tasks"]), data, 0, videos)


def _episodes_of_v3(folder: Path, info: Mapping[str, Any], layout: Layout) -> Iterator[Episode]:
    begin, file = 0, ""
    for path in sorted((folder / "meta" / "episodes").glob("*/*.parquet")):
        parquet = _open_parquet(path)
        names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
        for record in parquet.read(columns=names, use_threads=False).to_pylist():

            def place(template: str, prefix: str, record: Mapping[str, Any] = record, **about: str) -> str:
                chunk, number = record[f"{prefix}/chunk_index"], record[f"{prefix}/file_index"]
                return inside(folder, info[template].format(chunk_index=int(chunk), file_index=int(number), **about))

            data = place("data_path", "data")
            begin, file = (begin, file) if data == file else (0, data)
            videos = {
                name: (
                    place("video_path", f"videos/{name}", video_key=name),
                    float(record[f"videos/{name}/from_timestamp"]),
                    float(record[f"videos/{name}/to_timestamp"]),
                )
                for name in layout.videos
                if record.get(f"videos/{name}/from_timestamp") is not None
            }
            length = int(record["length"])
            yield Episode(int(record["episode_index"]), length, _sentence(record["tasks"]), data, begin, videos)
            begin += length


def _sentence(tasks: Any) -> str:
    """An episode's task in one sentence; those of parts of it are joined."""
    return "; ".join(str(task) for task in tasks) or "unnamed task"


def _check_files(folder: Path, episode: Episode, faults: Faults) -> None:
    """Note files that are missing, and cameras that the episode does not have."""
    if not (folder / episode.data).is_file():
        faults.note(episode.number, f"{episode.data} is missing")
    for name, (file, *_) in episode.videos.items():
        if not (folder / file).is_file():
            faults.note(episode.number, f"camera {name!r} has no file {file}")


def _read_rows(
    folder: Path, episodes: list[Episode], layout: Layout, faults: Faults
) -> tuple[dict[int, dict[str, Array]], dict[str, Array]]:
    """Return the columns of each episode, and those of all episodes, of which they are parts.

    A file is read at a time, into its place, so that no number is held twice.
    """
    width = sum(layout.observations.values()) + sum(layout.actions.values()) + 3
    ends = np.cumsum([episode.length for episode in episodes])
    check_size(8.0 * width * sum(ends[-1:]), folder)
    places = {e.number: slice(end - e.length, end) for e, end in zip(episodes, ends.tolist(), strict=True)}
    whole: dict[str, Array] = {}
    found: dict[int, dict[str, Array]] = {}
    by_file: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_file.setdefault(episode.data, []).append(episode)
    for file, members in by_file.items():
        try:
            table = _open_parquet(folder / file).read(columns=layout.columns, use_threads=False)
        except PrefenvsError as error:
            for episode in members:
                faults.note(episode.number, str(error))
            continue
        columns = _columns(table, layout, folder / file)
        for name in columns.keys() - whole.keys() - {*ORDER}:
            whole[name] = np.empty((ends[-1], *columns[name].shape[1:]), columns[name].dtype)
        for episode in members:
            own = {name: column[episode.begin : episode.begin + episode.length] for name, column in columns.items()}
            why = _disorder(own, episode)
            if why:
                faults.note(episode.number, f"{file} {why}")
                continue
            found[episode.number] = {name: column[places[episode.number]] for name, column in whole.items()}
            for name, place in found[episode.number].items():
                place[...] = own[name]
    return found, whole


def _columns(table: Any, layout: Layout, path: Path) -> dict[str, Array]:
    missing = [name for name in layout.columns if name not in table.column_names]
    if missing:
        raise PrefenvsError(f"{path} has no column {missing[0]!r}, of which meta/info.json tells")

    def matrix(features: Mapping[str, int]) -> Array:
        parts = [_numbers(table[name], width, f"{name} in {path}") for name, width in features.items()]
        return np.concatenate([np.zeros((table.num_rows, 0), np.float32), *parts], axis=1)

    columns = {"observations": matrix(layout.observations), "actions": matrix(layout.actions)}
    for name in ("timestamp", *ORDER):
        columns[name] = _numbers(table[name], 1, f"{name} in {path}", np.float64)[:, 0]
    if layout.reward:
        columns["rewards"] = _numbers(table["next.reward"], 1, f"next.reward in {path}", np.float64)[:, 0]
    if layout.success:
        columns["success"] = _numbers(table["next.success"], 1, f"next.success in {path}")[:, 0] > 0
    if layout.intervention:
        flag = layout.intervention
        columns["interventions"] = _numbers(table[flag], 1, f"{flag} in {path}")[:, 0] > 0.5
    return columns


def _numbers(column: Any, width: int, what: str, kind: Any = np.float32) -> Array:
    """Return a column of numbers, or of lists of `width` numbers, as [rows, width]."""
    import pyarrow

    joined = column.combine_chunks()
    flat = joined.flatten() if hasattr(joined, "flatten") and joined.type.num_fields else joined
    if joined.null_count or flat.null_count:
        raise PrefenvsError(f"{what} has rows without a value")
    if len(flat) != len(joined) * width:
        raise PrefenvsError(f"{what} has {len(flat) / max(len(joined), 1):g} numbers a row, not {width}")
    try:
        # Not by to_numpy, which loads pandas.
        values: Array = np.from_dlpack(flat.cast(pyarrow.from_numpy_dtype(kind), safe=False))
    except pyarrow.ArrowException as error:
        raise PrefenvsError(f"{what} holds no numbers, but {flat.type}") from error
    return values.reshape(len(joined), width)


def _disorder(columns: Mapping[str, Array], episode: Episode) -> str:
    """Say what is wrong with the rows of an episode, or return an empty string."""
    rows = len(columns["frame_index"])
    if rows != episode.length:
        return f"holds {rows} rows of its {episode.length} steps"
    for name, expected in zip(ORDER, (np.full(rows, episode.number), np.arange(rows)), strict=True):
        wrong = np.flatnonzero(columns[name] != expected)
        if len(wrong):
            row = episode.begin + wrong[0]
            found = f"{name} is {columns[name][wrong[0]]:g} in row {row}, not {expected[wrong[0]]}"
            return f"has its rows out of order: {found}"
    for name in ("observations", "actions", "rewards"):
        if name in columns and not np.isfinite(columns[name]).all():
            step = int(np.argwhere(~np.isfinite(columns[name]))[0][0])
            return f"holds a NaN or infinite value in its {name} at step {step}"
    return ""


def _recording(
    folder: Path, episode: Episode, layout: Layout, rows: Mapping[int, Mapping[str, Array]], faults: Faults
) -> Recording | None:
    if not layout.videos and not layout.images:
        return None
    absent = [name for name in layout.videos if name not in episode.videos]
    if absent:
        faults.note(episode.number, f"it has no camera {absent[0]!r}, of which meta/info.json tells")
        return None
    times = rows[episode.number]["timestamp"]
    for file, begin, end in episode.videos.values():
        # In a file of several episodes what follows is the next one's.
        if times[-1] > end - begin:
            faults.note(
                episode.number,
                f"{file} shows {end - begin:.6g} s of it, but its last step was seen at {times[-1]:.6g} s",
            )
            return None
    cameras = [Camera(_camera_name(name), file, start=start) for name, (file, start, _) in episode.videos.items()]
    cameras += [Camera(_camera_name(name), episode.data, name, episode.begin) for name in layout.images]
    return faults.attempt(episode.number, lambda: Recording(tuple(cameras), times, str(folder)))


def _camera_name(feature: str) -> str:
    return feature.removeprefix("observation.").removeprefix("images.")


def _open_parquet(path: Path) -> Any:
    parquet = import_extra("pyarrow.parquet", str(path), "recorded")
    with failure_told(f"{path} is no Parquet file, or is damaged"):
        return parquet.ParquetFile(path)
