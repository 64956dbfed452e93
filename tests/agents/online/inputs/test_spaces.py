"""Every learner works with a task's spaces or refuses them in one line, which says who takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO, PrefPPOConfig, RewardConfig, StateRewardSAC
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.agents.online.prefppo import preset
from prefenvs.cli import main
from prefenvs.evaluate import evaluate

from ....awkward import Awkward, task_with
from ...worlds import Rater

REWARD = RewardConfig(width=8, layers=1, epochs=1)
SETTINGS: dict[str, Any] = {
    "labels": 4, "per_session": 4, "interact": 50, "segment_length": 2, "unsupervised_steps": 20, "reward": REWARD,
}  # fmt: skip
SMALL: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "seed": 0, "device": "cpu"}


def pebble(env: Any, true_reward: bool = False) -> Any:
    config = PebbleConfig(**SETTINGS, true_reward=true_reward)
    return PEBBLE("MlpPolicy", env, Rater(), config, learning_starts=10, **SMALL)


def prefppo(env: Any, true_reward: bool = False, **kwargs: Any) -> Any:
    config = PrefPPOConfig(**SETTINGS, true_reward=true_reward, unsupervised_epochs=1)
    return PrefPPO("MlpPolicy", env, Rater(), config, n_steps=24, n_epochs=1, **SMALL, **kwargs)


def clip(env: Any, true_reward: bool = False) -> Any:
    return StateRewardSAC("MlpPolicy", env, None, learning_starts=10, **SMALL)


OBSERVATIONS = {
    "Discrete": spaces.Discrete(4, start=-1),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "Matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "Unbounded": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "Dict": spaces.Dict({"a": spaces.Box(-1.0, 1.0, (2,), np.float32), "b": spaces.Discrete(3)}),
}
CONTINUOUS = {
    "Box": spaces.Box(-2.0, 2.0, (2,), np.float32),
    "MatrixBox": spaces.Box(-2.0, 2.0, (2, 2), np.float32),
}
UNBOUNDED = {"UnboundedBox": spaces.Box(-np.inf, np.inf, (2,), np.float32)}
DISCRETE = {"Discrete3": spaces.Discrete(3), "FromMinusOne": spaces.Discrete(3, start=-1)}
SEVERAL = {
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Shifted": spaces.MultiDiscrete([2, 3], start=[1, -1]),
}
WORKING = [
    *((pebble, name, space) for name, space in CONTINUOUS.items()),
    *((prefppo, name, space) for name, space in (CONTINUOUS | DISCRETE | SEVERAL).items()),
]


@pytest.mark.parametrize(("make", "name", "action"), WORKING)
@pytest.mark.parametrize("true_reward", [False, True])
def test_it_learns_with_the_actions_that_it_takes(
    make: Callable[..., Any], name: str, action: Any, true_reward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_with(monkeypatch, f"Learn{name}", action=action)
    agent = make(prefenvs.make(task), true_reward)
    agent.learn(72)
    if not true_reward:
        assert agent.feedback.labels == 4
    size = spaces.flatdim(agent.action_space)
    assert agent.recorder.buffer.trajectories().actions.shape[1] == size
    assert len(evaluate(agent, task, 2)) == 2


@pytest.mark.parametrize("make", [pebble, prefppo])
@pytest.mark.parametrize("name", OBSERVATIONS)
def test_it_learns_from_observations_of_every_kind(
    make: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make(prefenvs.make(task_with(monkeypatch, f"Watch{name}", observation=OBSERVATIONS[name])))
    agent.learn(72)
    assert agent.feedback.labels == 4


@pytest.mark.parametrize("name", DISCRETE)
def test_dqn_learns_with_discrete_actions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_with(monkeypatch, f"Dqn{name}", action=DISCRETE[name])
    agent = make_dqn(task, DQNConfig(learning_starts=10, width=8, batch_size=8))
    agent.learn(40)
    taken = {int(action) for action in agent.replay_buffer.actions[:40].ravel()}
    assert taken == {0, 1, 2}
    assert len(evaluate(agent, task, 2)) == 2


OTHERS = {
    "Dict": (spaces.Dict({"a": spaces.Discrete(2)}), "no learner here does"),
    "Integers": (spaces.Box(0, 3, (2,), np.int64), "no learner here does"),
}
REFUSED = [
    *((make, name, space, "PrefPPO takes them") for make in (pebble, clip) for name, space in SEVERAL.items()),
    *((make, name, space, "PrefPPO takes them") for make in (pebble, clip) for name, space in DISCRETE.items()),
    *((make, name, space, "give .* a low") for make in (pebble, prefppo, clip) for name, space in UNBOUNDED.items()),
    *((make, name, *other) for make in (pebble, prefppo, clip) for name, other in OTHERS.items()),
]


@pytest.mark.parametrize(("make", "name", "action", "words"), REFUSED)
def test_it_refuses_other_actions_in_one_line(
    make: Callable[..., Any], name: str, action: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = prefenvs.make(task_with(monkeypatch, f"Refuse{name}", action=action))
    for given in (env, DummyVecEnv([lambda: env])):
        with pytest.raises(PrefenvsError, match=words) as error:
            make(given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "action"), [*((name, other[0]) for name, other in OTHERS.items()), *(CONTINUOUS | UNBOUNDED).items()]
)
def test_dqn_refuses_other_actions_in_one_line(name: str, action: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrefenvsError, match="DQN") as error:
        make_dqn(task_with(monkeypatch, f"DqnRefuse{name}", action=action), DQNConfig())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [pebble, prefppo, clip])
@pytest.mark.parametrize(
    ("which", "space"),
    [
        *(("observation_space", OBSERVATIONS[name]) for name in ("Discrete", "Matrix", "Dict")),
        ("observation_space", spaces.Box(0, 255, (36, 36), np.uint8)),
        ("action_space", spaces.Discrete(3, start=-1)),
        ("action_space", spaces.MultiDiscrete([2, 2], start=[0, 1])),
        ("action_space", spaces.Box(-1.0, 1.0, (2, 2), np.float32)),
    ],
)
def test_environments_of_other_origin_are_refused_at_construction(
    make: Callable[..., Any], which: str, space: Any
) -> None:
    env = type("Own", (Awkward,), {which: space})()
    with pytest.raises(PrefenvsError, match=r"prefenvs\.make"):
        make(env)


@pytest.mark.parametrize("task", ["CartPole-v1", "Delivery-v0"])
@pytest.mark.parametrize("options", [[], ["--true-reward"]])
def test_the_command_line_says_who_takes_discrete_actions(
    task: str, options: list[str], tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "pebble", "--task", task, "--folder", str(tmp_path / "run"), *options])
    assert stopped.value.code == 2
    words = capsys.readouterr().err.strip()
    assert "PrefPPO takes them" in words
    assert "\n" not in words
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "continuous"), [("Pendulum-v1", True), ("CartPole-v1", False), ("Delivery-v0", False)]
)
def test_prefppo_explores_by_gsde_where_actions_are_continuous(task: str, continuous: bool) -> None:
    settings = preset(prefenvs.find_task(task))
    assert settings.options.use_sde is continuous
    keywords = settings.options.keywords()
    agent = PrefPPO("MlpPolicy", prefenvs.make(task), Rater(), settings.config, device="cpu", **keywords)
    assert agent.use_sde is continuous


def test_gsde_is_refused_with_discrete_actions() -> None:
    with pytest.raises(PrefenvsError, match="gSDE"):
        prefppo(prefenvs.make("CartPole-v1"), use_sde=True)
