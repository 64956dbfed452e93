"""The learners of prefenvs: agents that learn from preferences, and reward models."""

from __future__ import annotations

from agents.bc import BC, BCConfig
from agents.cpl import CPL, CPLConfig
from agents.dppo import DPPO, DPPOConfig
from agents.image_reward import ImageRewardConfig, ImageRewardEnsemble
from agents.ipl import IPL, IPLConfig
from agents.iql import IQL, IQLConfig
from agents.oppo import OPPO, OPPOConfig
from agents.pearl import GaussianReward, GaussianRewardConfig
from agents.pebble import PEBBLE, PebbleConfig
from agents.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from agents.prefppo import PrefPPO, PrefPPOConfig
from agents.relabelling import relabel
from agents.reward_model import RewardConfig, RewardEnsemble
from agents.state_reward import StateRewardSAC

__all__ = [
    "BC",
    "CPL",
    "DPPO",
    "IPL",
    "IQL",
    "OPPO",
    "PEBBLE",
    "BCConfig",
    "CPLConfig",
    "DPPOConfig",
    "GaussianReward",
    "GaussianRewardConfig",
    "IPLConfig",
    "IQLConfig",
    "ImageRewardConfig",
    "ImageRewardEnsemble",
    "OPPOConfig",
    "PebbleConfig",
    "PrefPPO",
    "PrefPPOConfig",
    "PreferenceTransformer",
    "PreferenceTransformerConfig",
    "RewardConfig",
    "RewardEnsemble",
    "StateRewardSAC",
    "relabel",
]
