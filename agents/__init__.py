"""The learners of prefenvs: agents that learn from preferences, and reward models."""

from __future__ import annotations

from agents.pearl import GaussianReward, GaussianRewardConfig
from agents.pebble import PEBBLE, PebbleConfig
from agents.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from agents.prefppo import PrefPPO, PrefPPOConfig
from agents.relabelling import relabel
from agents.reward_model import RewardConfig, RewardEnsemble

__all__ = [
    "PEBBLE",
    "GaussianReward",
    "GaussianRewardConfig",
    "PebbleConfig",
    "PrefPPO",
    "PrefPPOConfig",
    "PreferenceTransformer",
    "PreferenceTransformerConfig",
    "RewardConfig",
    "RewardEnsemble",
    "relabel",
]
