"""Observations normalised inside a policy, so that recorders and reward models go on seeing them as they are."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor


class NormalisedObservations(FlattenExtractor):
    """Features are (observation - mean) / std, clipped to [-limit, limit]; the statistics are saved with the policy.

    They change only in `see`, never while a rollout is collected or learned from: an on-policy update compares the
    probabilities of one and the same input. Until something has been seen, observations pass through unchanged.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: torch.Tensor

    def __init__(self, observation_space: spaces.Space[Any], limit: float = 10.0) -> None:
        super().__init__(observation_space)
        self.limit = limit
        self.register_buffer("mean", torch.zeros(self.features_dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.features_dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Return normalised features [B, obs] of preprocessed observations."""
        scale = torch.rsqrt(self.variance + 1e-8)
        normalised: torch.Tensor = (self.flatten(observations) - self.mean.float()) * scale.float()
        return normalised.clamp(-self.limit, self.limit)

    @torch.no_grad()
    def see(self, observations: torch.Tensor) -> None:
        """Take observations [B, *shape] of the observation space into mean and variance (Chan, Golub, LeVeque 1983)."""
        new = self.flatten(preprocess_obs(observations, self._observation_space)).double()
        total = self.count + len(new)
        step = new.mean(0) - self.mean
        spread = self.variance * self.count + new.var(0, correction=0) * len(new)
        spread += step.square() * self.count * len(new) / total
        self.mean += step * len(new) / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)
