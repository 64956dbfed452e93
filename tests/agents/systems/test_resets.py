"""Resets to labelled states: where episodes begin, that the simulator really goes on from there, and how it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

import prefenvs
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.variants.resets import LabelledResets, ResetPEBBLE, ResetsConfig
from prefenvs.envs.states import goes_on
from prefenvs.envs.vectors import make_envs
from prefenvs.oracles import PartialReturnOracle
from prefenvs.segments import Segment
from prefenvs.trajectories import TrajectoryBuffer

CONFIG = ResetsConfig(
    labels=10,
    per_session=10,
    interact=200,
    segment_length=10,
    unsupervised_steps=50,
    reward=RewardConfig(members=1, width=16, layers=1, epochs=1),
    selector="uniform",
)
SMALL: dict[str, Any] = {
    "learning_starts": 150,
    "batch_size": 16,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


def swing() -> Segment:
    """Ten recorded steps of Pendulum, as a recorder keeps them."""
    buffer, env = TrajectoryBuffer("Pendulum-v1"), prefenvs.make("Pendulum-v1")
    observation, info = env.reset(seed=3)
    for step in range(10):
        action = np.array([0.5], np.float32)
        state = info["state"]
        following, _, _, _, info = env.step(action)
        buffer.add_step(0, observation, action, info["true_reward"], state, done=step == 9)
        observation = following
    return buffer.trajectories().episode(0)


def test_an_episode_begins_in_a_labelled_state_and_goes_on_from_there() -> None:
    venv = LabelledResets(make_envs("Pendulum-v1", 1))
    venv.reset()
    segment = swing()
    venv.segments, venv.share = [segment], 1.0
    np.random.seed(0)  # noqa: NPY002 - the generator that it draws from
    for _ in range(200):
        observations, _, dones, _ = venv.step(np.zeros((1, 1), np.float32))
    assert dones[0]
    assert venv.begun == 1
    (step,) = np.flatnonzero((segment.observations == observations[0]).all(axis=1))
    np.testing.assert_array_equal(venv.venv.unwrapped.reset_infos[0]["state"], segment.states[step])
    # The simulator is there, too: the recorded action leads to the recorded observation.
    if step < 9:
        found = venv.step(segment.actions[step][None])[0][0]
        np.testing.assert_allclose(found, segment.observations[step + 1], atol=1e-5)


def test_whether_states_hold_enough_is_seen_on_a_recorded_step() -> None:
    env, segment = prefenvs.make("Pendulum-v1"), swing()
    env.reset(seed=0)
    assert goes_on(env, segment)
    moved = dataclasses.replace(segment, observations=segment.observations + 0.01)
    assert not goes_on(env, moved)
    assert not goes_on(env, dataclasses.replace(segment, states=None))


def test_episodes_begin_in_states_of_the_preferred_until_the_share_has_fallen() -> None:
    config = dataclasses.replace(CONFIG, reset_share=1.0, reset_until=1.0)
    agent = ResetPEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), PartialReturnOracle(seed=0), config, **SMALL)
    agent.learn(1_200)
    resets = agent.recorder.venv
    assert isinstance(resets, LabelledResets)
    assert resets.share == pytest.approx(1 / 1_200)
    assert 1 <= resets.begun <= 4
    assert agent.feedback is not None
    best = [answer.query.segments[answer.best] for answer in agent.feedback.preferences]
    labelled = {row.tobytes() for segment in best for row in segment.states}
    pool = agent.recorder.buffer.trajectories()
    begins = [pool.states[begin].tobytes() in labelled for begin in pool.begins]
    # The first two begin before an episode ends with labels at hand.
    assert not any(begins[:2])
    assert sum(begins) == resets.begun


def test_an_episode_that_ends_right_after_a_resume_is_followed_as_in_the_unbroken_run(tmp_path: Path) -> None:
    def make() -> ResetPEBBLE:
        config = dataclasses.replace(CONFIG, reset_share=1.0, unsupervised_steps=0, reset_updates=1)
        env, late = prefenvs.make("Pendulum-v1"), SMALL | {"learning_starts": 390}
        return ResetPEBBLE("MlpPolicy", env, PartialReturnOracle(seed=0), config, **late)

    class Keep(BaseCallback):
        def _on_rollout_start(self) -> None:
            # Episodes have 200 steps, and the first labels come after 390.
            if self.num_timesteps == 399:
                self.model.save_checkpoint(tmp_path / "checkpoint")  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return self.num_timesteps < 410

    whole, resumed = make(), make()
    whole.learn(10_000, callback=Keep())
    resumed.resume(tmp_path / "checkpoint")
    resumed.learn(10_000 - 399, callback=Keep(), reset_num_timesteps=False)
    seen = [agent.replay_buffer.observations[400:410] for agent in (whole, resumed)]
    np.testing.assert_array_equal(*seen)
    resets = whole.recorder.venv
    assert isinstance(resets, LabelledResets)
    assert resets.begun == 1
