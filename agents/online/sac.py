"""The update of soft actor-critic as one function (Haarnoja et al. 2018, with a learned temperature)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from prefenvs.agents.nets.critics import StackedCritic

LOG_2, HALF_LOG_2_PI = math.log(2.0), 0.5 * math.log(2.0 * math.pi)


class SquashedSample(NamedTuple):
    """Actions tanh(mean + exp(log_std) * noise) [..., B, act], their log-probabilities [..., B, 1], and origins."""

    actions: torch.Tensor
    log_prob: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor
    deviation: torch.Tensor


def squashed_sample(actor: Any, observations: torch.Tensor, noise: torch.Tensor | None = None) -> SquashedSample:
    """Draw one action for each observation, by standard normal `noise` [B, act] if that is given."""
    mean, log_std, _ = actor.get_action_dist_params(observations)
    return squash(mean, log_std, torch.randn_like(mean) if noise is None else noise)


@torch.no_grad()
def squash(mean: torch.Tensor, log_std: torch.Tensor, noise: torch.Tensor) -> SquashedSample:
    """Return the sample that noise makes of Gaussians [..., B, act]; only `mean` and `log_std` carry gradients."""
    deviation = log_std.exp() * noise
    raw = mean + deviation
    # log(1 - tanh(x)^2) in its stable form 2 (log 2 - x - softplus(-2x)).
    terms = 2.0 * (raw + F.softplus(-2.0 * raw)) - log_std - 0.5 * noise.square()
    log_prob = terms.sum(-1, keepdim=True) - mean.shape[-1] * (HALF_LOG_2_PI + 2.0 * LOG_2)
    return SquashedSample(raw.tanh(), log_prob, mean, log_std, deviation)


def actor_gradients(
    sample: SquashedSample, value_gradient: torch.Tensor, temperature: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of the actor's loss, mean(temperature * log_prob - Q), by mean and log_std.

    All are [..., B, act]. value_gradient: the gradient of Q by the action. By the chain rule through
    u = mean + exp(log_std) * noise and a = tanh(u), where d log_prob / du = 2 a, and d log_prob / d log_std = -1 with u
    held fixed.
    """
    actions, rows = sample.actions, sample.actions.shape[-2]
    by_raw = 2.0 * temperature * actions - value_gradient * (1.0 - actions.square())
    return by_raw / rows, (by_raw * sample.deviation - temperature) / rows


def update(
    agent: SAC,
    batch: ReplayBufferSamples,
    update_target: bool = True,
    noises: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
) -> dict[str, torch.Tensor]:
    """Take one gradient step on critics, actor and temperature, and move the target critics by tau.

    noises: of the actions in the target and in the actor's loss, [B, act] each; drawn here unless they are given.

    `agent` has a `PebblePolicy`, or another whose critics are `StackedCritic`. Returns detached scalars (critic_loss,
    actor_loss, ent_coef, entropy) that stay on the device.
    """
    actor: Any = agent.actor
    critic, critic_target = cast("StackedCritic", agent.critic), cast("StackedCritic", agent.critic_target)
    temperature = agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()

    with torch.no_grad():
        following = squashed_sample(actor, batch.next_observations, noises[0])
        next_values = critic_target.values(batch.next_observations, following.actions).amin(0)
        next_values -= temperature * following.log_prob
        target = torch.addcmul(batch.rewards, 1.0 - batch.dones, next_values, value=agent.gamma)
    errors = critic.values(batch.observations, batch.actions) - target
    critic_loss = errors.square().sum() * (0.5 / len(target))
    critic.give_gradients(torch.autograd.grad(critic_loss, critic.leaves))
    critic.optimizer.step()

    sample = squashed_sample(actor, batch.observations, noises[1])
    actions = sample.actions.requires_grad_()
    # The actor's loss needs the critics' gradient by the action, not by their weights.
    values = critic.values(batch.observations, actions, frozen=True).amin(0)
    (value_gradient,) = torch.autograd.grad(values.sum(), actions)
    actor.optimizer.zero_grad()
    with torch.no_grad():
        gradients = actor_gradients(sample, value_gradient, temperature)
        actor_loss = (temperature * sample.log_prob - values).mean()
    torch.autograd.backward((sample.mean, sample.log_std), gradients)
    actor.optimizer.step()

    entropy = -sample.log_prob.mean()
    if agent.log_ent_coef is not None and agent.ent_coef_optimizer is not None:
        # The loss of the temperature is linear in its logarithm, so this is its gradient.
        agent.log_ent_coef.grad = (entropy - float(agent.target_entropy)).view_as(agent.log_ent_coef)
        agent.ent_coef_optimizer.step()

    if update_target:
        critic_target.flat.vector.lerp_(critic.flat.vector, agent.tau)
    return {
        "critic_loss": critic_loss.detach(),
        "actor_loss": actor_loss,
        "ent_coef": temperature.detach(),
        "entropy": entropy,
    }
