"""Learned rewards as LeRobot's progress: the weights that its cloning computes from them are those that were meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from prefenvs import PrefenvsError, Trajectories
from prefenvs.datasets.recorded.progress import KAPPA, reward_progress, write_progress

CHUNK = 5


def data(lengths: tuple[int, ...] = (30, 12, 25)) -> Trajectories:
    steps = sum(lengths)
    return Trajectories(np.zeros((steps, 1)), np.zeros((steps, 1)), np.cumsum(lengths), task="recorded:push")


def weights(progress: np.ndarray, trajectories: Trajectories) -> np.ndarray:
    """Weights of reward-aligned behaviour cloning, of every step but the last of its episode."""
    found = []
    for begin, end in zip(trajectories.begins, trajectories.ends, strict=True):
        first = np.arange(begin, end - 1)
        found.append(progress[np.minimum(first + CHUNK, end - 1)] - progress[first])
    gain = np.concatenate(found)
    mean, spread = max(gain.mean(), 0.0), gain.std()
    soft = np.clip((gain - (mean - 2 * spread)) / (4 * spread + 1e-6), 0, 1)
    return np.where(gain > KAPPA, 1.0, np.where(gain >= 0, soft, 0.0))


@pytest.mark.parametrize("discard", [0.25, 0.5, 0.75])
def test_the_worst_chunks_have_no_weight(discard: float) -> None:
    trajectories = data()
    rewards = np.random.default_rng(0).standard_normal(67).cumsum().astype(np.float32)
    found = weights(reward_progress(rewards, trajectories, CHUNK, discard), trajectories)
    assert abs((found == 0).mean() - discard) <= 0.05
    assert abs((found == 1).mean() - (1 - discard) / 2) <= 0.05


def test_progress_does_not_depend_on_the_rewards_scale() -> None:
    rewards = np.random.default_rng(1).standard_normal(67).astype(np.float32)
    one = reward_progress(rewards, data(), CHUNK)
    np.testing.assert_allclose(reward_progress(100 * rewards - 7, data(), CHUNK), one, atol=1e-4)
    with pytest.raises(PrefenvsError, match="the same everywhere"):
        reward_progress(np.ones(67), data(), CHUNK)
    with pytest.raises(PrefenvsError, match="no episode has a second step"):
        reward_progress(np.ones(2), data((1, 1)), CHUNK)


def test_the_file_is_as_lerobot_reads_it(tmp_path: Path) -> None:
    trajectories = data((3, 2))
    path = write_progress(tmp_path / "progress.parquet", np.arange(5.0), trajectories)
    assert pq.read_table(path).to_pydict() == {
        "index": [0, 1, 2, 3, 4],
        "episode_index": [0, 0, 0, 1, 1],
        "frame_index": [0, 1, 2, 0, 1],
        "progress_sparse": [0.0, 1.0, 2.0, 3.0, 4.0],
    }
    part = Trajectories(np.zeros((2, 1)), np.zeros((2, 1)), np.array([2]), numbers=np.array([4]))
    with pytest.raises(PrefenvsError, match="1 episodes, numbered 4 to 4: export the progress of all"):
        write_progress(path, np.zeros(2), part)
