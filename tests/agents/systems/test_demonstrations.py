"""PEBBLE kept close to demonstrations: the divergence, the clone, and where neither can be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import prefenvs
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.variants.demonstrations import DemonstrationPEBBLE, DemonstrationsConfig, gaussian_kl
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import PartialReturnOracle
from prefenvs.trajectories import Trajectories

CONFIG = DemonstrationsConfig(
    labels=10,
    per_session=10,
    interact=200,
    segment_length=10,
    unsupervised_steps=0,
    reward=RewardConfig(members=1, width=16, layers=1, epochs=1),
    selector="uniform",
    clone_updates=300,
    reset_updates=10,
)
SMALL: dict[str, Any] = {
    "learning_starts": 210,
    "batch_size": 32,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


def shown(size: int = 3) -> Trajectories:
    """Steps of a person who turns by half of the sine of the angle."""
    angle = np.random.default_rng(0).uniform(-np.pi, np.pi, 400)
    seen = np.stack([np.cos(angle), np.sin(angle), np.zeros(400)], 1).astype(np.float32)[:, :size]
    return Trajectories(seen, np.sin(angle)[:, None].astype(np.float32), np.array([200, 400]), task="Pendulum-v1")


def make(config: DemonstrationsConfig = CONFIG, data: Trajectories | None = None) -> DemonstrationPEBBLE:
    env, rater = prefenvs.make("Pendulum-v1"), PartialReturnOracle(seed=0)
    return DemonstrationPEBBLE("MlpPolicy", env, rater, config, demonstrations=data, **SMALL)


def test_the_divergence_is_that_of_squashed_gaussians_by_sampling() -> None:
    mean, log_std, other = torch.tensor([[0.3, -0.2]]), torch.tensor([[-0.5, -1.0]]), torch.tensor([[0.0, 0.1]])
    normal, cloned = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(other, 0.7)
    squash = torch.distributions.TanhTransform(cache_size=1)
    policies = [torch.distributions.TransformedDistribution(one, [squash]) for one in (normal, cloned)]
    torch.manual_seed(0)
    actions = policies[0].sample(torch.Size([200_000])).clamp(-1 + 1e-6, 1 - 1e-6)
    sampled = (policies[0].log_prob(actions) - policies[1].log_prob(actions)).sum(-1).mean()
    assert float(gaussian_kl(mean, log_std, other, 0.7)) == pytest.approx(float(sampled), abs=0.01)
    assert float(gaussian_kl(mean, torch.full((1, 2), 0.7).log(), mean, 0.7)) == pytest.approx(0.0, abs=1e-6)


def test_the_agent_begins_as_the_clone_and_a_weight_keeps_it_there() -> None:
    data, apart = shown(), {}
    for weight in (0.0, 100.0):
        agent = make(dataclasses.replace(CONFIG, kl_weight=weight), data)
        agent.learn(300)
        states = torch.as_tensor(data.observations)
        with torch.no_grad():
            cloned = agent.clone.get_action_dist_params(states)[0]
            apart[weight] = float((agent.actor.get_action_dist_params(states)[0] - cloned).square().mean())
        # Torques of at most 2 are scaled to 1.
        error = 2.0 * cloned.tanh().numpy() - data.actions
        assert np.sqrt(np.square(error).mean()) < 0.15
    assert apart[100.0] < 0.2 * apart[0.0]


def test_a_body_that_normalises_sees_what_the_clone_learned_from() -> None:
    data = shown()
    config, small = dataclasses.replace(CONFIG, kl_weight=0.0), SMALL | {"policy_kwargs": {"net_arch": [16]}}
    small["policy_kwargs"]["body"] = "simba"
    agent = DemonstrationPEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), None, config, demonstrations=data, **small)
    agent.oracle = PartialReturnOracle(seed=0)
    agent.learn(211)
    np.testing.assert_allclose(agent.clone.features_extractor.mean, data.observations.mean(0), atol=1e-5)
    states = torch.as_tensor(data.observations)
    with torch.no_grad():
        kept = agent.clone.get_action_dist_params(states)[0].tanh()
    # Torques of at most 2 are scaled to 1.
    assert np.sqrt(np.square(2.0 * kept.numpy() - data.actions).mean()) < 0.15
    assert int(agent.actor.features_extractor.count) == 400 + 211


def test_the_weight_falls_linearly_to_nothing() -> None:
    agent = make(dataclasses.replace(CONFIG, kl_weight=2.0, kl_until=0.5), shown())
    for left, weight in ((1.0, 2.0), (0.75, 1.0), (0.5, 0.0), (0.1, 0.0)):
        agent._current_progress_remaining = left
        assert agent.kl_weight == pytest.approx(weight)
    assert agent.actor_penalty(torch.zeros(1, 3)) is None


def test_demonstrations_that_are_missing_or_of_another_task_are_refused_in_a_line() -> None:
    with pytest.raises(PrefenvsError, match="demonstrations are missing"):
        make().learn(420)
    with pytest.raises(PrefenvsError, match=r"have observations \[2\] and actions \[1\], but Pendulum-v1 has \[3\]"):
        make(data=shown(2)).learn(420)
