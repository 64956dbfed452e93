"""Preference Transformer: a reward that depends on the past, with a weight for each step of a segment."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefenvs.agents.nets.transformer import StepTransformer, initialise
from prefenvs.agents.rewards.segment import SegmentReward, SegmentRewardConfig
from prefenvs.limits import FractionBelowOne, PositiveInt


@dataclass(frozen=True)
class PreferenceTransformerConfig(SegmentRewardConfig):
    """Settings of Preference Transformer; the defaults are those of its released command (Kim et al. 2023)."""

    width: PositiveInt = 256
    """Width of tokens and hidden states."""
    layers: PositiveInt = 1
    """Transformer blocks."""
    heads: PositiveInt = 4
    """Attention heads of each."""
    dropout: FractionBelowOne = 0.1
    """Dropout of embeddings, attention and both branches of a block."""
    positions: PositiveInt = 1000
    """Longest segment."""
    attention: bool = True
    """The paper's preference attention layer.

    The released command leaves it out: with False, a segment's score is the mean of its steps' rewards, from an MLP.
    """
    scaled: bool = False
    """Divide its query-key products by the square root of the width, which the released code does not."""


class PreferenceNetwork(nn.Module):
    """A causal transformer whose hidden state after each action gives a query, a key and a reward."""

    def __init__(self, observation_size: int, action_size: int, config: PreferenceTransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.attention, self.scale = config.attention, width**-0.5 if config.scaled else 1.0
        self.steps = StepTransformer(
            observation_size, action_size, width, config.layers, config.heads, config.dropout, config.positions
        )
        self.head = (
            nn.Linear(width, 2 * width + 1)
            if config.attention
            else nn.Sequential(nn.Linear(width, width // 2), nn.ReLU(), nn.Linear(width // 2, 1))
        )
        initialise(self.head)

    def forward(self, inputs: Tensor, last: bool = False) -> Tensor:
        """Return [B, T, 2 width + 1], or [B, T, 1] without attention layer; the last number is the reward."""
        head: Tensor = self.head(self.steps.of_actions(inputs, last=last))
        return head

    def weigh(self, outputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return z [B, T], z_i = sum_j softmax_j(q_i . k_j) r_j over the steps j that are inside."""
        rewards = outputs[..., -1]
        if not self.attention:
            return rewards
        query, key = outputs[..., :-1].chunk(2, -1)
        products = self.scale * query @ key.mT
        if inside is not None:
            products = products.masked_fill(~inside[:, None, :], -torch.inf)
        return (products.softmax(-1).nan_to_num() @ rewards[..., None]).squeeze(-1)


class PreferenceTransformer(SegmentReward[PreferenceTransformerConfig]):
    """Rewards r_t from all steps up to t, and importance weights that say how much each counts in its segment.

    Score of a segment of L steps: (1/L) sum_i z_i = sum_j w_j r_j with w_j = (1/L) sum_i softmax_j(q_i . k_j); the
    loss is the cross entropy between labels and the softmax of scores (Kim et al. 2023, section 4). `aggregate="sum"`
    multiplies that score by L. The reward for an agent is r_t, not w_t r_t, of the window of as many steps as the
    segments had that ends at t, as released. Tokens of a step are (observation, action).
    """

    format = "prefenvs-preference-transformer-1"
    config_type = PreferenceTransformerConfig

    def _build(self) -> nn.Module:
        return PreferenceNetwork(self.observation_size, self.action_size, self.config)

    def step_rewards(self, inputs: Tensor, last: bool = False) -> Tensor:
        """Return the rewards r [B, T] of steps [B, T, obs + act], or [B, 1] of the last step alone."""
        rewards: Tensor = self.network(inputs, last)[..., -1]
        return rewards

    def score_segments(self, inputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return each segment's score [B] for steps [B, T, obs + act], of which those `inside` [B, T] exist."""
        assert isinstance(self.network, PreferenceNetwork)
        return self.aggregate(self.network.weigh(self.network(inputs), inside), inside)
