"""ACT that `lerobot-train` can weigh: a plug-in of LeRobot, installed beside it, used as --policy.type=weighted_act.

LeRobot's weighted training calls `forward(batch, reduction="none")`, which its ACT lacks. The networks are those of
LeRobot's ACT, and at equal weights the loss is that of version 0.4.4 (0.6.1 leaves actions after an episode's end out
of the mean, where 0.4.4 counts them as met).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.act.processor_act import make_act_pre_post_processors


@PreTrainedConfig.register_subclass("weighted_act")
@dataclass
class WeightedACTConfig(ACTConfig):
    """ACT's settings."""


class WeightedACTPolicy(ACTPolicy):
    """ACT with a loss for each sample of a batch."""

    config_class = WeightedACTConfig
    name = "weighted_act"

    def forward(self, batch: dict[str, Any], reduction: str = "mean") -> tuple[torch.Tensor, dict[str, float]]:
        """Return ACT's loss, its mean or one for each of the N samples, and what is logged of it."""
        if self.config.image_features:
            batch = {**batch, "observation.images": [batch[key] for key in self.config.image_features]}
        actions, (mean, log_variance) = self.model(batch)
        known = ~batch["action_is_pad"].unsqueeze(-1)
        loss = ((batch["action"] - actions).abs() * known).mean((1, 2))
        logged = {"l1_loss": loss.mean().item()}
        if self.config.use_vae and log_variance is not None:
            divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
            logged["kld_loss"] = divergence.mean().item()
            loss = loss + self.config.kl_weight * divergence
        return (loss if reduction == "none" else loss.mean()), logged


def make_weighted_act_pre_post_processors(config: WeightedACTConfig, dataset_stats: Any = None) -> Any:
    """Return ACT's processors, which LeRobot looks for under this name."""
    return make_act_pre_post_processors(config, dataset_stats)
