"""Segments, drivers and learners on delivery boards, which several demonstrations share."""

from __future__ import annotations

from typing import Any

import numpy as np

from prefenvs.envs.delivery.board import Board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

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


def soft_policy(board: Board, temperature: float, gamma: float = 0.95) -> Array:
    """Return the choices [C, 4] of a boundedly rational person: pi = exp((Q - V) / temperature), soft Bellman values.

    V(s) = temperature log sum_a exp(Q(s, a) / temperature), Q = r + gamma V(s'), V = 0 where an episode ends.
    """
    values = np.zeros(len(board.glyphs))
    ended = board.terminal | (board.glyphs == "#")
    for _ in range(400):
        q = (board.rewards + gamma * values[board.next_cells]) / temperature
        top = q.max(axis=1)
        values = np.where(ended, 0.0, temperature * (top + np.log(np.exp(q - top[:, None]).sum(axis=1))))
    weights = np.exp(q - values[:, None] / temperature)
    policy: Array = weights / weights.sum(axis=1, keepdims=True)
    return policy


def drive(board: Board, policy: Array, episodes: int, rng: np.random.Generator) -> Trajectories:
    """Return episodes of a policy [C, 4] of probabilities, without true rewards."""
    cells, moves, ends, terminated, finals = list[int](), list[int](), list[int](), list[bool](), list[int]()
    for _ in range(episodes):
        cell = int(rng.choice(board.starts))
        for _ in range(50):
            move = int(rng.choice(4, p=policy[cell]))
            cells.append(cell)
            moves.append(move)
            cell = int(board.next_cells[cell, move])
            if board.terminal[cell]:
                break
        ends.append(len(cells))
        terminated.append(bool(board.terminal[cell]))
        finals.append(cell)
    return Trajectories(
        board.observations[cells],
        np.eye(4, dtype=np.float32)[moves],
        np.array(ends),
        terminated=np.array(terminated),
        final_observations=board.observations[finals],
        task=TASK,
    )


def table_of(agent: Any, board: Board) -> Array:
    """Return the moves of an agent as a policy [C, 4] of probabilities."""
    policy: Array = np.eye(4)[agent.predict(board.observations, deterministic=True)[0]]
    return policy
