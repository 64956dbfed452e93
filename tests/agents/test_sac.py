"""Our SAC update against Stable-Baselines3's on the same batch and noise."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from agents.policies import LOG_STD_MAX, LOG_STD_MIN, PebblePolicy
from agents.sac import squashed_sample, update


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
