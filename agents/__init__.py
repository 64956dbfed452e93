"""The learners of prefenvs: agents that learn from preferences, and reward models."""

from __future__ import annotations

from agents.pebble import PEBBLE, PebbleConfig
from agents.prefppo import PrefPPO, PrefPPOConfig
from agents.reward_model import RewardConfig, RewardEnsemble

__all__ = ["PEBBLE", "PebbleConfig", "PrefPPO", "PrefPPOConfig", "RewardConfig", "RewardEnsemble"]
