"""PEARL's robust reward: each step's reward is a normal distribution, and labels are fitted by samples of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from prefenvs.agents.nets.transformer import StepTransformer, initialise
from prefenvs.agents.rewards.losses import preference_loss
from prefenvs.agents.rewards.segment import SegmentReward, SegmentRewardConfig
from prefenvs.limits import FractionBelowOne, NonNegativeFloat, Number, PositiveInt

# Standard deviations stay within exp of this range, so that no sample overflows.
LOG_STD_RANGE = (-5.0, 2.0)


@dataclass(frozen=True)
class GaussianRewardConfig(SegmentRewardConfig):
    """Settings of PEARL's robust reward (Liu et al. 2024) on Preference Transformer's network and schedule.

    `samples`, `entropy_weight` and `entropy_floor` are this project's choice; the paper's could not be checked.
    """

    backbone: Literal["transformer", "mlp"] = "transformer"
    """transformer: a causal one over the window, as in the paper; mlp: the reward sees its own step alone."""
    width: PositiveInt = 256
    """Width of the transformer, or of the MLP's hidden layers."""
    layers: PositiveInt = 1
    """Transformer blocks; the MLP has two more hidden layers than that."""
    heads: PositiveInt = 4
    """Attention heads of each block."""
    dropout: FractionBelowOne = 0.1
    """Dropout of the transformer."""
    positions: PositiveInt = 1000
    """Longest segment."""
    samples: PositiveInt = 5
    """Sampled rewards of each step for one loss."""
    entropy_weight: NonNegativeFloat = 0.1
    """Weight lambda of the penalty on entropies below the floor; 0 leaves the variance to the cross entropy."""
    entropy_floor: Number = 0.0
    """Entropy eta, in nats, below which a step's distribution is penalised; 0 is a standard deviation of 0.24."""


class GaussianNetwork(nn.Module):
    """Mean and standard deviation of each step's reward."""

    def __init__(self, observation_size: int, action_size: int, config: GaussianRewardConfig) -> None:
        super().__init__()
        width, inputs = config.width, observation_size + action_size
        self.steps: nn.Module
        if config.backbone == "transformer":
            self.steps = StepTransformer(
                observation_size, action_size, width, config.layers, config.heads, config.dropout, config.positions
            )
            self.head = nn.Linear(width, 2)
            initialise(self.head)
        else:
            hidden = [inputs] + [width] * (config.layers + 2)
            parts = [
                part for i, size in enumerate(hidden[1:]) for part in (nn.Linear(hidden[i], size), nn.LeakyReLU(0.01))
            ]
            self.steps, self.head = nn.Sequential(*parts), nn.Linear(width, 2)

    def forward(self, inputs: Tensor, last: bool = False) -> tuple[Tensor, Tensor]:
        """Return means and standard deviations [B, T] for steps [B, T, obs + act], or [B, 1] of the last alone."""
        if isinstance(self.steps, StepTransformer):
            hidden = self.steps.of_actions(inputs, last=last)
        else:
            hidden = self.steps(inputs[:, -1:] if last else inputs)
        mean, log_std = self.head(hidden).unbind(-1)
        return mean, log_std.clamp(*LOG_STD_RANGE).exp()


class GaussianReward(SegmentReward[GaussianRewardConfig]):
    """r_t ~ N(mu_t, sigma_t^2); loss = mean over samples of the cross entropy + lambda max(0, eta - mean entropy).

    Samples are mu + sigma * epsilon, so that gradients reach both (Liu et al. 2024, robust reward learning). The floor
    keeps the variance from vanishing, which the cross entropy alone would bring about; what it flattens most is a
    confident fit to a wrong label. The reward for an agent is mu.
    """

    format = "prefenvs-gaussian-reward-1"
    config_type = GaussianRewardConfig

    def _build(self) -> nn.Module:
        return GaussianNetwork(self.observation_size, self.action_size, self.config)

    def _context(self, steps: int) -> int:
        return steps if self.config.backbone == "transformer" else 1

    def step_rewards(self, inputs: Tensor, last: bool = False) -> Tensor:
        """Return the mean rewards [B, T] of steps [B, T, obs + act], or [B, 1] of the last step alone."""
        mean: Tensor = self.network(inputs, last)[0]
        return mean

    def score_segments(self, inputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return the aggregated mean rewards [B] of steps [B, T, obs + act], of which those `inside` [B, T] exist."""
        return self.aggregate(self.network(inputs)[0], inside)

    def losses(self, inputs: Tensor, inside: Tensor | None, present: Tensor | None, targets: Tensor) -> Tensor:
        """Return PEARL's loss [B] of queries [B, K, T, obs + act]."""
        mean, std = (part.view(inputs.shape[:3]) for part in self.network(inputs.flatten(0, 1)))
        noise = torch.randn(self.config.samples, *mean.shape, device=mean.device)
        scores = self.aggregate(mean + std * noise, inside)
        return self.robust_losses(scores, std, inside, present, targets)

    def robust_losses(
        self, scores: Tensor, std: Tensor, inside: Tensor | None, present: Tensor | None, targets: Tensor
    ) -> Tensor:
        """Return the loss [B] of sampled scores [samples, B, K] and standard deviations [B, K, T]."""
        entropies = gaussian_entropy(std).flatten(1)
        if inside is None:
            entropy = entropies.mean(1)
        else:
            weights = inside.flatten(1)
            entropy = (entropies * weights).sum(1) / weights.sum(1)
        cross_entropy = preference_loss(scores, targets, present).mean(0)
        return cross_entropy + self.config.entropy_weight * (self.config.entropy_floor - entropy).clamp_min(0.0)


def gaussian_entropy(std: Tensor) -> Tensor:
    """Return the entropy [...] in nats, log(2 pi e sigma^2) / 2, of normals with these deviations [...]."""
    return 0.5 * math.log(2.0 * math.pi * math.e) + std.log()
