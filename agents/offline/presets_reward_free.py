"""Published settings of OPPO, IPL, DPPO and the reward models of segments, and small ones for a CPU."""

from __future__ import annotations

import dataclasses

from prefenvs.agents.offline.dppo import DPPOConfig, SegmentScoreConfig
from prefenvs.agents.offline.ipl import IPLConfig
from prefenvs.agents.offline.oppo import OPPOConfig
from prefenvs.agents.offline.presets import Preset
from prefenvs.agents.rewards.pearl import GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformerConfig
from prefenvs.tasks import Task


def oppo_settings(preset: Preset = "published") -> tuple[OPPOConfig, int]:
    """Return OPPO's settings (Kang et al. 2023), and gradient steps."""
    if preset == "small":
        return OPPOConfig(width=64, layers=2, batch_size=32, learning_rate=1e-3, warmup_steps=500), 10_000
    return OPPOConfig(), 100_000


def ipl_settings(task: Task, preset: Preset = "published") -> tuple[IPLConfig, int]:
    """Return IPL's settings (Hejna and Sadigh 2023), and gradient steps: those released for Meta-World, or locomotion.

    On Meta-World the number of transitions of the data set in a batch, and their weight, are still locomotion's: the
    sources at hand do not tell them.
    """
    config, steps = IPLConfig(), 1_000_000
    if task.family == "metaworld":
        hidden = (256, 256, 256)
        config = IPLConfig(regularisation=3.0, expectile=0.75, hidden=hidden, pairs=16, segment_steps=16)
        config, steps = dataclasses.replace(config, limit_values=False), 200_000
    if preset == "small":
        return dataclasses.replace(config, hidden=(256, 256), learning_rate=1e-3), 20_000
    return config, steps


def dppo_settings(preset: Preset = "published") -> tuple[DPPOConfig, int]:
    """Return DPPO's settings (An et al. 2023), and gradient steps."""
    if preset == "small":
        predictor = SegmentScoreConfig(width=64, heads=2, epochs=100)
        return DPPOConfig(predictor=predictor, batch_size=64, learning_rate=1e-3), 10_000
    return DPPOConfig(), 1_000_000


def transformer_settings(preset: Preset = "published") -> PreferenceTransformerConfig:
    """Return Preference Transformer's settings (Kim et al. 2023)."""
    if preset == "small":
        return PreferenceTransformerConfig(width=64, heads=2, epochs=100, batch_size=64)
    return PreferenceTransformerConfig()


def gaussian_settings(preset: Preset = "published") -> GaussianRewardConfig:
    """Return the settings of PEARL's reward (Liu et al. 2024), on Preference Transformer's network and schedule."""
    if preset == "small":
        return GaussianRewardConfig(width=64, heads=2, epochs=100, batch_size=64)
    return GaussianRewardConfig()
