"""DCPPO: the reward of a boundedly rational person from what they do, and a pessimistic policy for it.

After Li et al. 2023, "Reinforcement learning with human feedback: learning dynamic choices via pessimism". The three
stages are the paper's; that the reward is linear in the features of a move, by which it is told from the values, and
the form of the bonus for tables are this project's reading, not checked against the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from prefenvs.agents.offline.learner import OfflineConfig
from prefenvs.agents.registry import Algorithm, Settings
from prefenvs.agents.tabular.board import CELLS, FEATURES, MOVES, BoardLearner, BoardOptions, read_board
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.limits import Fraction, NonNegativeFloat, PositiveFloat, check_settings
from prefenvs.preferences import Preference
from prefenvs.segments import Array
from prefenvs.tasks import Task

NEVER = -1e6
"""Value of a move that the data do not hold: nothing is known of where it leads."""


@dataclass(frozen=True)
class DCPPOConfig(OfflineConfig):
    """Settings of DCPPO."""

    gamma: Fraction = 0.95
    """The person's discount, and the policy's."""
    smoothing: NonNegativeFloat = 0.1
    """Added to the count of each move of a cell that was visited, before its probability is estimated."""
    ridge: PositiveFloat = 1e-3
    """Weight of the squared reward weights and values in the least-squares fit."""
    pessimism: NonNegativeFloat = 0.5
    """Weight beta of the bonus 1 / sqrt(count + prior) that is taken off each reward."""
    prior: PositiveFloat = 1.0
    """Added to the counts in the bonus."""
    stage: Literal["reward", "choices"] = "reward"
    """reward: all stages; choices: the person's log-probabilities as they are, in the reward's place (the naive
    inversion), for comparison."""

    def __post_init__(self) -> None:
        check_settings(self)


class Tables(nn.Module):
    """What is known of each cell and move: features [C, 4, 6], next cells, counts and rewards [C, 4], values [C].

    guesses: [C] moves for cells that nothing is known of.
    """

    features: Tensor
    following: Tensor
    counts: Tensor
    rewards: Tensor
    weights: Tensor
    values: Tensor
    guesses: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("guesses", torch.randint(MOVES, (CELLS,)))
        self.register_buffer("features", torch.zeros(CELLS, MOVES, FEATURES, dtype=torch.float64))
        # Cell C is where an episode has ended, worth 0.
        self.register_buffer("following", torch.full((CELLS, MOVES), CELLS))
        self.register_buffer("counts", torch.zeros(CELLS, MOVES, dtype=torch.float64))
        self.register_buffer("rewards", torch.zeros(CELLS, MOVES, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(FEATURES, dtype=torch.float64))
        self.register_buffer("values", torch.zeros(CELLS, dtype=torch.float64))


class DCPPO(BoardLearner[DCPPOConfig]):
    """Learns a better policy than the person's whose driving it has seen on a delivery board.

    1. The person's choices: pi(a | s) by counts. A dynamic discrete choice has pi(a | s) = exp(Q(s, a) - V(s)) with
       V(s) = log sum_a exp Q(s, a), rewards in units of the person's noise.
    2. Their reward: the w and V of least sum over the data of (log pi(a | s) + V(s) - w . f(s, a) - gamma V(s'))^2,
       V = 0 where episodes end; that is the Bellman error of Q = log pi + V. A step's cost and an end's worth are
       told apart up to a potential only (c for each cell, 0 at the end), which no optimal policy depends on.
    3. Pessimistic value iteration on r = w . f - beta / sqrt(count + prior); moves that were never seen are not taken.

    Each update is a sweep of the third stage. Demonstrations are read, no labels.
    """

    name = "dcppo"
    learns_from = "demonstrations"
    config_type: ClassVar[type[DCPPOConfig]] = DCPPOConfig
    tables: Tables

    def _make_tables(self) -> Tables:
        return Tables()

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        counts, features, following, _ = read_board(dataset)
        weights, choices = fit_choices(counts, features, following, self.config)
        rewards = choices if self.config.stage == "choices" else features @ weights
        if self.config.stage == "reward":
            rewards = rewards - self.config.pessimism / np.sqrt(counts + self.config.prior)
        tables = {"counts": counts, "following": following, "features": features, "rewards": rewards}
        for name, array in (tables | {"weights": weights}).items():
            getattr(self.tables, name).copy_(torch.from_numpy(array))

    def _update(self) -> dict[str, Tensor]:
        values = self._action_values().amax(1)
        values = torch.where(self.tables.counts.sum(1) > 0, values, NEVER)
        change = (values - self.tables.values).abs().amax()
        self.tables.values.copy_(values)
        return {"change": change, "value": values[values > 0.5 * NEVER].mean()}

    def _action_values(self) -> Tensor:
        """Return Q [C, 4], pessimistic."""
        tables = self.tables
        after = torch.cat([tables.values, tables.values.new_zeros(1)])[tables.following]
        return torch.where(tables.counts > 0, tables.rewards + self.config.gamma * after, NEVER)

    def _choose(self, cells: Tensor) -> Tensor:
        """Return the best seen move; one drawn for good in cells that were never visited."""
        known = self.tables.counts.sum(1)[cells] > 0
        return torch.where(known, self._action_values()[cells].argmax(1), self.tables.guesses[cells])


def fit_choices(counts: Array, features: Array, following: Array, config: DCPPOConfig) -> tuple[Array, Array]:
    """Return the reward weights [6] that explain a person's choices, and the log-probabilities [C, 4] of these.

    counts: [C, 4] of the data; features: [C, 4, 6]; following: [C, 4], with C for an episode's end.
    """
    cells = len(counts)
    shares = counts + config.smoothing
    choices: Array = np.log(shares / shares.sum(1, keepdims=True)) if config.smoothing else _log_shares(counts)
    s, a = np.nonzero(counts)
    after, rows = following[s, a], np.arange(len(s))
    # Unknowns: 6 weights, and a value of each cell; the value of the end is 0.
    system = np.zeros((len(s), FEATURES + cells + 1))
    system[:, :FEATURES] = features[s, a]
    system[rows, FEATURES + s] -= 1.0
    system[rows, FEATURES + after] += config.gamma
    system = system[:, :-1] * np.sqrt(counts[s, a])[:, None]
    target = choices[s, a] * np.sqrt(counts[s, a])
    found = np.linalg.solve(system.T @ system + config.ridge * np.eye(system.shape[1]), system.T @ target)
    weights: Array = found[:FEATURES]
    return weights, choices


def _log_shares(counts: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Array = np.log(counts / counts.sum(1, keepdims=True))
    return shares


@dataclass(frozen=True)
class DCPPOOptions(BoardOptions):
    """It reads demonstrations alone."""

    def needs_labels(self, config: Any) -> bool:
        """Never."""
        return False

    def signal(self, rater: str, config: Any) -> str:
        """All data."""
        return "all"


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return settings for boards; 400 sweeps are exact to 1e-8 of the largest value."""
    return Settings(DCPPOConfig(), steps or 400)


ALGORITHM = Algorithm(
    name="dcppo",
    title="DCPPO",
    source="offline",
    learner=DCPPO,
    config=DCPPOConfig,
    options=DCPPOOptions,
    preset=preset,
)
