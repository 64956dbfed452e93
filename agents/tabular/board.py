"""What learners on the table of one delivery board have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.registry import OfflineOptions
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference
from prefenvs.segments import Array, Segment

Config = TypeVar("Config", bound=OfflineConfig)

CELLS, MOVES, FEATURES = 100, 4, 6
"""Of a delivery board: an observation is the cell, one-hot, and then the features of each move."""
ONE_HOT = spaces.Box(0.0, 1.0, (MOVES,), np.float32)


class Board(NamedTuple):
    """What data show of a board: counts [C, 4] and features [C, 4, 6] of moves, following cells [C, 4], starts [C].

    Cell C is where an episode has ended; starts: how many episodes begin in each cell.
    """

    counts: Array
    features: Array
    following: Array
    starts: Array


def read_board(dataset: OfflineDataset) -> Board:
    """Return the board that a data set was driven on; raises PrefenvsError where it shows several."""
    steps, data = dataset.transitions(), dataset.trajectories
    cells, moves, after = cells_of(steps.observations), steps.actions.argmax(1), cells_of(steps.next_observations)
    counts = np.zeros((CELLS, MOVES))
    np.add.at(counts, (cells, moves), 1.0)
    following = np.full((CELLS, MOVES), CELLS)
    following[cells, moves] = np.where(steps.terminals > 0.0, CELLS, after)
    features = np.zeros((CELLS, MOVES, FEATURES))
    features[cells] = steps.observations[:, CELLS:].reshape(-1, MOVES, FEATURES)
    if not np.array_equal(features[cells].reshape(len(cells), -1), steps.observations[:, CELLS:]):
        raise PrefenvsError(f"data set {dataset.name!r} shows several boards, and a table is of one")
    starts = np.bincount(cells_of(data.observations[data.begins]), minlength=CELLS).astype(np.float64)
    return Board(counts, features, following, starts)


def cells_of(observations: Array) -> Array:
    """Return the cells [N] of observations [N, 124]."""
    cells: Array = observations[:, :CELLS].argmax(1)
    return cells


def sum_features(segment: Segment) -> Array:
    """Return the sums [6] of the features of the moves that a segment makes."""
    features = segment.observations[:, CELLS:].reshape(-1, MOVES, FEATURES)
    total: Array = features[np.arange(len(segment)), segment.actions.argmax(1)].sum(0, dtype=np.float64)
    return total


def soft_values(action_values: Tensor, temperature: float, known: Tensor) -> Tensor:
    """Return V = t log sum_a exp(Q / t) [C] over known moves, 0 where none is."""
    masked = torch.where(known, action_values / temperature, -torch.inf)
    return torch.where(known.any(1), temperature * masked.logsumexp(1), 0.0)


def soft_policy(action_values: Tensor, temperature: float, known: Tensor) -> Tensor:
    """Return pi = exp((Q - V) / t) [C, 4] over known moves, zeros where none is."""
    masked = torch.where(known, action_values / temperature, -torch.inf)
    return torch.where(known, masked.softmax(1), 0.0)


def evaluate_policy(policy: Tensor, rewards: Tensor, following: Tensor, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values [K, C] and advantages [K, C, 4] of a policy [C, 4] by each of the rewards [K, C, 4].

    Third, the matrix 1 - gamma P [C, C] with P the policy's chances of the next cell; cell C is the end, worth 0.
    """
    cells = len(policy)
    moves = policy.new_zeros(cells, cells + 1).scatter_add_(1, following, policy)[:, :cells]
    system = torch.eye(cells, dtype=policy.dtype, device=policy.device) - gamma * moves
    values = torch.linalg.solve(system, (policy * rewards).sum(2).T).T
    after = torch.cat([values, values.new_zeros(len(values), 1)], 1)[:, following]
    return values, rewards + gamma * after - values[:, :, None], system


class BoardLearner(OfflineLearner[Config]):
    """Keeps tables of the cells and moves of one delivery board; a subclass makes them and acts by them."""

    tables: nn.Module

    def __init__(
        self,
        dataset: OfflineDataset,
        preferences: Sequence[Preference] | None = None,
        config: Config | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        action_space: spaces.Box | None = None,
    ) -> None:
        """As every learner from fixed data; raises PrefenvsError for data that are not of one delivery board."""
        data = dataset.trajectories
        shapes = data.observations.shape[1:], data.actions.shape[1:]
        if shapes != ((CELLS + MOVES * FEATURES,), (MOVES,)):
            raise PrefenvsError(
                f"{self.name} keeps a table of a delivery board, and data set {dataset.name!r} has observations "
                f"{list(shapes[0])} and actions {list(shapes[1])}: collect some with Delivery-v0"
            )
        super().__init__(dataset, preferences, config, seed=seed, device=device, action_space=action_space or ONE_HOT)

    @abstractmethod
    def _make_tables(self) -> nn.Module:
        """Return the tables, as buffers of a module."""

    @abstractmethod
    def _choose(self, cells: Tensor) -> Tensor:
        """Return a move for each cell [N]."""

    def _build(self) -> None:
        if self.config.normalise_observations:
            raise PrefenvsError(f"{self.name} reads cells off its observations: leave --normalise-observations out")
        self.tables = self._make_tables().to(self.device)
        self._show_moves()

    def _act(self, observations: Tensor, deterministic: bool) -> Tensor:
        """Return moves, one-hot in [-1, 1]."""
        moves = self._choose(observations[:, :CELLS].argmax(1))
        return 2.0 * nn.functional.one_hot(moves, MOVES).float() - 1.0

    def predict(
        self,
        observation: Array,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return moves 0 to 3, [B] for observations [B, 124], or one for one.

        Raises PrefenvsError for observations of another size.
        """
        seen = np.asarray(observation, np.float32)
        if seen.shape[-1:] != (self.observation_size,):
            raise PrefenvsError(f"the policy takes observations [{self.observation_size}], got {list(seen.shape)}")
        rows = torch.from_numpy(seen.reshape(-1, self.observation_size)).to(self.device)
        moves = self._act(rows, deterministic).argmax(1).cpu().numpy()
        return moves.reshape(seen.shape[:-1]), state

    def state_dict(self) -> dict[str, Any]:
        """Return all that `save` writes; actions are kept as the one-hot rows of the data."""
        self.action_space = ONE_HOT
        try:
            return super().state_dict()
        finally:
            self._show_moves()

    def _show_moves(self) -> None:
        """Let those who evaluate see the actions of the task, not the rows of the data."""
        self.action_space = spaces.Discrete(MOVES)  # type: ignore[assignment]

    def _modules(self) -> dict[str, nn.Module]:
        return {"tables": self.tables}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return {}


@dataclass(frozen=True)
class BoardOptions(OfflineOptions):
    """What tables of a board have no use for."""

    def unused(self) -> tuple[str, ...]:
        """Cells are read off observations as they are."""
        return ("normalise_observations",)
