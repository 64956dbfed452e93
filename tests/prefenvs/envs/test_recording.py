"""What the recorder around a vector environment keeps of each episode."""

from __future__ import annotations

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs.envs.recording import TrajectoryRecorder


def test_an_episode_ends_with_what_was_seen_last_and_not_with_the_next_reset() -> None:
    recorder = TrajectoryRecorder(DummyVecEnv([lambda: prefenvs.make("InvertedPendulum-v5") for _ in range(2)]))
    recorder.seed(3)
    recorder.reset()
    seen: list[list[np.ndarray]] = [[], []]
    for _ in range(40):
        _, _, dones, infos = recorder.step(np.full((2, 1), 3.0))
        for i in np.flatnonzero(dones):
            seen[i].append(infos[i]["terminal_observation"])
    trajectories = recorder.buffer.trajectories()
    assert trajectories.final_observations is not None
    assert trajectories.terminated is not None
    assert trajectories.terminated.all()
    assert len(trajectories) == len(seen[0]) + len(seen[1]) >= 2
    # The pole has fallen in what is seen last, and in nothing before.
    assert np.all(np.abs(trajectories.final_observations[:, 1]) > 0.2)
    assert np.all(np.abs(trajectories.observations[:, 1]) <= 0.2)
    recorder.close()
