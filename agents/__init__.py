"""The learners of prefenvs: agents that learn from preferences, and reward models.

A name is imported when it is first asked for, so that the registry can be read without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

MODULES = {
    "offline.bc": ("BC", "BCConfig"),
    "offline.cpl": ("CPL", "CPLConfig"),
    "offline.dppo": ("DPPO", "DPPOConfig"),
    "offline.ipl": ("IPL", "IPLConfig"),
    "offline.iql": ("IQL", "IQLConfig"),
    "offline.oppo": ("OPPO", "OPPOConfig"),
    "online.pebble": ("PEBBLE", "PebbleConfig"),
    "online.prefppo": ("PrefPPO", "PrefPPOConfig"),
    "online.state_reward": ("StateRewardSAC",),
    "rewards.ensemble": ("RewardConfig", "RewardEnsemble"),
    "rewards.image.ensemble": ("ImageRewardConfig", "ImageRewardEnsemble"),
    "rewards.pearl": ("GaussianReward", "GaussianRewardConfig"),
    "rewards.preference_transformer": ("PreferenceTransformer", "PreferenceTransformerConfig"),
    "rewards.relabel": ("relabel",),
}
PLACES = {name: module for module, names in MODULES.items() for name in names}

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


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
