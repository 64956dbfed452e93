"""Whatever spaces a task has, `prefenvs.make` gives vectors and plain actions, or refuses in one line."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from gymnasium import spaces

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.envs.check import check_task
from prefenvs.envs.hidden_reward import HiddenReward
from prefenvs.evaluate import evaluate, random_policy

from ...awkward import BOX, task_with

OBSERVATIONS = {
    "Discrete": (spaces.Discrete(4, start=-1), 4),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), 5),
    "MultiBinary": (spaces.MultiBinary(3), 3),
    "Matrix": (spaces.Box(-1.0, 1.0, (2, 3), np.float64), 6),
    "Unbounded": (spaces.Box(-np.inf, np.inf, (3,), np.float64), 3),
    "Scalar": (spaces.Box(-1.0, 1.0, (), np.float32), 1),
    "Dict": (spaces.Dict({"a": BOX, "b": spaces.Dict({"c": spaces.Discrete(3)})}), 5),
    "Tuple": (spaces.Tuple([BOX, spaces.Discrete(2)]), 4),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations_become_vectors(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space, size = OBSERVATIONS[name]
    env = prefenvs.make(task_with(monkeypatch, f"Sees{name}", observation=space))
    assert isinstance(env.observation_space, spaces.Box)
    for observation in (env.reset(seed=0)[0], env.step(env.action_space.sample())[0]):
        assert observation.shape == (size,)
        assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Dict({"camera": spaces.Box(0, 255, (8, 8), np.uint8)}), "pictures"),
        (spaces.Text(5), "Text cannot be made a vector"),
        (spaces.Sequence(BOX), "Sequence cannot be made a vector"),
    ],
)
def test_other_observations_are_refused(space: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(monkeypatch, "SeesNoVector", observation=space)
    with pytest.raises(PrefenvsError, match=words) as error:
        prefenvs.make(task)
    assert "\n" not in str(error.value)


ACTIONS = {
    "FromMinusOne": (spaces.Discrete(3, start=-1), spaces.Discrete(3), 2, 1),
    "FromFive": (spaces.Discrete(2, start=5), spaces.Discrete(2), 0, 5),
    "FromZero": (spaces.Discrete(3), spaces.Discrete(3), 2, 2),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_discrete_actions_count_from_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    native, expected, action, told = ACTIONS[name]
    env = prefenvs.make(task_with(monkeypatch, f"Acts{name}", action=native))
    assert env.action_space == expected
    env.reset(seed=0)
    env.step(np.int64(action))
    assert cast(Any, env.unwrapped).taken == [told]


def test_actions_in_a_matrix_are_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    low = np.array([[-1.0, -2.0], [-3.0, -4.0]], np.float32)
    env = prefenvs.make(task_with(monkeypatch, "ActsMatrix", action=spaces.Box(low, -low, dtype=np.float32)))
    assert env.action_space == spaces.Box(low.ravel(), -low.ravel(), dtype=np.float32)
    env.reset(seed=0)
    env.step(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    np.testing.assert_allclose(cast(Any, env.unwrapped).taken[0], [[0.1, 0.2], [0.3, 0.4]])


@pytest.mark.parametrize("action", [spaces.Discrete(3, start=-1), spaces.Box(-1.0, 1.0, (2, 2), np.float32)])
def test_the_contract_and_evaluation_know_such_actions(action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(monkeypatch, "ActsOtherwise", action=action)
    held = {result.name: result for result in check_task(task, rendering=False)}
    assert held["spaces"].passed, held["spaces"]
    assert held["hidden"].passed, held["hidden"]
    env = prefenvs.make(task)
    assert isinstance(env, HiddenReward)
    result = evaluate(random_policy(env.action_space), task, 2, record=1)
    assert result.trajectories is not None
    assert result.trajectories.actions.shape == (6, spaces.flatdim(env.action_space))
