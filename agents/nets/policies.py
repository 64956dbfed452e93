"""The actor and critics of the PEBBLE line as a Stable-Baselines3 policy."""

from __future__ import annotations

from typing import Any, cast

import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from prefenvs.agents.nets.critics import StackedCritic
from prefenvs.agents.nets.flat import FlatAdam
from prefenvs.agents.nets.mlp import initialise, round_inner

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0


def bound_log_std(raw: torch.Tensor) -> torch.Tensor:
    """Map a layer's outputs into [-5, 2] by tanh."""
    return LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1.0)


class BoundedActor(Actor):
    """SAC's squashed Gaussian with log-std = an affine map of tanh into [-5, 2], as B-Pref has it."""

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return mean and log-std of the Gaussian before squashing, [B, act] each."""
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        return self.mu(latent), bound_log_std(self.log_std(latent)), {}  # type: ignore[operator]


class PebblePolicy(SACPolicy):
    """Stable-Baselines3's SAC policy with `BoundedActor`, `StackedCritic`, orthogonal initialisation and `FlatAdam`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get("optimizer_class", torch.optim.Adam) is torch.optim.Adam:
            kwargs["optimizer_class"] = FlatAdam
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        initialise(self.actor)
        initialise(self.critic)
        self.critic_target.load_state_dict(self.critic.state_dict())
        kinds = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
        self._has_modes = any(isinstance(module, kinds) for module in self.modules())

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Return the actor network."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return BoundedActor(**kwargs).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> StackedCritic:
        """Return the critic networks."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return StackedCritic(**kwargs).to(self.device)

    def set_training_mode(self, mode: bool) -> None:
        """Switch layers that act differently in training; nothing to do, twice for each step, where there are none."""
        if self._has_modes:
            super().set_training_mode(mode)

    def round_inner(self) -> None:
        """Let the layers between the first and the last multiply in bfloat16, for as long as this object lives."""
        round_inner(self.actor.latent_pi, last=True)
        for critic in (self.critic, self.critic_target):
            for network in critic.q_networks:
                round_inner(cast("nn.Sequential", network))

    def reset_critic(self, learning_rate: float) -> None:
        """Forget the critics: new weights, a new target and a new optimiser; the actor stays."""
        initialise(self.critic)
        self.critic_target.load_state_dict(self.critic.state_dict())
        parameters = list(self.critic.parameters())
        make_optimizer: Any = self.optimizer_class
        self.critic.optimizer = make_optimizer(parameters, lr=learning_rate, **self.optimizer_kwargs)
