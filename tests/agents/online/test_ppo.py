"""The PPO update against Stable-Baselines3's own."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from prefenvs.agents.online import ppo
from prefenvs.agents.online.prefppo import PPOConfig
from prefenvs.errors import PrefenvsError

SPACES = {"box": spaces.Box(-1.0, 1.0, (3,), np.float32), "discrete": spaces.Discrete(4)}


def make_agent(space: str, **settings: Any) -> PPO:
    """An agent with a rollout from a policy that has moved on since, so that ratios are not one."""

    class Blank(gym.Env[np.ndarray, Any]):
        observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
        action_space = SPACES[space]

    envs = DummyVecEnv([Blank] * 2)
    agent = PPO("MlpPolicy", envs, n_steps=24, batch_size=20, n_epochs=3, seed=0, device="cpu", **settings)
    agent.set_logger(configure(None, []))
    rng, buffer = np.random.default_rng(0), agent.rollout_buffer
    for name in ("observations", "advantages", "returns", "values"):
        array = getattr(buffer, name)
        array[:] = rng.standard_normal(array.shape, np.float32)
    buffer.actions[:] = (
        rng.integers(4, size=buffer.actions.shape) if space == "discrete" else rng.normal(size=buffer.actions.shape)
    )
    with torch.no_grad():
        observations = torch.from_numpy(buffer.observations.reshape(48, 5))
        actions = torch.from_numpy(buffer.actions.reshape(48, -1))
        _, log_probs, _ = agent.policy.evaluate_actions(
            observations, actions.squeeze(1) if space == "discrete" else actions
        )
        buffer.log_probs[:] = (log_probs + 0.2 * torch.randn(48)).numpy().reshape(24, 2)
    buffer.full = True
    return agent


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ent_coef": 0.1, "clip_range_vf": 0.1, "normalize_advantage": False, "max_grad_norm": 0.05},
        {"target_kl": 0.015, "policy_kwargs": {"share_features_extractor": False, "log_std_init": -0.5}},
    ],
)
def test_it_is_that_of_stable_baselines3(space: str, settings: dict[str, Any]) -> None:
    theirs = make_agent(space, learning_rate=3e-3, **settings)
    ours = make_agent(space, learning_rate=3e-3, **settings)
    ours.policy.load_state_dict(copy.deepcopy(theirs.policy.state_dict()))
    ours.rollout_buffer.log_probs[:] = theirs.rollout_buffer.log_probs
    np.random.seed(7)  # noqa: NPY002 - SB3 draws from it
    metrics = ppo.train(ours, 3)
    np.random.seed(7)  # noqa: NPY002 - SB3 draws from it
    theirs.train()
    assert ours._n_updates == theirs._n_updates
    assert ("target_kl" in settings) == (ours._n_updates < 3)
    for name, value in theirs.policy.state_dict().items():
        torch.testing.assert_close(ours.policy.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    assert metrics["approx_kl"] == pytest.approx(theirs.logger.name_to_value["train/approx_kl"], rel=1e-3)
    assert np.isfinite(list(metrics.values())).all()


def test_each_step_of_the_rollout_is_seen_once_with_its_own_numbers() -> None:
    agent = make_agent("box")
    agent.rollout_buffer.returns[:] = agent.rollout_buffer.observations[..., 0]
    seen = torch.cat([batch.returns for batch in ppo.minibatches(agent)])
    assert sorted(seen.tolist()) == sorted(agent.rollout_buffer.returns.flatten().tolist())
    for batch in ppo.minibatches(agent):
        torch.testing.assert_close(batch.returns, batch.observations[:, 0])


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"n_steps": 1, "envs": 1}])
def test_a_single_step_has_no_advantage_over_others(settings: dict[str, int]) -> None:
    with pytest.raises(PrefenvsError, match=r"batch_size|raise n_steps or envs"):
        PPOConfig(**settings)
