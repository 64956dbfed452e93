"""Segments, drivers and learners on delivery boards, which several demonstrations share."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefenvs.envs.delivery.board import Board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.segments import Array, Segment

TASK = "Delivery-v0"


def walk(board: Board, cell: int, moves: Array) -> tuple[Array, Array]:
    """Return the cells [T] that moves [T] are made from, and the cell after each [T]."""
    cells = []
    for move in moves:
        cells.append(cell)
        cell = int(board.next_cells[cell, move])
    return np.array(cells), np.append(cells[1:], cell)


def make_segment(board: Board, cells: Array, moves: Array) -> Segment:
    """Return the segment of moves [T] from cells [T], with true rewards and states."""
    width = board.shape[1]
    states = np.stack([np.full(len(cells), board.number), cells // width, cells % width], axis=1).astype(np.float64)
    rewards = board.rewards[cells, moves]
    return Segment(board.observations[cells], np.eye(4, dtype=np.float32)[moves], rewards, states, task=TASK, start=0)


def random_segment(board: Board, start: int, length: int, rng: np.random.Generator) -> Segment:
    """Return a segment of random moves from a cell that reaches no terminal cell before its last move."""
    while True:
        moves = rng.integers(4, size=length)
        cells, _ = walk(board, start, moves)
        if not board.terminal[cells].any():
            return make_segment(board, cells, moves)


class Driver:
    """Drives by the best moves of a board, and by a random one with a chance of `slips`."""

    def __init__(self, values: BoardValues, slips: float = 0.0, seed: int = 0) -> None:
        self.values, self.slips, self.rng = values, slips, np.random.default_rng(seed)

    def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return a move for each observation [N, 124]."""
        best = self.values.q[self.values.cells(observation)].argmax(axis=-1)
        slipped = self.rng.random(len(best)) < self.slips
        return np.where(slipped, self.rng.integers(4, size=len(best)), best), None
