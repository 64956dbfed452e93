"""Demonstrations of rewards for raters who disagree: two groups want other destinations of one delivery board."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from prefenvs.agents.rewards.groups import GroupReward, GroupRewardConfig
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.delivery import random_segment
from prefenvs.envs.delivery.board import Board, find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.oracles import RegretOracle, Teacher
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array

PEOPLE, LABELS = 20, 100
"""Annotators, and labels of each; the last fifth of them is the minority."""


def _worlds(board: Board) -> list[BoardValues]:
    """Values of the board for those who want the van at its first destination, and at its last."""
    made = []
    for wanted in np.flatnonzero(board.glyphs == "D")[[0, -1]]:
        rewards = board.rewards.copy()
        arrives = (board.glyphs[board.next_cells] == "D") & ~board.terminal[:, None]
        rewards[arrives & (board.next_cells != wanted)] = -50.0
        made.append(BoardValues(board, 0.95, rewards))
    return made


def _labels(board: Board, worlds: list[BoardValues], seed: int) -> list[Preference]:
    rng, labels = np.random.default_rng(seed), []
    for person in range(PEOPLE):
        values = worlds[person >= 0.8 * PEOPLE]
        rater = RegretOracle(values, Teacher(), seed, annotator=f"person-{person:02d}")
        starts = rng.choice(board.starts, 2 * LABELS)
        made = [random_segment(board, start, 3, rng) for start in starts]
        rater.ask([Query((made[2 * i], made[2 * i + 1])) for i in range(LABELS)])
        labels += rater.collect()
    return labels


def _served(board: Board, values: BoardValues, rewards: Array) -> float:
    """Return how a policy that takes the best of rewards [C, 4] serves a world: 0 as random moves, 1 as its optimum."""
    greedy = np.eye(4)[rewards.argmax(axis=1)]
    uniform = np.full((len(greedy), 4), 0.25)
    means = []
    for policy in (greedy, uniform, values.policy):
        kept = np.zeros(len(greedy))
        worth = values.q - values.gamma * values.v[board.next_cells]
        for _ in range(50):
            kept = (policy * (worth + values.gamma * kept[board.next_cells])).sum(axis=1)
        means.append(kept[board.starts].mean())
    return float((means[0] - means[1]) / (means[2] - means[1]))


def _minority(head: Literal["em", "pal", "vpl"], seed: int) -> Measured:
    """How the minority is served by its own group's reward, and by the reward of a plain model of all labels.

    Labels are by regret, so that rewards learned from them are advantages: the best move has the largest.
    """
    board = find_board(1)
    worlds = _worlds(board)
    labels = _labels(board, worlds, seed)
    cells = len(board.glyphs)
    seen, moves = np.repeat(board.observations, 4, axis=0), np.tile(np.eye(4, dtype=np.float32), (cells, 1))
    figures = []
    small = GroupRewardConfig(width=64, epochs=30, restarts=2, learning_rate=3e-3)
    for config in (replace(small, head=head, serve="person-19"), replace(small, groups=1, restarts=1)):
        model = GroupReward(seen.shape[1], 4, config, seed, "cpu")
        model.fit(labels)
        figures.append(_served(board, worlds[1], model.predict(seen, moves)[0].reshape(cells, 4)))
    return Measured(*figures)


def maxmin(seed: int) -> Measured:
    """MaxMin-RLHF's clusters."""
    return _minority("em", seed)


def pal(seed: int) -> Measured:
    """PAL's prototypes."""
    return _minority("pal", seed)


def vpl(seed: int) -> Measured:
    """VPL's latent vectors."""
    return _minority("vpl", seed)
