"""An environment may write everything it returns into the same arrays; what is kept of an episode stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs.datasets import CollectionPlan, Source, collect
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.trajectories import Trajectories

from ...awkward import BOX, REUSING, Reusing, add_task

EPISODES = 3


def collected(task: str, folder: Path) -> Trajectories:
    return collect(CollectionPlan(task, (Source("random", 0.0, 0.0, EPISODES),)), folder).trajectories


def recorded(task: str, folder: Path) -> Trajectories:
    return record(TrajectoryRecorder(DummyVecEnv([lambda: prefenvs.make(task)])))


def evaluated(task: str, folder: Path) -> Trajectories:
    result = evaluate(random_policy(BOX), task, EPISODES, num_envs=1, record=EPISODES).trajectories
    assert result is not None
    return result


def evaluated_in_an_own_environment(task: str, folder: Path) -> Trajectories:
    result = evaluate(random_policy(BOX), task, EPISODES, envs=[Reusing()], record=EPISODES).trajectories
    assert result is not None
    return result


def record(recorder: TrajectoryRecorder) -> Trajectories:
    recorder.reset()
    while len(recorder.buffer) < EPISODES:
        recorder.step(np.full((1, 2), 0.5, np.float32))
    return recorder.buffer.trajectories()


@pytest.mark.parametrize("play", [collected, recorded, evaluated, evaluated_in_an_own_environment])
def test_every_step_keeps_its_own_observation_state_and_action(
    play: Callable[[str, Path], Trajectories], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = play(add_task(monkeypatch, REUSING), tmp_path)
    numbers = data.observations[data.begins, 0]
    expected = np.array([(number, step) for number in numbers for step in range(6)])
    np.testing.assert_array_equal(data.observations, expected)
    np.testing.assert_array_equal(data.states, expected)
    assert data.final_observations is not None
    np.testing.assert_array_equal(data.final_observations, [(number, 6) for number in numbers])
    assert len(np.unique(numbers)) == EPISODES
    assert np.all(data.actions.any(axis=1)), "the environment has overwritten what it was told"


def test_what_the_environment_returns_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    env: Any = prefenvs.make(add_task(monkeypatch, REUSING))
    kept = [env.reset(seed=0)]
    kept += [env.step(np.zeros(2, np.float32))[::4] for _ in range(3)]
    assert [observation[1] for observation, _ in kept] == [0, 1, 2, 3]
    assert [info["state"][1] for _, info in kept] == [0, 1, 2, 3]


def test_a_scene_is_copied_when_an_episode_ends() -> None:
    buffer, scene = prefenvs.TrajectoryBuffer(), np.zeros(2)
    for number in range(2):
        scene[:] = number
        buffer.add_step(0, np.zeros(1), np.zeros(1), 0.0, None, done=True, scene=scene)
    np.testing.assert_array_equal(buffer.trajectories().scenes, [[0, 0], [1, 1]])
