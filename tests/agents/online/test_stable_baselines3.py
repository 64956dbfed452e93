"""The habits of Stable-Baselines3's users: each works, or is refused in one line with the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import prefenvs
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPO, PrefPPOConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate

TASK = "Pendulum-v1"
SMALL = RewardConfig(width=8, layers=1, epochs=1)


def nearer(first: Any, second: Any) -> int:
    return int(second.observations[-1, 0] > first.observations[-1, 0])


def pebble(env: Any = None, **given: Any) -> Any:
    config = PebbleConfig(
        labels=4, per_session=4, interact=50, segment_length=5, unsupervised_steps=190, reward=SMALL, reset_updates=1
    )
    env = prefenvs.make(TASK) if env is None else env
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "learning_starts": 10}
    return PEBBLE("MlpPolicy", env, nearer, config, seed=0, device="cpu", **small, **given)


def prefppo(env: Any, **given: Any) -> Any:
    config = PrefPPOConfig(labels=4, per_session=4, interact=50, segment_length=5, unsupervised_steps=400, reward=SMALL)
    return PrefPPO(
        "MlpPolicy", env, nearer, config, n_steps=100, policy_kwargs={"net_arch": [8]}, device="cpu", **given
    )


def test_checkpoints_keep_model_and_replay(tmp_path: Path) -> None:
    agent = pebble()
    checkpoints = CheckpointCallback(105, str(tmp_path), "model", save_replay_buffer=True, save_vecnormalize=True)
    agent.learn(210, callback=CallbackList([checkpoints]))
    loaded = PEBBLE.load(tmp_path / "model_210_steps", env=prefenvs.make(TASK))
    loaded.load_replay_buffer(tmp_path / "model_replay_buffer_210_steps.pkl")
    # The callback comes before the newest step is stored, and what is drawn has its learned reward by then.
    seen = (one.replay_buffer.observations[:209] for one in (loaded, agent))
    np.testing.assert_array_equal(*seen)
    assert loaded.replay_buffer.rewards[:200].any()
    assert loaded.num_timesteps == 210


@pytest.mark.parametrize("kind", [DummyVecEnv, SubprocVecEnv])
def test_vectors_of_environments(kind: Any, tmp_path: Path) -> None:
    # A process of its own does not know the id until it imports the package, which stands before the colon.
    venv = make_vec_env(f"prefenvs:prefenvs/{TASK}", n_envs=2, seed=0, vec_env_cls=kind, monitor_dir=str(tmp_path))
    try:
        agent = prefppo(venv).learn(600)
        assert agent.feedback.labels == 4
        assert agent.recorder.buffer.task == TASK
        # A monitor's file holds the hidden reward, which is 0.
        rows = (tmp_path / "0.monitor.csv").read_text().splitlines()[2:]
        assert {float(row.split(",")[0]) for row in rows} == {0.0}
    finally:
        venv.close()


def test_a_function_makes_the_vector_and_another_pays_the_true_reward() -> None:
    agent = prefppo(make_vec_env(lambda: prefenvs.make(TASK), n_envs=2))
    venv = make_vec_env(lambda: prefenvs.make(TASK, reward="true"), n_envs=2)
    mean, _ = evaluate_policy(agent, venv, 2)
    assert mean < -1.0
    callback = EvalCallback(venv, n_eval_episodes=1, eval_freq=100, verbose=0)
    agent.learn(600, callback=callback)
    assert callback.best_mean_reward < -1.0


@pytest.mark.parametrize(
    ("wrap", "name"),
    [(VecNormalize, "VecNormalize"), (lambda venv: VecFrameStack(venv, 2), "VecFrameStack")],
)
def test_wrappers_that_change_what_is_seen_name_the_way_out(wrap: Any, name: str) -> None:
    words = f"{name} around the environment .* leave it out .*make it part of a task of yours"
    with pytest.raises(PrefenvsError, match=words) as error:
        pebble(wrap(make_vec_env(lambda: prefenvs.make(TASK))))
    assert "\n" not in str(error.value)


def test_monitors_add_up_nothing_hidden(tmp_path: Path) -> None:
    agent = pebble(Monitor(prefenvs.make(TASK), str(tmp_path / "one"))).learn(210)
    assert [episode["r"] for episode in agent.ep_info_buffer] == [0.0]


def test_tensorboard_shows_the_feedback(tmp_path: Path) -> None:
    pebble(tensorboard_log=str(tmp_path)).learn(420, log_interval=1, tb_log_name="mine")
    events = EventAccumulator(str(tmp_path / "mine_1")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"feedback/labels", "reward/loss", "rollout/ep_len_mean"} <= tags
    assert "rollout/ep_rew_mean" not in tags


def test_sac_load_takes_what_save_sb3_wrote(tmp_path: Path) -> None:
    agent = pebble()
    agent.save_sb3(tmp_path / "theirs.zip")
    seen = agent.observation_space.sample()
    loaded = SAC.load(tmp_path / "theirs.zip", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(seen, deterministic=True)[0], agent.predict(seen, deterministic=True)[0]
    )
    # An agent's own file is no pickle; Stable-Baselines3 says itself that it finds nothing in it.
    agent.save(tmp_path / "ours.zip")
    with pytest.raises(AssertionError, match="No data found in the saved file"):
        SAC.load(tmp_path / "ours.zip", device="cpu")
    with pytest.raises(PrefenvsError, match="saved by Stable-Baselines3"):
        PEBBLE.load(tmp_path / "theirs.zip")


def test_the_zoo_and_the_hub_load_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rl-zoo passes custom objects for schedules; the hub gives a path in its cache, whatever the file is called."""
    agent = pebble()
    agent.save(tmp_path / "pebble-Pendulum-v1")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda **named: str(tmp_path / named["filename"]))
    path = huggingface_hub.hf_hub_download(repo_id="somebody/pebble-Pendulum-v1", filename="pebble-Pendulum-v1.zip")
    custom = {"learning_rate": 0.0, "lr_schedule": lambda _: 0.0, "clip_range": lambda _: 0.0}
    loaded = PEBBLE.load(path, custom_objects=custom, device="cpu")
    seen = agent.observation_space.sample()
    np.testing.assert_array_equal(
        loaded.predict(seen, deterministic=True)[0], agent.predict(seen, deterministic=True)[0]
    )
    assert len(evaluate(loaded, TASK, 1)) == 1


def test_their_agents_are_evaluated_by_the_true_return(tmp_path: Path) -> None:
    theirs = PPO("MlpPolicy", make_vec_env(TASK), n_steps=64, device="cpu")
    theirs.save(tmp_path / "theirs")
    result = evaluate(PPO.load(tmp_path / "theirs", device="cpu"), TASK, 1)
    assert result.mean_return < -1.0


def test_an_agent_goes_into_a_new_environment() -> None:
    agent = pebble().learn(210)
    agent.set_env(prefenvs.make(TASK))
    agent.learn(50, reset_num_timesteps=False)
    assert agent.num_timesteps == 260


def test_a_raw_environment_names_the_way_out() -> None:
    with pytest.raises(PrefenvsError, match=re.escape("prefenvs.make")):
        pebble(make_vec_env(TASK)).learn(210)


@pytest.mark.parametrize("argument", ["use_sde", "optimize_memory_usage"])
def test_an_argument_that_pebble_has_no_use_for_is_refused(argument: str) -> None:
    with pytest.raises(PrefenvsError, match=f"leave (it|{argument}) out"):
        pebble(**{argument: True})


def test_questions_go_on_where_learn_is_called_again_and_counts_from_0() -> None:
    config = PebbleConfig(
        labels=40, per_session=4, interact=50, segment_length=5, unsupervised_steps=190, reward=SMALL, reset_updates=1
    )
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "learning_starts": 10}
    agent = PEBBLE("MlpPolicy", prefenvs.make(TASK), nearer, config, seed=0, device="cpu", **small)
    agent.learn(220)
    assert agent.feedback is not None
    assert agent.feedback.asked == 4
    # The next session is 30 steps away.
    agent.learn(100)
    assert agent.feedback.asked == 12
    assert agent.feedback.total_steps == 100
