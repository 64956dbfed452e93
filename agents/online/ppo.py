"""Proximal policy optimisation: its update as one function (Schulman et al. 2017), on normalised observations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.nn.functional import mse_loss

HALF_LOG_2_PI = 0.5 * math.log(2.0 * math.pi)


class Minibatch(NamedTuple):
    """B steps of a rollout: observations [B, ...], actions [B, act] or [B], the rest [B]."""

    observations: Tensor
    actions: Tensor
    old_values: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    returns: Tensor


def minibatches(agent: PPO) -> Iterator[Minibatch]:
    """Yield the agent's rollout in minibatches of a random order, cut on the device, where all of it goes at once."""
    buffer, device = agent.rollout_buffer, agent.device
    names = ("observations", "actions", "values", "log_probs", "advantages", "returns")
    arrays = (getattr(buffer, name) for name in names)
    # After its own `get`, the buffer's arrays are flat already.
    flat = (array if buffer.generator_ready else buffer.swap_and_flatten(array) for array in arrays)
    seen, *rest = flat
    # Pictures are made numbers a minibatch at a time, by the policy.
    observations = torch.from_numpy(seen).to(device, None if seen.dtype == np.uint8 else torch.float32)
    actions, *numbers = (torch.from_numpy(array).to(device, torch.float32) for array in rest)
    if isinstance(agent.action_space, spaces.Discrete):
        actions = actions.flatten().long()
    columns = [observations, actions, *(number.flatten() for number in numbers)]
    order = torch.from_numpy(np.random.permutation(len(observations)))  # noqa: NPY002 - SB3 seeds the global generator
    for rows in torch.split(order.to(device), agent.batch_size):
        yield Minibatch(*(column[rows] for column in columns))


def evaluate(policy: ActorCriticPolicy, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, log-probabilities and entropies, [B] each, of `policy.evaluate_actions`.

    For a diagonal Gaussian by its formulas, without the distribution's objects and checks.
    """
    if not isinstance(policy.action_dist, DiagGaussianDistribution):
        values, log_probs, entropies = policy.evaluate_actions(observations, actions)
        return values.flatten(), log_probs, -log_probs if entropies is None else entropies
    features = policy.extract_features(observations)
    own, critics = features if isinstance(features, tuple) else (features, features)
    latent, critic_latent = policy.mlp_extractor.forward_actor(own), policy.mlp_extractor.forward_critic(critics)
    log_std = policy.log_std
    error = (actions - policy.action_net(latent)) * torch.exp(-log_std)
    log_probs = -0.5 * error.square().sum(1) - (log_std + HALF_LOG_2_PI).sum()
    entropy = (log_std + 0.5 + HALF_LOG_2_PI).sum()
    return policy.value_net(critic_latent).flatten(), log_probs, entropy


def update(agent: PPO, batch: Minibatch, clip_range: float, clip_range_vf: float | None = None) -> dict[str, Tensor]:
    """Take one gradient step on policy and value function; with `agent.target_kl` only while close to the old policy.

    Returns detached scalars that stay on the device, as Stable-Baselines3 logs them.
    """
    values, log_probs, entropies = evaluate(agent.policy, batch.observations, batch.actions)
    advantages = batch.advantages
    if agent.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_probs - batch.old_log_probs
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    if clip_range_vf is not None:
        values = batch.old_values + (values - batch.old_values).clamp(-clip_range_vf, clip_range_vf)
    value_loss = mse_loss(values, batch.returns)
    entropy_loss = -entropies.mean()
    loss = policy_loss + agent.ent_coef * entropy_loss + agent.vf_coef * value_loss
    metrics = {"policy_gradient_loss": policy_loss, "value_loss": value_loss, "entropy_loss": entropy_loss}
    metrics |= {"loss": loss, "approx_kl": (ratio - 1.0 - log_ratio).mean()}
    metrics = {name: metric.detach() for name, metric in metrics.items()}
    metrics["clip_fraction"] = (ratio.detach() != clipped.detach()).float().mean()
    if _too_far(agent, metrics):
        return metrics
    agent.policy.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(agent.policy.parameters(), agent.max_grad_norm)
    agent.policy.optimizer.step()
    return metrics


def train(agent: PPO, epochs: int) -> dict[str, float]:
    """Take PPO's epochs on the agent's rollout; return the last epoch's metrics, means over minibatches."""
    progress = agent._current_progress_remaining
    clip_range: float = agent.clip_range(progress)  # type: ignore[operator]
    clip_range_vf = None if agent.clip_range_vf is None else agent.clip_range_vf(progress)  # type: ignore[operator]
    metrics: list[dict[str, Tensor]] = []
    for _ in range(epochs):
        metrics = []
        for batch in minibatches(agent):
            metrics.append(update(agent, batch, clip_range, clip_range_vf))
            if _too_far(agent, metrics[-1]):
                break
        agent._n_updates += 1
        if _too_far(agent, metrics[-1]):
            break
    # Read once, at the end: each look at a tensor of a device waits for it.
    means = {name: torch.stack([step[name] for step in metrics]).mean() for name in metrics[0]}
    return {name: float(mean) for name, mean in means.items()} | {"clip_range": clip_range}


def _too_far(agent: PPO, metrics: dict[str, Tensor]) -> bool:
    """Whether the policy has left the old one behind by more than its target allows."""
    return agent.target_kl is not None and float(metrics["approx_kl"]) > 1.5 * agent.target_kl
