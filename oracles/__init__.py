"""Raters: whoever answers queries of prefenvs, from simulated teachers on."""

from __future__ import annotations

from prefenvs.oracles.clip.oracle import CLIPOracle
from prefenvs.oracles.clip.reward import CLIPReward
from prefenvs.oracles.hybrid.oracle import HybridOracle
from prefenvs.oracles.people.human import HumanOracle
from prefenvs.oracles.people.rating import RatingOracle
from prefenvs.oracles.simulated.coin import CoinOracle
from prefenvs.oracles.simulated.partial_return import PartialReturnOracle
from prefenvs.oracles.simulated.regret import RegretOracle
from prefenvs.oracles.simulated.teachers import CROWDS, TEACHERS, Teacher, find_teacher
from prefenvs.oracles.vlm import VLMOracle

__all__ = [
    "CROWDS",
    "TEACHERS",
    "CLIPOracle",
    "CLIPReward",
    "CoinOracle",
    "HumanOracle",
    "HybridOracle",
    "PartialReturnOracle",
    "RatingOracle",
    "RegretOracle",
    "Teacher",
    "VLMOracle",
    "find_teacher",
]
