"""What a learner, its rater and an evaluation see is one and the same; wrappers that would change that are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.agents import PEBBLE, PrefPPO, StateRewardSAC
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.evaluate import evaluate

TASK = "Pendulum-v1"


class Clipped(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Changes what is seen, but not its space."""

    def observation(self, observation: Any) -> Any:
        return np.clip(observation, -0.5, 0.5)


class Half(gymnasium.ActionWrapper[Any, Any, Any]):
    """Changes what is done, but not its space."""

    def action(self, action: Any) -> Any:
        return action / 2


def pendulum() -> Any:
    return prefenvs.make(TASK)


CHANGING: dict[str, Callable[[], Any]] = {
    "VecNormalize": lambda: VecNormalize(DummyVecEnv([pendulum])),
    "VecFrameStack": lambda: VecFrameStack(DummyVecEnv([pendulum]), 2),
    "NormalizeObservation": lambda: wrappers.NormalizeObservation(pendulum()),
    "FrameStackObservation": lambda: wrappers.FlattenObservation(wrappers.FrameStackObservation(pendulum(), 2)),
    "RescaleAction": lambda: wrappers.RescaleAction(pendulum(), -1.0, 1.0),
    "ClipAction": lambda: wrappers.ClipAction(pendulum()),
    "Clipped": lambda: Monitor(Clipped(pendulum())),
    "Half": lambda: DummyVecEnv([lambda: Half(pendulum())]),
}
HARMLESS: dict[str, Callable[[], Any]] = {
    "plain": pendulum,
    "Monitor": lambda: Monitor(pendulum()),
    "VecMonitor": lambda: VecMonitor(DummyVecEnv([pendulum])),
    "statistics": lambda: wrappers.RecordEpisodeStatistics(pendulum()),
    "reward": lambda: wrappers.TransformReward(pendulum(), lambda reward: reward + 7.0),
}


@pytest.mark.parametrize("learner", [PEBBLE, PrefPPO, StateRewardSAC])
@pytest.mark.parametrize("name", CHANGING)
def test_a_wrapper_that_changes_what_is_seen_or_done_is_refused(learner: Any, name: str) -> None:
    with pytest.raises(
        PrefenvsError, match=r"around the environment would show|cannot learn with|sees vectors"
    ) as error:
        learner("MlpPolicy", CHANGING[name](), device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["VecNormalize", "RescaleAction", "NormalizeObservation", "Clipped", "Half"])
def test_the_refusal_names_the_wrapper(name: str) -> None:
    env = CHANGING[name]()
    with pytest.raises(PrefenvsError, match=name):
        TrajectoryRecorder(env if hasattr(env, "num_envs") else DummyVecEnv([lambda: env]))


def test_worker_processes_are_asked_too() -> None:
    venv = SubprocVecEnv([half_in_a_process], start_method="fork")
    try:
        with pytest.raises(PrefenvsError, match="around the environment"):
            TrajectoryRecorder(venv)
    finally:
        venv.close()


def half_in_a_process() -> Any:
    return Half(pendulum())


@pytest.mark.parametrize("name", HARMLESS)
def test_other_wrappers_are_welcome_and_pay_the_learner_nothing(name: str) -> None:
    agent = PEBBLE("MlpPolicy", HARMLESS[name](), device="cpu", policy_kwargs={"net_arch": [8]})
    agent.recorder.reset()
    _, rewards, _, _ = agent.recorder.step(np.ones((1, 1), np.float32))
    assert rewards.tolist() == [0.0]


@pytest.mark.parametrize("learner", [PEBBLE, PrefPPO, StateRewardSAC])
def test_an_environment_that_pays_the_true_reward_is_refused(learner: Any) -> None:
    with pytest.raises(PrefenvsError, match="for evaluation"):
        learner("MlpPolicy", Monitor(prefenvs.make(TASK, reward="true")), device="cpu")


def bounded_return(agent: Any, normalise: Callable[[Any], Any], episodes: int, seed: int = 0) -> list[float]:
    """The true returns of a policy that is shown what `normalise` makes of observations."""
    returns = []
    env = pendulum()
    for number in range(episodes):
        observation, _ = env.reset(seed=2**31 + number)
        earned, over = 0.0, False
        while not over:
            action, _ = agent.predict(normalise(observation[None]), deterministic=True)
            observation, _, _, over, info = env.step(action[0])
            earned += info["true_reward"]
        returns.append(earned)
    return returns


def test_an_agent_of_vecnormalize_is_evaluated_on_what_it_learned_from(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: prefenvs.make(TASK, reward="true")]))
    agent = PPO("MlpPolicy", venv, n_steps=64, seed=0, device="cpu").learn(512)
    normalised, raw = bounded_return(agent, venv.normalize_obs, 2), bounded_return(agent, lambda seen: seen, 2)
    np.testing.assert_allclose(evaluate(agent, TASK, 2).returns, normalised, rtol=1e-5)
    assert not np.allclose(normalised, raw, rtol=1e-5)
    # Its file lacks the statistics: they are asked for, and with them it earns the same.
    agent.save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "statistics.pkl"))
    loaded = PPO.load(tmp_path / "agent.zip", device="cpu")
    with pytest.raises(PrefenvsError, match=r"VecNormalize.*attach it first"):
        evaluate(loaded, TASK, 2)
    loaded.set_env(VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([pendulum])))
    np.testing.assert_allclose(evaluate(loaded, TASK, 2).returns, normalised, rtol=1e-5)


@pytest.mark.parametrize("name", ["VecFrameStack", "NormalizeObservation", "RescaleAction", "FrameStackObservation"])
def test_an_agent_of_another_wrapper_is_not_evaluated_without_it(name: str) -> None:
    agent = SAC("MlpPolicy", CHANGING[name](), device="cpu", policy_kwargs={"net_arch": [8]})
    with pytest.raises(PrefenvsError, match="was trained") as error:
        evaluate(agent, TASK, 1)
    assert "\n" not in str(error.value)


def test_it_is_evaluated_in_environments_that_have_the_wrapper() -> None:
    agent = SAC("MlpPolicy", CHANGING["RescaleAction"](), device="cpu", policy_kwargs={"net_arch": [8]})
    assert len(evaluate(agent, TASK, 1, envs=[CHANGING["RescaleAction"]()])) == 1


@pytest.mark.parametrize("kind", [PPO, SAC])
def test_an_agent_without_a_wrapper_is_evaluated_after_loading(kind: Any, tmp_path: Path) -> None:
    steps = {"n_steps": 64} if kind is PPO else {"learning_starts": 100}
    agent = kind("MlpPolicy", pendulum(), policy_kwargs={"net_arch": [8]}, device="cpu", **steps)
    agent.learn(120)
    agent.save(tmp_path / "agent.zip")
    assert len(evaluate(agent, TASK, 1)) == 1
    loaded = kind.load(tmp_path / "agent.zip", device="cpu")
    if kind is PPO:
        assert len(evaluate(loaded, TASK, 1)) == 1
        return
    with pytest.warns(UserWarning, match=r"SAC does not tell.*VecNormalize.*sees_raw_observations") as told:
        evaluate(loaded, TASK, 1)
    assert "\n" not in str(told[0].message)
    loaded.sees_raw_observations = True
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        evaluate(loaded, TASK, 1)


def test_an_off_policy_agent_of_vecnormalize_is_not_evaluated_raw_in_silence(tmp_path: Path) -> None:
    venv = VecNormalize(DummyVecEnv([lambda: prefenvs.make(TASK, reward="true")]))
    agent = SAC("MlpPolicy", venv, learning_starts=100, policy_kwargs={"net_arch": [8]}, device="cpu").learn(120)
    normalised = evaluate(agent, TASK, 1).returns
    agent.save(tmp_path / "agent.zip")
    venv.save(str(tmp_path / "statistics.pkl"))
    loaded = SAC.load(tmp_path / "agent.zip", device="cpu")
    with pytest.warns(UserWarning, match="VecNormalize"):
        evaluate(loaded, TASK, 1)
    loaded.set_env(VecNormalize.load(str(tmp_path / "statistics.pkl"), DummyVecEnv([pendulum])))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        np.testing.assert_allclose(evaluate(loaded, TASK, 1).returns, normalised, rtol=1e-5)


def test_agents_of_this_package_see_raw_observations_and_say_so(tmp_path: Path) -> None:
    agent = PEBBLE("MlpPolicy", pendulum(), device="cpu", policy_kwargs={"net_arch": [8]})
    agent.save(tmp_path / "agent.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        evaluate(PEBBLE.load(tmp_path / "agent.zip", device="cpu"), TASK, 1)


def test_dqn_trains_in_an_environment_without_wrappers() -> None:
    agent = make_dqn("CartPole-v1", DQNConfig(width=8))
    assert isinstance(agent.get_env(), TrajectoryRecorder)
