"""The update of soft actor-critic as one function (Haarnoja et al. 2018, with a learned temperature)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples


def squashed_sample(actor: Any, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tanh-squashed actions [B, act] and their log-probabilities [B, 1]."""
    mean, log_std, _ = actor.get_action_dist_params(observations)
    noise = torch.randn_like(mean)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) in its stable form 2 (log 2 - x - softplus(-2x)).
    squash = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
    log_prob = -0.5 * noise.square() - log_std - 0.5 * math.log(2.0 * math.pi) - squash
    return raw.tanh(), log_prob.sum(1, keepdim=True)


def update(agent: SAC, batch: ReplayBufferSamples, update_target: bool = True) -> dict[str, torch.Tensor]:
    """Take one gradient step on critics, actor and temperature, and move the target critics by tau.

    Returns detached scalars (critic_loss, actor_loss, ent_coef, entropy) that stay on the device.
    """
    temperature = agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()

    with torch.no_grad():
        next_actions, next_log_prob = squashed_sample(agent.actor, batch.next_observations)
        next_q = torch.cat(agent.critic_target(batch.next_observations, next_actions), 1).amin(1, keepdim=True)
        target = batch.rewards + (1.0 - batch.dones) * agent.gamma * (next_q - temperature * next_log_prob)
    q_values = torch.cat(agent.critic(batch.observations, batch.actions), 1)
    critic_loss = 0.5 * (q_values - target).square().mean(0).sum()
    agent.critic.optimizer.zero_grad()
    critic_loss.backward()  # type: ignore[no-untyped-call]
    agent.critic.optimizer.step()

    # The actor's loss needs the critics' gradient by the action, not by their weights.
    agent.critic.requires_grad_(False)
    actions, log_prob = squashed_sample(agent.actor, batch.observations)
    q_values = torch.cat(agent.critic(batch.observations, actions), 1).amin(1, keepdim=True)
    actor_loss = (temperature * log_prob - q_values).mean()
    agent.actor.optimizer.zero_grad()
    actor_loss.backward()  # type: ignore[no-untyped-call]
    agent.actor.optimizer.step()
    agent.critic.requires_grad_(True)

    if agent.log_ent_coef is not None and agent.ent_coef_optimizer is not None:
        alpha_loss = -(agent.log_ent_coef * (log_prob.detach() + float(agent.target_entropy))).mean()
        agent.ent_coef_optimizer.zero_grad()
        alpha_loss.backward()  # type: ignore[no-untyped-call]
        agent.ent_coef_optimizer.step()

    if update_target:
        with torch.no_grad():
            targets, sources = tuple(agent.critic_target.parameters()), tuple(agent.critic.parameters())
            torch._foreach_lerp_(targets, sources, agent.tau)
    return {
        "critic_loss": critic_loss.detach(),
        "actor_loss": actor_loss.detach(),
        "ent_coef": temperature.detach(),
        "entropy": -log_prob.detach().mean(),
    }
