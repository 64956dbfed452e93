"""Residual blocks with layer normalisation, and the normaliser of observations before them (SimBa, BRO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import BatchedLinear, Initialise, initialise
from prefenvs.errors import PrefenvsError

Body = Literal["mlp", "simba", "bro"]
"""What stands before the last layer of actor and critics: plain layers, or residual blocks."""


class NormalisedObservations(FlattenExtractor):
    """Features are (observation - mean) / std, clipped to [-limit, limit]; the statistics are saved with the policy.

    They change only in `see`, never while a rollout is collected or learned from: an on-policy update compares the
    probabilities of one and the same input. Until something has been seen, observations pass through unchanged.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, observation_space: spaces.Space[Any], limit: float = 10.0, floor: float = 0.0) -> None:
        """floor: a deviation counts as at least this share of the largest one.

        Entries that hardly vary, as many of Meta-World's, would otherwise drown the others in noise.
        """
        super().__init__(observation_space)
        self.limit, self.floor = limit, floor
        self.register_buffer("mean", torch.zeros(self.features_dim, dtype=torch.float64))
        self.register_buffer("variance", torch.ones(self.features_dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, observations: Tensor) -> Tensor:
        """Return normalised features [B, obs] of preprocessed observations."""
        variance = torch.maximum(self.variance, self.floor**2 * self.variance.amax())
        scale = torch.rsqrt(variance + 1e-8)
        normalised: Tensor = (self.flatten(observations) - self.mean.float()) * scale.float()
        return normalised.clamp(-self.limit, self.limit)

    @torch.no_grad()
    def see(self, observations: Tensor) -> None:
        """Take observations [B, *shape] of the observation space into mean and variance (Chan, Golub, LeVeque 1983)."""
        new = self.flatten(preprocess_obs(observations, self._observation_space)).double()
        total = self.count + len(new)
        step = new.mean(0) - self.mean
        spread = self.variance * self.count + new.var(0, correction=0) * len(new)
        spread += step.square() * self.count * len(new) / total
        self.mean += step * len(new) / total
        self.variance.copy_(spread / total)
        self.count.copy_(total)


class BatchedLayerNorm(nn.Module):
    """Layer normalisation with scales and offsets of each member's own: x [K, B, d] -> [K, B, d]."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, width))
        self.bias = nn.Parameter(torch.zeros(members, width))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set all scales to 1 and all offsets to 0."""
        self.weight.fill_(1.0)
        self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / std of each row, scaled and moved."""
        return functional.layer_norm(x, self.weight.shape[1:]) * self.weight[:, None] + self.bias[:, None]


class ResidualBody(nn.Module):
    """Residual blocks x + f(x) of one width, between a first layer and a last normalisation.

    simba (Lee et al. 2025, "SimBa", section 4): a linear layer; blocks LayerNorm, linear to 4 d, ReLU, linear to d;
    LayerNorm. bro (Nauman et al. 2024, "Bigger, Regularized, Optimistic", BroNet): a linear layer, LayerNorm and ReLU;
    blocks linear, LayerNorm, ReLU, linear, LayerNorm. Blocks of simba start as He et al. have it (2015), all else
    orthogonal.
    members: K networks at once, for inputs [K, B, in] or shared [B, in]; None: one, [B, in].
    """

    def __init__(self, kind: Body, inputs: int, widths: Sequence[int], members: int | None = None) -> None:
        """Raises PrefenvsError for blocks of unlike widths, or none."""
        super().__init__()
        if not widths or len({*widths}) > 1:
            raise PrefenvsError(
                f"residual blocks are of one width, got hidden={tuple(widths)}: give it once for each block, 128 128"
            )
        width = widths[0]

        def norm() -> nn.Module:
            return nn.LayerNorm(width) if members is None else BatchedLayerNorm(members, width)

        def linear(fan_in: int, fan_out: int, start: Initialise = initialise) -> nn.Module:
            if members is not None:
                return BatchedLinear(members, fan_in, fan_out, start)
            layer = nn.Linear(fan_in, fan_out)
            start(layer)
            return layer

        if kind == "simba":
            self.first = nn.Sequential(linear(inputs, width))
            blocks = [
                nn.Sequential(norm(), linear(width, 4 * width, he), nn.ReLU(), linear(4 * width, width, he))
                for _ in widths
            ]
            self.last = nn.Sequential(norm())
        else:
            self.first = nn.Sequential(linear(inputs, width), norm(), nn.ReLU())
            blocks = [
                nn.Sequential(linear(width, width), norm(), nn.ReLU(), linear(width, width), norm()) for _ in widths
            ]
            self.last = nn.Sequential()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., B, d]."""
        x = self.first(x)
        for block in self.blocks:
            x = x + block(x)
        result: Tensor = self.last(x)
        return result


def he(layer: nn.Linear) -> None:
    """Give a linear layer He's normal weights, of variance 2 / inputs, and zero bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
