"""The learners of prefenvs: agents that learn from preferences, and reward models."""

from __future__ import annotations

from prefenvs.agents.offline.bc import BC, BCConfig
from prefenvs.agents.offline.cpl import CPL, CPLConfig
from prefenvs.agents.offline.dppo import DPPO, DPPOConfig
from prefenvs.agents.offline.ipl import IPL, IPLConfig
from prefenvs.agents.offline.iql import IQL, IQLConfig
from prefenvs.agents.offline.oppo import OPPO, OPPOConfig
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPO, PrefPPOConfig
from prefenvs.agents.online.state_reward import StateRewardSAC
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble
from prefenvs.agents.rewards.pearl import GaussianReward, GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from prefenvs.agents.rewards.relabel import relabel

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
