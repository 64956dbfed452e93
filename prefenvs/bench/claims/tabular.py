"""Demonstrations on delivery boards whose figures are exact."""

from __future__ import annotations

import numpy as np

from prefenvs.agents.tabular.dcppo import DCPPO, DCPPOConfig
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.delivery import drive, soft_policy, table_of
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import scaled_return
from prefenvs.segments import Array

BOARD, TEMPERATURE, EPISODES = 4, 2.5, 50
"""The board of the study with people, and a person whose noise is worth 2.5 moves."""


def _figures(seed: int) -> tuple[float, float, float]:
    """Exact returns, 0 as random moves and 1 as the optimum, of DCPPO, of naive inversion and of cloning."""
    board = find_board(BOARD)
    data = drive(board, soft_policy(board, TEMPERATURE), EPISODES, np.random.default_rng(seed))
    dataset = OfflineDataset("person", data)
    policies: list[Array] = []
    for stage in ("reward", "choices"):
        learner = DCPPO(dataset, config=DCPPOConfig(stage=stage), seed=seed, device="cpu")
        policies.append(table_of(learner.learn(400), board))
    counts = learner.tables.counts.numpy()
    visited = counts.sum(axis=1, keepdims=True)
    policies.append(np.where(visited > 0, counts / np.maximum(visited, 1.0), 0.25))
    best, naive, cloned = (scaled_return(board, policy) for policy in policies)
    return best, naive, cloned


def dcppo(seed: int) -> Measured:
    """DCPPO, and the person's own choices, cloned."""
    best, _, cloned = _figures(seed)
    return Measured(best, cloned)


def dcppo_naive(seed: int) -> Measured:
    """DCPPO, and value iteration on the person's log-probabilities."""
    best, naive, _ = _figures(seed)
    return Measured(best, naive)
