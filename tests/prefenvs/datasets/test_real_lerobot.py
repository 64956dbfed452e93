"""What LeRobot's own package writes we read, and what we write it reads: numbers and pictures equal.

The package needs an environment of its own (Python 3.11: lerobot 0.4.4 has version 3.0, 0.3.3 has 2.1):

    python -m venv lerobot-env && lerobot-env/bin/pip install lerobot==0.4.4
    PREFENVS_LEROBOT=lerobot-env/bin/python pytest -m slow tests/prefenvs/datasets/test_real_lerobot.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from prefenvs.datasets import load_dataset, write_lerobot
from prefenvs.frames import frames

from .recorded import FPS, LENGTHS, TASKS, features, grey, numbers, seen, write_v21

PYTHON = os.environ.get("PREFENVS_LEROBOT", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="PREFENVS_LEROBOT names no Python that has the package lerobot"),
]

WRITE = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
folder, plan = sys.argv[1], json.load(open(sys.argv[2]))
made = {k: {**f, "shape": tuple(f["shape"])} for k, f in plan["features"].items()}
data = LeRobotDataset.create("a/b", fps=plan["fps"], features=made, root=folder, use_videos=True)
for episode in plan["episodes"]:
    for row in episode["rows"]:
        frame = {k: np.array(v, made[k]["dtype"]) for k, v in row.items() if k != "grey"}
        for key in ("top", "wrist"):
            shape = made[f"observation.images.{key}"]["shape"]
            frame[f"observation.images.{key}"] = np.full(shape, row["grey"], np.uint8)
        try:
            data.add_frame({**frame, "task": episode["task"]})
        except (ValueError, TypeError):
            data.add_frame(frame, episode["task"])
    data.save_episode()
if hasattr(data, "finalize"):
    data.finalize()
"""
READ = """
import json, sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
data = LeRobotDataset("a/b", root=sys.argv[1], video_backend="pyav")
rows = []
for i in range(len(data)):
    row = data[i]
    rows.append({k: (np.asarray(v).mean((1, 2)).tolist() if "images" in k else np.asarray(v).tolist())
                 for k, v in row.items() if k != "task"} | {"task": row["task"]})
stats = {k: {n: np.asarray(v).shape for n, v in s.items()} for k, s in data.meta.stats.items()}
json.dump({"rows": rows, "episodes": data.num_episodes, "fps": data.fps, "stats": stats}, open(sys.argv[2], "w"))
"""


def run(code: str, *arguments: str | Path) -> None:
    done = subprocess.run([PYTHON, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_lerobot_writes_we_read(tmp_path: Path) -> None:
    episodes = [
        {
            "task": TASKS[episode],
            "rows": [
                {k: np.atleast_1d(v[step]).tolist() for k, v in numbers(episode).items()}
                | {"grey": grey(episode, step)}
                for step in range(length)
            ],
        }
        for episode, length in enumerate(LENGTHS)
    ]
    own = {k: v for k, v in features().items() if not k.endswith("index") and k != "timestamp"}
    # 0.4.4's encoder takes pictures of 64 pixels and more.
    for key in ("observation.images.top", "observation.images.wrist"):
        own[key] = own[key] | {"shape": [2 * side for side in own[key]["shape"][:2]] + [3]}
    (tmp_path / "plan.json").write_text(json.dumps({"features": own, "fps": FPS, "episodes": episodes}))
    run(WRITE, tmp_path / "set", tmp_path / "plan.json")
    data = load_dataset(tmp_path / "set", TASKS[0]).trajectories
    assert data.lengths.tolist() == list(LENGTHS[:2])
    for episode in range(2):
        segment = data.episode(episode)
        np.testing.assert_array_equal(segment.observations, numbers(episode)["observation.state"])
        np.testing.assert_array_equal(segment.actions, numbers(episode)["action"])
        for camera in (0, 1):
            assert seen(segment, camera) == [grey(episode, step) for step in range(LENGTHS[episode])]


def test_what_we_write_lerobot_reads(tmp_path: Path) -> None:
    command = "from importlib.metadata import version; print(version('lerobot'))"
    version = subprocess.run([PYTHON, "-c", command], capture_output=True, text=True, check=True).stdout.strip()
    if version.startswith("0.3."):
        pytest.skip(f"lerobot {version} reads no version 3.0, which is written")
    dataset = load_dataset(write_v21(tmp_path / "old"), TASKS[0])
    write_lerobot(dataset, tmp_path / "new", size=64)
    run(READ, tmp_path / "new", tmp_path / "read.json")
    read = json.loads((tmp_path / "read.json").read_text())
    data = dataset.trajectories
    assert (read["episodes"], len(read["rows"]), read["fps"]) == (2, sum(LENGTHS[:2]), FPS)
    rows = read["rows"]
    assert {row["task"] for row in rows} == {TASKS[0]}
    np.testing.assert_array_equal(np.array([row["observation.state"] for row in rows], np.float32), data.observations)
    np.testing.assert_array_equal(np.array([row["action"] for row in rows], np.float32).reshape(-1, 1), data.actions)
    for key, camera in (("top", 0), ("wrist", 1)):
        expected = np.concatenate([frames(data.episode(e), size=64).mean((1, 2)) for e in range(2)])
        views = np.array([row[f"observation.images.{key}"] for row in rows])
        assert np.abs(255 * views - expected).max() <= 3.0, camera
        assert read["stats"][f"observation.images.{key}"]["mean"] == [3, 1, 1]
    again = load_dataset(tmp_path / "new").trajectories
    np.testing.assert_array_equal(again.observations, data.observations)
