"""Raters: whoever answers queries of prefenvs, from simulated teachers on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prefenvs.oracles.clip.oracle import CLIPOracle
    from prefenvs.oracles.clip.reward import CLIPReward
    from prefenvs.oracles.hybrid.oracle import HybridOracle
    from prefenvs.oracles.make import Rater, RaterContext, list_raters, make_rater
    from prefenvs.oracles.people.human import HumanOracle
    from prefenvs.oracles.people.ranking import RankingOracle
    from prefenvs.oracles.people.rating import RatingOracle
    from prefenvs.oracles.simulated.coin import CoinOracle
    from prefenvs.oracles.simulated.heron import HeronOracle
    from prefenvs.oracles.simulated.hindsight import HindsightOracle
    from prefenvs.oracles.simulated.partial_return import PartialReturnOracle
    from prefenvs.oracles.simulated.regret import RegretOracle
    from prefenvs.oracles.simulated.teachers import CROWDS, TEACHERS, Teacher, find_teacher
    from prefenvs.oracles.vlm.oracle import VLMOracle
    from prefenvs.raters import FunctionOracle, batched

# Read on first use: the options of a rater must not cost the command line its drawing and its networks.
_PLACES = {
    "clip.oracle": ("CLIPOracle",),
    "clip.reward": ("CLIPReward",),
    "hybrid.oracle": ("HybridOracle",),
    "make": ("Rater", "RaterContext", "list_raters", "make_rater"),
    "people.human": ("HumanOracle",),
    "people.ranking": ("RankingOracle",),
    "people.rating": ("RatingOracle",),
    "simulated.coin": ("CoinOracle",),
    "simulated.heron": ("HeronOracle",),
    "simulated.hindsight": ("HindsightOracle",),
    "simulated.partial_return": ("PartialReturnOracle",),
    "simulated.regret": ("RegretOracle",),
    "simulated.teachers": ("CROWDS", "TEACHERS", "Teacher", "find_teacher"),
    "vlm.oracle": ("VLMOracle",),
}
_MODULES = {name: f"prefenvs.oracles.{place}" for place, names in _PLACES.items() for name in names}
_MODULES |= {"FunctionOracle": "prefenvs.raters", "batched": "prefenvs.raters"}

__all__ = [
    "CROWDS",
    "TEACHERS",
    "CLIPOracle",
    "CLIPReward",
    "CoinOracle",
    "FunctionOracle",
    "HeronOracle",
    "HindsightOracle",
    "HumanOracle",
    "HybridOracle",
    "PartialReturnOracle",
    "RankingOracle",
    "Rater",
    "RaterContext",
    "RatingOracle",
    "RegretOracle",
    "Teacher",
    "VLMOracle",
    "batched",
    "find_teacher",
    "list_raters",
    "make_rater",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
