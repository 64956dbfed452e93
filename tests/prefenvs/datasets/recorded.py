"""Small data sets of recordings, written as the formats have it; each picture's grey tells episode and step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prefenvs.frames import frames
from prefenvs.segments import Segment
from prefenvs.videos import write_clip

LENGTHS = (6, 9, 7)
FPS = 10
TASKS = ("push the block", "push the block", "pull the block")


def grey(episode: int, step: int) -> int:
    return 20 + 60 * episode + 5 * step


def shots(episode: int, length: int, height: int = 32, width: int = 48) -> np.ndarray:
    levels = np.array([grey(episode, step) for step in range(length)], np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (length, height, width, 3))


def seen(segment: Segment, camera: int = 0) -> list[int]:
    """The grey of each step's picture, in the middle of one camera's view, to the next level."""
    shown = frames(segment, size=32)
    column = [24, 48 + 16][camera]
    return [5 * round(value / 5) for value in shown[:, 16, column, 0].astype(int).tolist()]


def numbers(episode: int) -> dict[str, np.ndarray]:
    steps = np.arange(LENGTHS[episode])
    return {
        "observation.state": np.stack([steps, np.full_like(steps, episode)], 1).astype(np.float32),
        "action": (0.1 * steps[:, None] - episode).astype(np.float32),
        "next.reward": steps.astype(np.float32),
        "next.success": (steps == LENGTHS[episode] - 1) & (episode > 0),
    }


def features(video: str = "video") -> dict[str, Any]:
    one = {"shape": [1], "names": None}
    view = {"dtype": video, "names": ["height", "width", "channels"]}
    return {
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": [1], "names": None},
        "next.reward": {"dtype": "float32", **one},
        "next.success": {"dtype": "bool", **one},
        "observation.images.top": {**view, "shape": [32, 48, 3]},
        "observation.images.wrist": {**view, "shape": [32, 32, 3]},
        "timestamp": {"dtype": "float32", **one},
        **{key: {"dtype": "int64", **one} for key in ("frame_index", "episode_index", "index", "task_index")},
    }


def rows(episode: int) -> pa.Table:
    own, length = numbers(episode), LENGTHS[episode]
    lists = {key: pa.array(list(own[key])) for key in ("observation.state", "action")}
    flat = {key: pa.array(own[key]) for key in ("next.reward", "next.success")}
    steps = np.arange(length)
    return pa.table(
        lists
        | flat
        | {
            "timestamp": pa.array((steps / FPS).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, episode)),
            "index": pa.array(sum(LENGTHS[:episode]) + steps),
            "task_index": pa.array(np.full(length, TASKS.index(TASKS[episode]))),
        }
    )


def write_info(folder: Path, version: str, data: str, video: str, **changes: Any) -> None:
    info = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "data_path": data,
        "video_path": video,
        "features": features(),
    }
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info | changes))


def write_v21(folder: Path, **changes: Any) -> Path:
    data, video = (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    write_info(folder, "v2.1", data, video, **changes)
    lines = [
        {"episode_index": episode, "tasks": [TASKS[episode]], "length": length}
        for episode, length in enumerate(LENGTHS)
    ]
    (folder / "meta" / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for episode, length in enumerate(LENGTHS):
        about = {"episode_chunk": 0, "episode_index": episode}
        path = folder / data.format(**about)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows(episode), path)
        for key, width in (("observation.images.top", 48), ("observation.images.wrist", 32)):
            write_clip(shots(episode, length, 32, width), folder / video.format(video_key=key, **about), FPS)
    return folder


def write_v30(folder: Path, **changes: Any) -> Path:
    """Write all episodes into one file of rows, and into one video for each camera."""
    data, video = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    write_info(folder, "v3.0", data, video, **changes)
    place = {"chunk_index": 0, "file_index": 0}
    path = folder / data.format(**place)
    path.parent.mkdir(parents=True)
    pq.write_table(pa.concat_tables([rows(episode) for episode in range(len(LENGTHS))]), path)
    ends = np.cumsum(LENGTHS)
    table: dict[str, Any] = {
        "episode_index": list(range(len(LENGTHS))),
        "tasks": [[task] for task in TASKS],
        "length": list(LENGTHS),
        "data/chunk_index": [0] * len(LENGTHS),
        "data/file_index": [0] * len(LENGTHS),
    }
    for key, width in (("observation.images.top", 48), ("observation.images.wrist", 32)):
        parts = [shots(episode, length, 32, width) for episode, length in enumerate(LENGTHS)]
        write_clip(np.concatenate(parts), folder / video.format(video_key=key, **place), FPS)
        table |= {
            f"videos/{key}/chunk_index": [0] * len(LENGTHS),
            f"videos/{key}/file_index": [0] * len(LENGTHS),
            f"videos/{key}/from_timestamp": ((ends - LENGTHS) / FPS).tolist(),
            f"videos/{key}/to_timestamp": (ends / FPS).tolist(),
        }
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(table), path)
    return folder


def write_robomimic(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": FPS}})
        for episode, length in enumerate(LENGTHS):
            demo, own = data.create_group(f"demo_{episode}"), numbers(episode)
            demo["actions"], demo["rewards"] = own["action"], own["next.reward"].astype(np.float64)
            demo["dones"] = (np.arange(length) == length - 1).astype(np.int64)
            demo["obs/robot0_eef_pos"] = own["observation.state"].astype(np.float64)
            demo["obs/gripper"] = own["observation.state"][:, 0]
            demo["obs/agentview_image"], demo["obs/wrist_image"] = (
                shots(episode, length),
                shots(episode, length, 32, 32),
            )
            demo["next_obs/robot0_eef_pos"] = own["observation.state"].astype(np.float64) + 1
            demo["next_obs/gripper"] = own["observation.state"][:, 0] + 1
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])
    return path


def write_videos(folder: Path) -> Path:
    folder.mkdir()
    lines = ["video_top,video_wrist,start,end,task,policy,success"]
    joined = np.concatenate([shots(episode, length) for episode, length in enumerate(LENGTHS)])
    write_clip(joined, folder / "day.mp4", FPS)
    begin = 0
    for episode, length in enumerate(LENGTHS):
        write_clip(
            np.concatenate([joined[:begin, :, :32], shots(episode, length, 32, 32)]), folder / f"w{episode}.mp4", FPS
        )
        lines.append(
            f"day.mp4,w{episode}.mp4,{begin / FPS},{(begin + length) / FPS},push,{'ab'[episode % 2]},{episode / 2}"
        )
        begin += length
    (folder / "episodes.csv").write_text("\n".join(lines) + "\n")
    return folder
