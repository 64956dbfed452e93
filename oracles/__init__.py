"""Raters: whoever answers queries of prefenvs, from simulated teachers on."""

from __future__ import annotations

from oracles.clip import CLIPOracle
from oracles.clip_reward import CLIPReward
from oracles.human import HumanOracle
from oracles.hybrid import HybridOracle
from oracles.partial_return import PartialReturnOracle
from oracles.rating import RatingOracle
from oracles.regret import RegretOracle
from oracles.teachers import CROWDS, TEACHERS, Teacher, find_teacher
from oracles.vlm import VLMOracle

__all__ = [
    "CROWDS",
    "TEACHERS",
    "CLIPOracle",
    "CLIPReward",
    "HumanOracle",
    "HybridOracle",
    "PartialReturnOracle",
    "RatingOracle",
    "RegretOracle",
    "Teacher",
    "VLMOracle",
    "find_teacher",
]
