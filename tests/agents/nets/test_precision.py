"""bfloat16 within networks: close to float32, the same parameters, and the same in a group of seeds as alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from torch import nn

from prefenvs.agents import PEBBLE, PrefPPO, PrefPPOConfig
from prefenvs.agents.nets.mlp import BatchedMLP, InnerLinear, round_inner
from prefenvs.agents.offline.actor import TanhActor
from prefenvs.agents.offline.seeds import SeedGroup
from prefenvs.agents.online.sac import PebblePolicy, update
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.errors import PrefenvsError

from ..offline.test_seeds import MADE, make
from ..online.test_pebble import make_agent, make_config
from ..online.test_sac import filled
from ..worlds import Point, Rater

WIDE: dict[str, Any] = {"policy_kwargs": {"net_arch": [32, 32, 32]}}


def inner_layers(module: nn.Module) -> int:
    return sum(isinstance(layer, InnerLinear) or getattr(layer, "rounded", False) for layer in module.modules())


def test_only_what_lies_between_the_first_and_the_last_layer_is_rounded() -> None:
    layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x, before = torch.randn(5, 3), dict(layers.named_parameters())
    exact = layers(x)
    round_inner(layers)
    assert [type(layer) for layer in layers if isinstance(layer, nn.Linear)] == [nn.Linear, InnerLinear, nn.Linear]
    assert all(parameter is before[name] for name, parameter in layers.named_parameters())
    rough = layers(x)
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(rough, exact)
    assert rough.dtype == torch.float32
    rough.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layers.parameters())


@pytest.mark.parametrize("kind", ["critics", "actor"])
def test_networks_of_offline_learners_stay_close(kind: str) -> None:
    def network(precision: Any) -> nn.Module:
        torch.manual_seed(0)
        if kind == "critics":
            return BatchedMLP(2, [5, 64, 64, 1], precision=precision)
        return TanhActor(5, 2, (64, 64), precision=precision)

    x = torch.randn(100, 5)
    exact, rough = (network(precision)(x) for precision in ("float32", "bfloat16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.03, atol=0.01)


def test_a_sac_update_in_bfloat16_is_close_to_the_exact_one() -> None:
    agents = [filled(SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu", **WIDE)) for _ in range(2)]
    agents[1].policy.round_inner()
    assert inner_layers(agents[1].policy) == 2 + 2 * 2, "two in the actor, two in the critics and in their targets"
    assert agents[0].policy.state_dict().keys() == agents[1].policy.state_dict().keys()
    batch = agents[0].replay_buffer.sample(128)
    results = []
    for agent in agents:
        torch.manual_seed(0)
        results.append(update(agent, batch))
    exact, rough = results
    for name, value in exact.items():
        torch.testing.assert_close(rough[name], value, rtol=0.02, atol=0.01, msg=name)
    assert not torch.equal(rough["critic_loss"], exact["critic_loss"])


def test_pebble_learns_saves_and_loads_in_bfloat16(tmp_path: Path) -> None:
    agent = make_agent(Rater(), Point(), seed=0, config=make_config(precision="bfloat16"), **WIDE)
    agent.learn(150)
    assert agent.reward_learned
    agent.save(tmp_path / "agent.zip")
    loaded = PEBBLE.load(tmp_path / "agent.zip")
    assert inner_layers(loaded.policy) == inner_layers(agent.policy) > 0
    observations = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    np.testing.assert_array_equal(*(one.predict(observations, deterministic=True)[0] for one in (loaded, agent)))


def test_ppo_rounds_its_hidden_layers() -> None:
    config = PrefPPOConfig(true_reward=True, precision="bfloat16", normalise_observations=False)
    agent = PrefPPO("MlpPolicy", gym.make("Pendulum-v1"), None, config, n_steps=32, batch_size=32, n_epochs=1)
    assert inner_layers(agent.policy) == 4


@pytest.mark.parametrize("kind", ["iql", "iql-dropout", "bc", "bc-dropout", "cpl"])
def test_an_offline_learner_in_bfloat16_learns_what_an_exact_one_does(kind, make_dataset, prefer) -> None:
    config = replace(MADE[kind][1], hidden=(32, 32))
    exact, rough = (
        make(kind, make_dataset, prefer, 0, replace(config, precision=precision)).learn(12)
        for precision in ("float32", "bfloat16")
    )
    observations = np.random.default_rng(0).normal(size=(20, exact.observation_size)).astype(np.float32)
    first, second = (learner.predict(observations)[0] for learner in (exact, rough))
    np.testing.assert_allclose(second, first, atol=0.03)
    assert not np.array_equal(first, second)
    with pytest.raises(PrefenvsError, match="precision='half' is unknown: choose float32, bfloat16"):
        replace(config, precision="half")


def test_seeds_in_bfloat16_learn_together_as_alone(make_dataset, prefer) -> None:
    config = replace(MADE["iql"][1], hidden=(32, 32), precision="bfloat16")
    together = [make("iql", make_dataset, prefer, seed, config) for seed in (0, 1)]
    SeedGroup(together).learn(10)
    alone = make("iql", make_dataset, prefer, 1, config).learn(10)
    for name, module in alone._modules().items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(together[1]._modules()[name].state_dict()[key], value, rtol=0.02, atol=1e-3)


def test_an_unknown_precision_is_named() -> None:
    for make_config_of in (PrefPPOConfig, RewardConfig):
        with pytest.raises(PrefenvsError, match="precision='half' is unknown: choose float32, bfloat16"):
            make_config_of(precision="half")
