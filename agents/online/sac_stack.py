"""One gradient step of several soft actor-critics: each layer of all of them is one batched product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from torch import Tensor, nn

from prefenvs.agents.nets.critics import StackedCritic
from prefenvs.agents.nets.flat import FlatParameters
from prefenvs.agents.nets.mlp import InnerLinear, stacked_linear
from prefenvs.agents.nets.policies import BoundedActor, bound_log_std
from prefenvs.agents.online.sac import SquashedSample, actor_gradients, squash
from prefenvs.errors import PrefenvsError


class Step(NamedTuple):
    """What an agent needs for a gradient step: its batch, the noise of two actions [B, act], and whether to move."""

    batch: ReplayBufferSamples
    noises: tuple[Tensor, Tensor]
    move_target: bool


class SACStack:
    """K agents of one architecture, their parameters rows of one matrix for actors, critics and target critics each.

    The agents stay what they are: their parameters are views of their rows, and each keeps its own optimisers.
    """

    def __init__(self, agents: Sequence[SAC]) -> None:
        """Raises PrefenvsError for agents whose networks cannot be stacked."""
        self.agents = list(agents)
        shapes = [[(n, p.shape) for n, p in agent.policy.named_parameters()] for agent in agents]
        if any(shape != shapes[0] for shape in shapes):
            raise PrefenvsError("agents that train together have networks of the same sizes")
        for agent in agents:
            actor, critic = agent.actor, agent.critic
            plain = isinstance(actor, BoundedActor) and not list(actor.features_extractor.parameters())
            if not (
                plain and isinstance(critic, StackedCritic) and critic.stackable and agent.log_ent_coef is not None
            ):
                raise PrefenvsError(
                    "agents that train together have a PebblePolicy of linear layers and a learned temperature"
                )
        self.actor_parameters = [list(agent.actor.parameters()) for agent in agents]
        self.names = [name for name, _ in agents[0].actor.named_parameters()]
        self.critics = _stack([cast("StackedCritic", agent.critic).flat for agent in agents])
        self.targets = _stack([cast("StackedCritic", agent.critic_target).flat for agent in agents])
        self.actors = _stack([FlatParameters(parameters) for parameters in self.actor_parameters])
        self.critic_leaves = self._critic_views(self.critics, leaves=True)
        self.frozen_critics = self._critic_views(self.critics)
        self.target_views = self._critic_views(self.targets)
        self.actor_leaves = dict(zip(self.names, self._actor_views(), strict=True))

    def update(self, steps: Sequence[Step]) -> list[dict[str, Tensor]]:
        """Take one gradient step of every agent, as `online.sac.update` does, and return the metrics of each."""
        agents, rows = self.agents, len(steps[0].batch.rewards)
        batches = [tuple(step.batch[:5]) for step in steps]
        observations, actions, following, dones, rewards = (torch.stack(parts) for parts in zip(*batches, strict=True))
        noises = [torch.stack([step.noises[i] for step in steps]) for i in (0, 1)]
        temperatures = torch.stack([agent.log_ent_coef.detach().exp() for agent in agents]).view(-1, 1, 1)  # type: ignore[union-attr]

        with torch.no_grad():
            ahead = self._sample(following, noises[0])
            next_values = self._values(self.target_views, following, ahead.actions).amin(1)
            next_values -= temperatures * ahead.log_prob
            targets = torch.addcmul(rewards, 1.0 - dones, next_values, value=agents[0].gamma)
        errors = self._values(self.critic_leaves, observations, actions) - targets[:, None]
        critic_losses = errors.square().sum((1, 2, 3)) * (0.5 / rows)
        gradients = torch.autograd.grad(critic_losses.sum(), self.critic_leaves)
        for k, agent in enumerate(agents):
            critic = cast("StackedCritic", agent.critic)
            critic.give_gradients(gradient.view(len(agents), -1, *gradient.shape[1:])[k] for gradient in gradients)
            critic.optimizer.step()

        sample = self._sample(observations, noises[1])
        chosen = sample.actions.requires_grad_()
        values = self._values(self.frozen_critics, observations, chosen).amin(1)
        (value_gradients,) = torch.autograd.grad(values.sum(), chosen)
        by_sample = actor_gradients(sample, value_gradients, temperatures)
        leaves = list(self.actor_leaves.values())
        actor_grads = torch.autograd.grad((sample.mean, sample.log_std), leaves, by_sample)
        for k, agent in enumerate(agents):
            for parameter, gradient in zip(self.actor_parameters[k], actor_grads, strict=True):
                parameter.grad = gradient[k]
            agent.actor.optimizer.step()

        entropies = -sample.log_prob.mean((1, 2))
        for agent, entropy in zip(agents, entropies, strict=True):
            coefficient, optimizer = agent.log_ent_coef, agent.ent_coef_optimizer
            assert coefficient is not None
            assert optimizer is not None
            coefficient.grad = (entropy - float(agent.target_entropy)).view_as(coefficient)
            optimizer.step()
        self._move_targets([step.move_target for step in steps])
        with torch.no_grad():
            actor_losses = (temperatures * sample.log_prob - values).mean((1, 2))
        figures = zip(critic_losses.detach(), actor_losses, temperatures.flatten(), entropies, strict=True)
        return [
            {"critic_loss": critic_loss, "actor_loss": actor_loss, "ent_coef": temperature, "entropy": entropy}
            for critic_loss, actor_loss, temperature, entropy in figures
        ]

    def _sample(self, observations: Tensor, noise: Tensor) -> SquashedSample:
        actor = self.agents[0].actor
        x = observations
        for name, layer in actor.latent_pi.named_children():
            x = self._linear(f"latent_pi.{name}", layer, x) if isinstance(layer, nn.Linear) else layer(x)
        mean, log_std = (self._linear(name, getattr(actor, name), x) for name in ("mu", "log_std"))
        return squash(mean, bound_log_std(log_std), noise)

    def _linear(self, name: str, layer: nn.Linear, x: Tensor) -> Tensor:
        weight, bias = self.actor_leaves[f"{name}.weight"], self.actor_leaves[f"{name}.bias"]
        return stacked_linear(x, weight, bias, isinstance(layer, InnerLinear))

    def _values(self, views: Sequence[Tensor], observations: Tensor, actions: Tensor) -> Tensor:
        """Return Q [K, C, B, 1] of each agent's C critics for inputs [K, B, ...]."""
        critic = cast("StackedCritic", self.agents[0].critic)
        x = torch.cat([observations, actions], 2).repeat_interleave(critic.n_critics, 0)
        parameters = iter(views)
        for layer in critic.q_networks[0].children():
            if isinstance(layer, nn.Linear):
                x = stacked_linear(x, next(parameters), next(parameters), isinstance(layer, InnerLinear))
            else:
                x = layer(x)
        return x.view(len(self.agents), critic.n_critics, *x.shape[1:])

    def _critic_views(self, matrix: Tensor, leaves: bool = False) -> list[Tensor]:
        """Views of one layer of all K C critics each: in the matrix, critic follows critic."""
        critic = cast("StackedCritic", self.agents[0].critic)
        each = list(critic.q_networks[0].parameters())
        parts = matrix.view(len(self.agents) * critic.n_critics, -1).split([p.numel() for p in each], dim=1)  # type: ignore[no-untyped-call]
        views = [part.unflatten(1, p.shape) for part, p in zip(parts, each, strict=True)]
        return [view.detach().requires_grad_() for view in views] if leaves else views

    def _actor_views(self) -> list[Tensor]:
        each = self.actor_parameters[0]
        parts = self.actors.split([p.numel() for p in each], dim=1)  # type: ignore[no-untyped-call]
        return [part.unflatten(1, p.shape).detach().requires_grad_() for part, p in zip(parts, each, strict=True)]

    def _move_targets(self, move: Sequence[bool]) -> None:
        tau = self.agents[0].tau
        if all(move):
            self.targets.lerp_(self.critics, tau)
            return
        for k in (k for k, moves in enumerate(move) if moves):
            self.targets[k].lerp_(self.critics[k], tau)


def _stack(each: Sequence[FlatParameters]) -> Tensor:
    """Return the vectors of K networks as one matrix [K, n], whose rows they are from now on."""
    matrix = torch.stack([flat.vector for flat in each])
    for flat, row in zip(each, matrix, strict=True):
        for parameter, part in zip(flat.parameters, flat.split(row), strict=True):
            parameter.data = part
    return matrix
