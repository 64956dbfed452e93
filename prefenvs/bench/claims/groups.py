"""Demonstrations of rewards for raters who disagree: two groups want other destinations of one delivery board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
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

Head = Literal["em", "pal", "vpl"]
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


@cache
def _fit(seed: int, head: Head | None, shuffled: bool = False) -> GroupReward:
    """Return a reward of two groups, or for no head of all alike; shuffled: whose answer is whose is not known.

    Labels are by regret, so that rewards learned from them are advantages: the best move has the largest.
    """
    board = find_board(1)
    labels = _labels(board, _worlds(board), seed)
    if shuffled:
        order = np.random.default_rng(seed).permutation(len(labels))
        labels = [replace(one, annotator=labels[i].annotator) for one, i in zip(labels, order, strict=True)]
    config = GroupRewardConfig(width=64, epochs=30, restarts=2, learning_rate=3e-3)
    config = replace(config, groups=1, restarts=1) if head is None else replace(config, head=head, serve="person-19")
    model = GroupReward(board.observations.shape[1], 4, config, seed, "cpu")
    model.fit(labels)
    return model


def minority(seed: int, head: Head) -> Measured:
    """How the minority is served by its own group's reward, and by the reward of a plain model of all labels."""
    board = find_board(1)
    cells = len(board.glyphs)
    seen, moves = np.repeat(board.observations, 4, axis=0), np.tile(np.eye(4, dtype=np.float32), (cells, 1))
    rewards = [_fit(seed, kind).predict(seen, moves)[0].reshape(cells, 4) for kind in (head, None)]
    return Measured(*(_served(board, _worlds(board)[1], one) for one in rewards))


def rand_index(found: Sequence[int], wanted: Sequence[int]) -> float:
    """Return the share of pairs that two groupings agree on: together in both, or apart in both."""
    one, other = (np.equal.outer(groups, groups)[np.triu_indices(len(groups), 1)] for groups in (found, wanted))
    return float(np.mean(one == other))


def told_apart(seed: int, head: Head) -> Measured:
    """How well annotators are grouped, and how well where whose answer is whose was shuffled."""
    wanted = [int(person >= 0.8 * PEOPLE) for person in range(PEOPLE)]
    models = [_fit(seed, head, shuffled) for shuffled in (False, True)]
    found = [[model.group_of(f"person-{person:02d}") for person in range(PEOPLE)] for model in models]
    return Measured(*(rand_index(groups, wanted) for groups in found))
