"""REED's self-prediction against plain torch modules, and when it is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.options.reed import EncodedMLP, ReedConfig, SelfPrediction, Transitions
from prefenvs.errors import PrefenvsError

from ...worlds import make_preferences

CONFIG = ReedConfig(width=24, epochs=3, batch_size=16, learning_rate=1e-3)


def make(seed: int = 0) -> tuple[EncodedMLP, SelfPrediction]:
    generator = torch.Generator().manual_seed(seed)
    network = EncodedMLP((3, 2), [8, 8], 2, generator=generator, normalised=True)
    network.normalise(torch.tensor([0.1, -0.2, 0.3, 0.0, 0.0]), torch.tensor([0.5, 2.0, 1.0, 1.0, 1.0]))
    return network, SelfPrediction(network, CONFIG, generator)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A layer of weights [out, in] and bias [out]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data, layer.bias.data = weight.detach().clone(), bias.detach().clone()
    return layer


class Plain(nn.Module):
    """One member as the published code has it."""

    def __init__(self, network: EncodedMLP, heads: SelfPrediction, k: int) -> None:
        super().__init__()
        parts = [part[k] for part in network.encoders]
        self.state, self.action = linear(parts[0].T, parts[1][0]), linear(parts[2].T, parts[3][0])
        layers = [linear(w[k].T, b[k, 0]) for w, b in zip(network.weights, network.biases, strict=True)]
        self.trunk, self.last = nn.ModuleList(layers[:-1]), layers[-1]
        names = ("predict", "project", "narrow", "widen")
        self.heads = nn.ModuleDict({name: linear(*(p[k] for p in getattr(heads, name).parameters())) for name in names})
        self.norm = nn.BatchNorm1d(heads.scale.shape[2])

    def represent(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        leaky = nn.functional.leaky_relu
        x = torch.cat([leaky(self.state(observations)), leaky(self.action(actions))], -1)
        for layer in self.trunk:
            x = leaky(layer(x))
        return x

    def loss(self, observations: torch.Tensor, actions: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        x = self.heads["project"](self.heads["predict"](self.represent(observations, actions)))
        x = self.heads["widen"](torch.relu(self.norm(self.heads["narrow"](x))))
        target = self.heads["project"](nn.functional.leaky_relu(self.state(following))).detach()
        return -nn.CosineSimilarity(dim=-1)(x, target).mean()


def test_losses_gradients_and_rewards_are_those_of_plain_modules() -> None:
    network, heads = make()
    batch = Transitions(torch.randn(2, 9, 3), torch.randn(2, 9, 2), torch.randn(2, 9, 3))
    losses = heads.loss(batch)
    losses.sum().backward()
    scale = (network.mean[:3], network.std[:3])
    for k in range(2):
        plain = Plain(network, heads, k)
        seen, following = ((part[k] - scale[0]) / scale[1] for part in (batch.observations, batch.following))
        expected = plain.loss(seen, batch.actions[k], following)
        torch.testing.assert_close(losses[k], expected, rtol=1e-4, atol=1e-5)
        expected.backward()
        pairs = [
            (network.encoders[0].grad[k].T, plain.state.weight.grad),
            (network.encoders[2].grad[k].T, plain.action.weight.grad),
            (network.weights[1].grad[k].T, plain.trunk[1].weight.grad),
            (heads.project.weight.grad[k], plain.heads["project"].weight.grad),
            (heads.widen.weight.grad[k], plain.heads["widen"].weight.grad),
            (heads.scale.grad[k, 0], plain.norm.weight.grad),
        ]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        rewards = torch.tanh(plain.last(plain.represent(seen, batch.actions[k])))
        found = network(torch.cat([batch.observations[k], batch.actions[k]], -1))[k]
        torch.testing.assert_close(found, rewards, rtol=1e-4, atol=1e-5)
    assert network.weights[-1].grad is None, "the reward's own layer is not part of it"


def walk(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((count, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, 2)).astype(np.float32)
    following = observations + 0.5 * np.pad(actions, ((0, 0), (0, 1)))
    return observations, actions, following.astype(np.float32)


def test_self_prediction_learns_to_predict() -> None:
    _, heads = make()
    steps = Transitions(*(torch.from_numpy(part) for part in walk(64)))
    before = float(heads.loss(Transitions(*(part.expand(2, -1, -1) for part in steps))).detach().mean())
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        after = heads.learn(steps, generator)
    assert after < before - 0.2
    assert after >= -1.0


def make_model(**kwargs: Any) -> RewardEnsemble:
    reed = ReedConfig(epochs=1, every=2, batch_size=16)
    config = RewardConfig(members=2, width=8, layers=1, epochs=1, reed=reed, **kwargs)
    return RewardEnsemble(3, 2, config, seed=0, device="cpu")


def test_it_comes_before_every_second_fit_and_goes_on_after_loading(tmp_path: Path) -> None:
    model, labels = make_model(), make_preferences(30)
    told = ["self_prediction" in model.fit(labels[:n], transitions=walk(40)) for n in (10, 15, 20)]
    assert told == [True, False, True]
    model.save(tmp_path / "reward.pt")
    loaded = RewardEnsemble.load(tmp_path / "reward.pt", device="cpu")
    for one in (model, loaded):
        assert "self_prediction" not in one.fit(labels[:25], transitions=walk(40))
        assert "self_prediction" in one.fit(labels, transitions=walk(40))
    for first, second in zip(model.network.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(first, second)


def test_it_comes_before_a_fit_of_new_weights() -> None:
    model, labels = make_model(), make_preferences(20)
    model.fit(labels, transitions=walk(40))
    model.trainer.restart()
    assert "self_prediction" in model.fit(labels, transitions=walk(40))


def test_without_steps_of_an_agent_it_is_refused() -> None:
    with pytest.raises(PrefenvsError, match="reed learns from the steps of an agent"):
        make_model().fit(make_preferences(10))
