"""Soft actor-critic as PEBBLE has it: the policy, and its update as one function (Haarnoja et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import BatchedLinear, BatchedMLP, initialise, round_inner

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
LOG_2, HALF_LOG_2_PI = math.log(2.0), 0.5 * math.log(2.0 * math.pi)


class BoundedActor(Actor):
    """SAC's squashed Gaussian with log-std = an affine map of tanh into [-5, 2], as B-Pref has it."""

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return mean and log-std of the Gaussian before squashing, [B, act] each."""
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        raw = torch.tanh(self.log_std(latent))  # type: ignore[operator]
        return self.mu(latent), LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (raw + 1.0), {}


class StackedCritic(BaseModel):
    """K critics Q(s, a), each layer of which is one batched product; `forward` is `ContinuousCritic`'s.

    layer_norm: normalise each hidden layer before its ReLU, without learned scales: such critics stay sane with more
    updates than steps (Ball et al. 2023, RLPD; Lee et al. 2025, SimBa).
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = True,
        layer_norm: bool = False,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.n_critics, self.share_features_extractor = n_critics, share_features_extractor
        sizes = [features_dim + get_action_dim(action_space), *net_arch, 1]
        self.q_networks = BatchedMLP(n_critics, sizes, activation_fn, initialise, layer_norm=layer_norm)

    def forward(self, observations: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Return each critic's values [B, 1]; a features extractor shared with the actor gets no gradient."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(observations, self.features_extractor)  # type: ignore[arg-type]
        values: Tensor = self.q_networks(torch.cat([features, actions], 1))
        return values.unbind()

    def reset_parameters(self) -> None:
        """Draw new weights for all layers of the critics."""
        for layer in self.q_networks:
            if isinstance(layer, BatchedLinear):
                layer.reset_parameters(initialise)


class PebblePolicy(SACPolicy):
    """Stable-Baselines3's SAC policy with `BoundedActor`, `StackedCritic`, orthogonal initialisation and fused Adam."""

    def __init__(self, *args: Any, layer_norm: bool = False, **kwargs: Any) -> None:
        """layer_norm: of the critics; everything else is Stable-Baselines3's."""
        self.layer_norm = layer_norm
        if kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs["optimizer_kwargs"] = {"fused": True} | (kwargs.get("optimizer_kwargs") or {})
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        initialise(self.actor)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Return the actor network."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return BoundedActor(**kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Return the critic networks."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        critic: Any = StackedCritic(**kwargs, layer_norm=self.layer_norm).to(self.device)
        return critic  # type: ignore[no-any-return]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"layer_norm": self.layer_norm}

    def round_inner(self) -> None:
        """Let the layers between the first and the last multiply in bfloat16, for as long as this object lives."""
        round_inner(self.actor.latent_pi, last=True)
        for critic in (self.critic, self.critic_target):
            critic.q_networks.round_inner()  # type: ignore[attr-defined]

    def reset_critic(self, learning_rate: float) -> None:
        """Forget the critics: new weights, a new target and a new optimiser; the actor stays."""
        self.critic.reset_parameters()  # type: ignore[operator]
        self.critic_target.load_state_dict(self.critic.state_dict())
        make_optimizer: Any = self.optimizer_class
        self.critic.optimizer = make_optimizer(self.critic.parameters(), lr=learning_rate, **self.optimizer_kwargs)


class PebbleCnnPolicy(PebblePolicy):
    """`PebblePolicy` on pictures: actor and critics have a convolutional network each (`NatureCNN`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"features_extractor_class": NatureCNN} | kwargs))


def squashed_sample(actor: Actor, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Draw an action [B, act] in [-1, 1] for each observation [B, obs]; return it and its log-probability [B, 1]."""
    mean, log_std, _ = actor.get_action_dist_params(observations)
    noise = torch.randn_like(mean)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) in its stable form 2 (log 2 - x - softplus(-2x)).
    terms = 2.0 * (raw + functional.softplus(-2.0 * raw)) - log_std - 0.5 * noise.square()
    return raw.tanh(), terms.sum(-1, keepdim=True) - mean.shape[-1] * (HALF_LOG_2_PI + 2.0 * LOG_2)


def update(
    agent: SAC,
    batch: ReplayBufferSamples,
    move_target: bool = True,
    move_actor: bool = True,
    penalty: Callable[[Tensor], Tensor | None] | None = None,
) -> dict[str, Tensor]:
    """Take one gradient step on critics, actor and temperature, and move the target critics by tau.

    move_actor: False leaves actor and temperature as they are. penalty: of observations [B, obs], added to the actor's
    loss. Returns detached scalars (critic_loss, and with the
    actor's step actor_loss, ent_coef and entropy) that stay on the device.
    """
    actor, critic, critic_target = agent.actor, agent.critic, agent.critic_target
    temperature = agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()

    with torch.no_grad():
        actions, log_prob = squashed_sample(actor, batch.next_observations)
        next_values = torch.stack(critic_target(batch.next_observations, actions)).amin(0)
        target = batch.rewards + agent.gamma * (1.0 - batch.dones) * (next_values - temperature * log_prob)
    values = torch.stack(critic(batch.observations, batch.actions))
    critic_loss = 0.5 * (values - target).square().mean((1, 2)).sum()
    critic.optimizer.zero_grad()
    critic_loss.backward()  # type: ignore[no-untyped-call]
    critic.optimizer.step()
    metrics = {"critic_loss": critic_loss.detach()}

    if move_actor:
        actions, log_prob = squashed_sample(actor, batch.observations)
        best_values = torch.stack(critic(batch.observations, actions)).amin(0)
        actor_loss = (temperature * log_prob - best_values).mean()
        extra = None if penalty is None else penalty(batch.observations)
        actor_loss = actor_loss if extra is None else actor_loss + extra
        # By the actor's parameters alone: the critics' gradient by their weights would be a tenth of the update's time.
        parameters = list(actor.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(actor_loss, parameters), strict=True):
            parameter.grad = gradient
        actor.optimizer.step()

        entropy = -log_prob.detach().mean()
        if agent.log_ent_coef is not None and agent.ent_coef_optimizer is not None:
            # The loss of the temperature is linear in its logarithm, so this is its gradient.
            agent.log_ent_coef.grad = (entropy - float(agent.target_entropy)).view_as(agent.log_ent_coef)
            agent.ent_coef_optimizer.step()
        metrics |= {"actor_loss": actor_loss.detach(), "ent_coef": temperature, "entropy": entropy}

    if move_target:
        polyak_update(critic.parameters(), critic_target.parameters(), agent.tau)
    return metrics
