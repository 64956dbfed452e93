"""The report of a learned reward shows the right episodes and segments, in pictures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError, Trajectories
from prefenvs.frames import Camera, Recording
from prefenvs.videos.reward_report import report_reward


def test_best_and_worst_are_shown(tmp_path: Path) -> None:
    lengths, recordings = (12, 8, 10), []
    for episode, length in enumerate(lengths):
        folder = tmp_path / f"e{episode}"
        folder.mkdir()
        for step in range(length):
            Image.new("RGB", (32, 24), (80 * episode, 10 * step, 0)).save(folder / f"{step}.png")
        recordings.append(Recording((Camera("top", folder.name),), np.arange(length) / 10, str(tmp_path)))
    data = Trajectories(
        np.zeros((30, 0)), np.zeros((30, 0)), np.cumsum(lengths), task="recorded:push", recordings=tuple(recordings)
    )
    rewards = np.concatenate([np.linspace(0, 1, 12), np.full(8, -1.0), np.zeros(10)]).astype(np.float32)
    page = report_reward(data, rewards, tmp_path / "report.html", "a <set>", ["fact"], length=4, count=2).read_text()
    assert "a &lt;set&gt;" in page
    captions = re.findall(r"<figcaption>(.*)</figcaption>", page)
    assert captions == [
        "Episode 0, 12 steps, mean reward 0.500",
        "Episode 2, 10 steps, mean reward 0.000",
        "Episode 1, 8 steps, mean reward -1.000",
        "Episode 0, steps 8 to 11, mean reward 0.864",
        "Episode 0, steps 4 to 7, mean reward 0.500",
        "Episode 1, steps 4 to 7, mean reward -1.000",
        "Episode 1, steps 0 to 3, mean reward -1.000",
    ]
    assert page.count("data:image/png;base64,") == len(captions)
    with pytest.raises(PrefenvsError, match="29 rewards were given for 30 steps"):
        report_reward(data, rewards[1:], tmp_path / "report.html", "x")
