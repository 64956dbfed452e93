"""Stable-Baselines3's own evaluation: it is paid the true return where that is asked for, and warned of where not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import EvalCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.envs import hidden_reward
from prefenvs.evaluate import evaluate, random_policy

from ...worlds import Rater

TASK = "Pendulum-v1"


@pytest.fixture(autouse=True)
def _not_warned_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_reward, "_warned_of_evaluation", False)


def make_agent() -> PEBBLE:
    reward = RewardConfig(width=8, layers=1, epochs=1)
    config = PebbleConfig(
        labels=4, per_session=4, interact=50, segment_length=5, unsupervised_steps=190, reward=reward, reset_updates=1
    )
    env = prefenvs.make(TASK)
    return PEBBLE(
        "MlpPolicy",
        env,
        Rater(),
        config,
        learning_starts=10,
        batch_size=8,
        policy_kwargs={"net_arch": [8]},
        device="cpu",
    )


def test_the_true_return_is_what_our_own_evaluation_measures() -> None:
    agent = make_agent()
    env = Monitor(prefenvs.make(TASK, reward="true"))
    env.reset(seed=2**31)
    ours = evaluate(agent, TASK, 1).returns[0]
    env = Monitor(prefenvs.make(TASK, reward="true"))
    earned, over = 0.0, False
    observation, _ = env.reset(seed=2**31)
    while not over:
        observation, reward, _, over, info = env.step(agent.predict(observation, deterministic=True)[0])
        assert reward == info["true_reward"]
        earned += float(reward)
    assert earned == pytest.approx(ours)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, _ = evaluate_policy(agent, env, 2)
    assert mean < -1.0


def test_callbacks_keep_the_best_model_and_stop_by_the_true_return(tmp_path: Path) -> None:
    agent = make_agent()
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e6)
    callback = EvalCallback(
        Monitor(prefenvs.make(TASK, reward="true")),
        callback_on_new_best=stop,
        n_eval_episodes=1,
        eval_freq=60,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent.learn(210, callback=callback)
    assert agent.num_timesteps == 60, "any true return is above this threshold"
    assert callback.best_mean_reward < -1.0
    assert np.load(tmp_path / "evaluations.npz")["results"].max() < -1.0
    assert PEBBLE.load(tmp_path / "best_model.zip", device="cpu").num_timesteps == 60
    # What it was paid there is in nothing that it learns from.
    assert not agent.replay_buffer.rewards.any()


@pytest.mark.parametrize("make", [lambda agent: Monitor(prefenvs.make(TASK)), lambda agent: agent.get_env()])
def test_one_warning_says_that_the_reward_is_hidden(make: Any) -> None:
    agent = make_agent()
    env = make(agent)
    with pytest.warns(UserWarning, match='reward="true"') as caught:
        mean, _ = evaluate_policy(agent, env, 2, warn=False)
    assert mean == 0.0
    assert len([warning for warning in caught if "hidden" in str(warning.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate_policy(agent, env, 1, warn=False)


def test_training_and_our_own_evaluation_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hidden.*")
        agent = make_agent().learn(210)
        evaluate(agent, TASK, 1)
        evaluate(random_policy(agent.action_space), TASK, 1)


def test_a_task_without_a_reward_and_an_unknown_word_are_refused() -> None:
    with pytest.raises(PrefenvsError, match="no true reward"):
        prefenvs.make("humanoid-kneel-v0", reward="true")
    with pytest.raises(PrefenvsError, match="reward='seen' is unknown"):
        prefenvs.make(TASK, reward="seen")  # type: ignore[arg-type]
