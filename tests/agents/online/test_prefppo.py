"""PrefPPO: rollouts rewarded by the learned reward, for continuous and discrete actions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from stable_baselines3.common.vec_env import DummyVecEnv

from prefenvs.agents import PrefPPO, PrefPPOConfig, RewardConfig
from prefenvs.agents.nets.residual import NormalisedObservations

from ..worlds import Point, Rater


class DiscretePoint(Point):
    action_space = spaces.Discrete(3)

    def step(self, action: Any) -> Any:
        return super().step(np.array([float(action) - 1.0]))


def make_agent(oracle: Rater | None, env: type[Point] = Point, **config: Any) -> PrefPPO:
    settings: dict[str, Any] = {"labels": 40, "per_session": 20, "interact": 200, "segment_length": 8}
    settings |= {
        "unsupervised_steps": 200,
        "unsupervised_epochs": 2,
        "reward": RewardConfig(width=32, layers=2, epochs=30),
    }
    return PrefPPO(
        "MlpPolicy",
        DummyVecEnv([env] * 4),
        oracle,
        PrefPPOConfig(**(settings | config)),
        n_steps=50,
        batch_size=50,
        n_epochs=5,
        learning_rate=1e-3,
        policy_kwargs={"net_arch": [32]},
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("env", [Point, DiscretePoint])
def test_every_rollout_is_rewarded_by_the_reward_model(env: type[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    rater = Rater()
    agent = make_agent(rater, env)
    inputs: list[tuple[np.ndarray, np.ndarray]] = []

    def five(observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs.append((observations, actions))
        return np.full(len(observations), 5.0, np.float32), np.zeros(len(observations), np.float32)

    monkeypatch.setattr(agent, "learned_reward", five)
    agent.learn(1_000)
    assert [len(queries) for queries in rater.asked] == [20, 20]
    assert agent.feedback.labels == 40
    size = spaces.flatdim(env.action_space)
    assert {segment.actions.shape for query in rater.asked[0] for segment in query.segments} == {(8, size)}
    assert {(observations.shape, actions.shape) for observations, actions in inputs} == {((200, 2), (200, size))}
    assert all(np.abs(actions).max() <= 2.0 for _, actions in inputs)
    # Time limits add the bootstrap value, once in each of two episodes of 25 steps.
    assert np.isclose(agent.rollout_buffer.rewards, 5.0).sum() == 4 * 48


def test_it_learns_to_please_the_rater() -> None:
    # So short a walk is learned before running statistics settle.
    agent = make_agent(Rater(), labels=400, per_session=50, interact=1_000, normalise_observations=False)
    before, after = mean_position(agent), mean_position(agent.learn(12_000))
    assert after > before + 0.5


def mean_position(agent: PrefPPO) -> float:
    env, positions = Point(), []
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        for _ in range(25):
            observation, *_ = env.step(agent.predict(observation, deterministic=True)[0])
        positions.append(-abs(env.position - 1.0))
    return float(np.mean(positions))


def test_the_upper_bound_sees_the_true_reward() -> None:
    agent = make_agent(None, true_reward=True)
    agent.learn(200)
    assert agent.rollout_buffer.rewards.max() <= 0.0
    assert agent.rollout_buffer.rewards.min() < -0.1


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(400)
    agent.feedback.total_steps = 1_000
    agent.save_checkpoint(tmp_path / "checkpoint")
    rater = Rater()
    resumed = make_agent(rater)
    resumed.resume(tmp_path / "checkpoint")
    resumed.learn(400, reset_num_timesteps=False)
    assert resumed.num_timesteps == 800
    assert [len(queries) for queries in rater.asked] in ([], [20])
    assert resumed.feedback.labels == 40


def test_the_policy_sees_normalised_observations_and_the_rater_raw_ones() -> None:
    agent = make_agent(Rater())
    agent.learn(800)
    seen = agent.recorder.buffer.trajectories().observations
    extractor = agent.policy.features_extractor
    features = extractor(torch.from_numpy(agent.rollout_buffer.observations.reshape(-1, seen.shape[1])))
    assert extractor.count == agent.num_timesteps
    assert features.abs().max() <= 10.0
    np.testing.assert_allclose(extractor.mean.numpy(), seen.mean(0), atol=0.2 * seen.std(0).max() + 1e-6)


@given(arrays(np.float32, st.tuples(st.integers(2, 40), st.just(3)), elements=st.floats(-100, 100, width=32)))
def test_running_statistics_are_those_of_everything_seen(values: np.ndarray) -> None:
    norm = NormalisedObservations(spaces.Box(-np.inf, np.inf, (3,)))
    parts = np.array_split(values, [len(values) // 3, len(values) // 2])
    for part in parts:
        if len(part):
            norm.see(torch.from_numpy(part))
    np.testing.assert_allclose(norm.mean, values.mean(0, dtype=np.float64), atol=1e-6)
    np.testing.assert_allclose(norm.variance, values.var(0, dtype=np.float64), rtol=1e-6, atol=1e-5)


def test_a_saved_policy_keeps_its_statistics(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(400)
    agent.save(tmp_path / "agent.zip")
    again = PrefPPO.load(tmp_path / "agent.zip")
    observation = agent.observation_space.sample()
    np.testing.assert_allclose(
        agent.predict(observation, deterministic=True)[0], again.predict(observation, deterministic=True)[0], rtol=1e-5
    )


def test_labels_that_sessions_at_the_ends_of_rollouts_cannot_ask_are_told() -> None:
    # Rollouts of 4 x 50 steps: sessions at 200, 400 and 600, though they would be due every 10 steps.
    agent = make_agent(Rater(), labels=400, interact=10)
    with pytest.warns(UserWarning, match=r"at most 60 of 400 labels.*sessions of 20 every 200 steps"):
        agent.learn(600)
    assert agent.feedback is not None
    assert agent.feedback.asked == 60
