"""How good a learned reward is: distances between rewards, and agreement with returns and raters."""

from __future__ import annotations

from prefenvs.metrics.agreement import Correlation, preference_accuracy, return_correlation
from prefenvs.metrics.epic import dard_distance, epic_distance
from prefenvs.metrics.starc import starc_distance, starc_distance_tabular, value_adjusted_levelling
from prefenvs.metrics.transitions import Reward, Transitions, reward_of

__all__ = [
    "Correlation",
    "Reward",
    "Transitions",
    "dard_distance",
    "epic_distance",
    "preference_accuracy",
    "return_correlation",
    "reward_of",
    "starc_distance",
    "starc_distance_tabular",
    "value_adjusted_levelling",
]
