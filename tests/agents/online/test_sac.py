"""Our SAC update against a plain statement of it and against Stable-Baselines3's, on the same batches and noise."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from torch import nn

from prefenvs.agents.direct.ranksgd import RankedPolicy
from prefenvs.agents.nets import kernels
from prefenvs.agents.nets.kernels import products, round_rows
from prefenvs.agents.nets.mlp import BatchedLinear
from prefenvs.agents.online.sac import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    QUANTILES,
    PebblePolicy,
    quantile_loss,
    squashed_sample,
    update,
)


def filled(agent: SAC) -> SAC:
    rng = np.random.default_rng(0)
    for _ in range(300):
        observation = rng.normal(size=(1, 3)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        done = rng.random(1) < 0.1
        agent.replay_buffer.add(observation, observation + 0.1, action, rng.normal(size=1), done, [{}])
    return agent


def test_log_probability_of_a_squashed_sample_is_that_of_the_distribution() -> None:
    agent = SAC("MlpPolicy", gym.make("Pendulum-v1"), seed=0, device="cpu")
    observations = torch.randn(64, 3)
    torch.manual_seed(1)
    actions, log_prob = squashed_sample(agent.actor, observations)
    mean, log_std, _ = agent.actor.get_action_dist_params(observations)
    base = torch.distributions.Normal(mean, log_std.exp())
    expected = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform(cache_size=1))
    torch.testing.assert_close(
        log_prob, expected.log_prob(actions.clamp(-1 + 1e-6, 1 - 1e-6)).sum(1, keepdim=True), rtol=1e-3, atol=1e-3
    )


def test_update_moves_the_critic_as_stable_baselines_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The critic's step depends on the noise of the next action only, so with a fixed temperature both must agree."""
    critics = []
    for ours in (True, False):
        agent = filled(SAC("MlpPolicy", gym.make("Pendulum-v1"), seed=0, device="cpu", ent_coef=0.2))
        agent.set_logger(configure(None, []))
        batch = agent.replay_buffer.sample(128)
        torch.manual_seed(7)
        if ours:
            update(agent, batch)
        else:
            # Stable-Baselines3 draws noise for the actor's action first and for the next action second.
            noise = iter([torch.zeros(128, 1), torch.randn(128, 1)])
            monkeypatch.setattr(
                torch.distributions.Normal, "rsample", lambda n, _=None, noise=noise: n.loc + n.scale * next(noise)
            )
            monkeypatch.setattr(agent.replay_buffer, "sample", lambda *_, batch=batch, **__: batch)
            agent.train(1, 128)
        critics.append(torch.cat([p.detach().flatten() for p in agent.critic.parameters()]))
    # Adam's first step is lr * sign(gradient), which is undecided where a gradient is all but zero.
    differ = (critics[0] - critics[1]).abs() > 1e-6
    assert differ.float().mean() < 1e-3


def separate(critic: Any) -> list[nn.Sequential]:
    """Return each of the stacked critics as layers of its own."""
    critics = []
    for k in range(critic.n_critics):
        layers: list[nn.Module] = []
        for layer in critic.q_networks:
            if isinstance(layer, BatchedLinear):
                own = nn.Linear(layer.weight.shape[2], layer.weight.shape[1])
                own.load_state_dict({"weight": layer.weight[k], "bias": layer.bias[k]})
                layers.append(own)
            else:
                layers.append(copy.deepcopy(layer))
        critics.append(nn.Sequential(*layers))
    return critics


class PlainSAC:
    """SAC as a textbook has it: separate critics, autograd for everything, one optimiser for each part."""

    def __init__(self, agent: SAC) -> None:
        self.actor = copy.deepcopy(agent.actor)
        self.critics, self.targets = separate(agent.critic), separate(agent.critic_target)
        self.log_alpha = agent.log_ent_coef.detach().clone().requires_grad_()
        self.gamma, self.tau, self.target_entropy = agent.gamma, agent.tau, float(agent.target_entropy)
        parameters = [p for critic in self.critics for p in critic.parameters()]
        groups = (self.actor.parameters(), parameters, [self.log_alpha])
        self.optimizers = [torch.optim.Adam(group, lr=agent.learning_rate) for group in groups]

    def sample(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        raw = mean + log_std.exp() * torch.randn_like(mean)
        log_prob = torch.distributions.Normal(mean, log_std.exp()).log_prob(raw)
        squash = 2.0 * (np.log(2.0) - raw - torch.nn.functional.softplus(-2.0 * raw))
        return raw.tanh(), (log_prob - squash).sum(1, keepdim=True)

    def step(self, optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update(self, batch: Any) -> None:
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            actions, log_prob = self.sample(batch.next_observations)
            inputs = torch.cat([batch.next_observations, actions], 1)
            values = torch.minimum(*(target(inputs) for target in self.targets)) - alpha * log_prob
            goal = batch.rewards + self.gamma * (1 - batch.dones) * values
        inputs = torch.cat([batch.observations, batch.actions], 1)
        losses = [0.5 * torch.nn.functional.mse_loss(critic(inputs), goal) for critic in self.critics]
        self.step(self.optimizers[1], losses[0] + losses[1])
        actions, log_prob = self.sample(batch.observations)
        inputs = torch.cat([batch.observations, actions], 1)
        values = torch.minimum(*(critic(inputs) for critic in self.critics))
        self.step(self.optimizers[0], (alpha * log_prob - values).mean())
        self.step(self.optimizers[2], -(self.log_alpha * (log_prob.detach() + self.target_entropy)).mean())
        for critic, target in zip(self.critics, self.targets, strict=True):
            for source, goal in zip(critic.parameters(), target.parameters(), strict=True):
                goal.data.mul_(1 - self.tau).add_(self.tau * source.data)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_many_updates_equal_those_of_a_plain_statement(layer_norm: bool) -> None:
    """Also with the moments of a fresh optimiser and a copy of the agent's parts."""
    kwargs = {"learning_rate": 1e-3, "policy_kwargs": {"layer_norm": layer_norm}}
    agent = filled(SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu", **kwargs))
    norms = [layer for layer in agent.critic.modules() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == (2 if layer_norm else 0)
    plain = PlainSAC(agent)
    for i in range(20):
        batch = agent.replay_buffer.sample(64)
        torch.manual_seed(i)
        plain.update(batch)
        torch.manual_seed(i)
        update(agent, batch)
    pairs = zip(
        [*plain.critics, *plain.targets], [*separate(agent.critic), *separate(agent.critic_target)], strict=True
    )
    for one, other in [*pairs, (plain.actor, agent.actor)]:
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            # Adam's first steps are lr * sign(gradient), whatever the size: a rounding error can cost a few of them.
            assert (p - q).abs().median() < 1e-5
            assert (p - q).abs().max() < 5e-3
    torch.testing.assert_close(agent.log_ent_coef.detach(), plain.log_alpha.detach(), rtol=1e-3, atol=1e-4)


def test_the_quantile_loss_is_qr_dqn_s() -> None:
    torch.manual_seed(0)
    quantiles, targets = torch.randn(5, 4), 3.0 * torch.randn(5, 6)
    total = 0.0
    for b in range(5):
        for i in range(4):
            level = (2 * i + 1) / 8
            for j in range(6):
                error = float(targets[b, j] - quantiles[b, i])
                huber = 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5
                total += abs(level - (error < 0)) * huber / 6 / 5
    assert float(quantile_loss(quantiles, targets)) == pytest.approx(total, rel=1e-5)


def test_a_pessimistic_critic_s_target_is_lowered_by_its_spread_and_the_actor_climbs_its_mean() -> None:
    kwargs = {"learning_rate": 1e-3, "policy_kwargs": {"pessimism": 0.7}}
    agent = filled(SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu", **kwargs))
    assert agent.critic.n_critics == 1
    plain, batch = PlainSAC(agent), agent.replay_buffer.sample(64)
    critic, goal_critic = plain.critics[0], plain.targets[0]
    torch.manual_seed(1)
    alpha = plain.log_alpha.detach().exp()
    with torch.no_grad():
        actions, log_prob = plain.sample(batch.next_observations)
        quantiles = goal_critic(torch.cat([batch.next_observations, actions], 1))
        assert quantiles.shape == (64, QUANTILES)
        centred = quantiles - quantiles.mean(1, keepdim=True)
        lowered = quantiles - 0.7 * (centred**2).mean(1, keepdim=True).sqrt() - alpha * log_prob
        goal = batch.rewards + plain.gamma * (1 - batch.dones) * lowered
    plain.step(plain.optimizers[1], quantile_loss(critic(torch.cat([batch.observations, batch.actions], 1)), goal))
    actions, log_prob = plain.sample(batch.observations)
    values = critic(torch.cat([batch.observations, actions], 1)).mean(1, keepdim=True)
    plain.step(plain.optimizers[0], (alpha * log_prob - values).mean())
    torch.manual_seed(1)
    update(agent, batch)
    for one, other in [(critic, separate(agent.critic)[0]), (plain.actor, agent.actor)]:
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            # As above, of Adam's first step.
            assert (p - q).abs().median() < 1e-5
            assert ((p - q).abs() > 1e-5).float().mean() < 0.02


@pytest.mark.parametrize("kernels_are_exact", [None, False])
def test_fast_float32_products_are_float32(kernels_are_exact: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN is asked where its products are exact on this machine, and nowhere else; None: as it is here."""
    if kernels_are_exact is not None:
        monkeypatch.setattr(kernels, "onednn_is_exact", lambda: kernels_are_exact)
    x, w = torch.rand(300, 70), torch.rand(70, 50)
    exact = x.double() @ w.double()
    before = torch.backends.mkldnn.matmul.fp32_precision
    with products():
        torch.testing.assert_close((x @ w).double(), exact, rtol=1e-6, atol=0.0)
        assert torch.backends.mkldnn.matmul.fp32_precision == ("bf16" if kernels.onednn_is_exact() else before)
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_actor_step_leaves_the_critic_alone_and_its_gradients_on() -> None:
    agent = filled(SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu"))
    metrics = update(agent, agent.replay_buffer.sample(64))
    assert all(parameter.requires_grad for parameter in agent.critic.parameters())
    assert all(torch.isfinite(value).all() for value in metrics.values())


@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_log_std_is_bounded(scale: float) -> None:
    agent = SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu")
    _, log_std, _ = agent.actor.get_action_dist_params(scale * torch.randn(100, 3))
    assert log_std.min() >= LOG_STD_MIN
    assert log_std.max() <= LOG_STD_MAX


def test_reset_critic_forgets_weights_and_optimiser_but_not_the_actor() -> None:
    agent = filled(SAC(PebblePolicy, gym.make("Pendulum-v1"), seed=0, device="cpu"))
    for _ in range(3):
        update(agent, agent.replay_buffer.sample(64))
    actor = [p.clone() for p in agent.actor.parameters()]
    critic = [p.clone() for p in agent.critic.parameters()]
    agent.policy.reset_critic(1e-3)
    assert not agent.critic.optimizer.state
    assert any(not torch.equal(a, b) for a, b in zip(critic, agent.critic.parameters(), strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(agent.critic.parameters(), agent.critic_target.parameters(), strict=True)
    )
    assert all(torch.equal(a, b) for a, b in zip(actor, agent.actor.parameters(), strict=True))


@given(st.integers(1, 200_000))
def test_few_numbers_of_rows_occur(rows: int) -> None:
    """Each costs oneDNN a kernel; none is more than a quarter, or 15, above what it stands for."""
    rounded = round_rows(rows)
    assert rows <= rounded <= rows + max(rows // 4, 15)
    assert rounded == round_rows(rounded)
    assert len({round_rows(n) for n in range(1, 4_097)}) < 35


@pytest.mark.parametrize("kind", [PebblePolicy, RankedPolicy])
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_actions_at_their_bounds_are_within_them(kind: Any, side: float) -> None:
    rng = np.random.default_rng(0)
    low, high = (np.round(rng.uniform(*bounds, 50), 1).astype(np.float32) for bounds in ((-3, 0), (0.1, 3)))
    space = spaces.Box(low, high)
    policy = kind(spaces.Box(-1.0, 1.0, (2,)), space, lambda _: 1e-3, net_arch=[8])
    action = policy.unscale_action(np.full((1, 50), side, np.float32))[0]
    assert space.contains(action)
    np.testing.assert_allclose(action, low if side < 0 else high, rtol=1e-6, atol=1e-6)
