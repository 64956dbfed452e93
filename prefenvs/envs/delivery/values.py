"""Exact values on delivery boards: the optimal V, Q and A, returns of any policy, and returns scaled to [0, 1]."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from prefenvs.envs.delivery.board import Board
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

TIE = 1e-9
"""Actions whose values differ by less, relative to the largest value, count as equally good."""
HORIZON = 50
"""Moves over which returns are scaled."""


class BoardValues:
    """Optimal values of a board; satisfies `prefenvs.protocols.Advantage`.

    v: [C] float64; q: [C, 4]; a: [C, 4], q - v, at most 0 and exactly 0 for every optimal action.
    Houses have v = 0 and are never visited; so have terminal cells.
    """

    def __init__(self, board: Board, gamma: float = 1.0, rewards: Array | None = None) -> None:
        """`rewards` [C, 4] replace the true ones. Raises PrefenvsError where the values are infinite."""
        self.board, self.gamma = board, gamma
        worth = board.rewards if rewards is None else np.asarray(rewards, np.float64)
        self.v = optimal_values(board, gamma, worth)
        self.q = worth + gamma * self.v[board.next_cells]
        gaps = self.q - self.q.max(axis=1, keepdims=True)
        self.a = np.where(gaps > -TIE * max(1.0, float(np.abs(self.q).max())), 0.0, gaps)

    @cached_property
    def policy(self) -> Array:
        """[C, 4] probabilities of the policy that draws among the optimal actions of each cell alike.

        With gamma 1 that includes loops over coins, which cost nothing.
        """
        best = self.a == 0.0
        shares: Array = best / best.sum(axis=1, keepdims=True)
        return shares

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return A*(s, a), [...], for observations [..., 124] and one-hot actions [..., 4] of `Delivery`.

        Raises PrefenvsError for other actions.
        """
        actions = np.asarray(actions)
        if actions.shape[-1:] != (4,):
            raise PrefenvsError(f"actions have shape {actions.shape}; one-hot ones of Delivery end with 4")
        advantages: Array = self.a[self.cells(observations), actions.argmax(axis=-1)]
        return advantages

    def value(self, observations: Array) -> Array:
        """Return V*(s), [...], for observations [..., 124]."""
        values: Array = self.v[self.cells(observations)]
        return values

    def cells(self, observations: Array) -> Array:
        """Return the cells, [...], that observations were made in; raises PrefenvsError if they show another board."""
        known, observations = self.board.observations, np.asarray(observations)
        width = known.shape[1]
        if observations.shape[-1] < width:
            raise PrefenvsError(
                f"observations of {observations.shape[-1]} numbers are not of a board of {len(known)} cells"
            )
        found: Array = observations[..., : len(known)].argmax(axis=-1)
        if not np.array_equal(observations[..., :width], known[found]):
            raise PrefenvsError(f"the observations were not made on board {self.board.number}, whose values these are")
        return found


def optimal_values(board: Board, gamma: float, rewards: Array) -> Array:
    """Return V* [C] by value iteration from 0; exact for gamma = 1 if no loop of moves has a positive sum of rewards.

    With gamma < 1 the error is below 1e-12 of the largest reward. Raises PrefenvsError for a gamma outside (0, 1], or
    where gamma is 1 and the values grow without end.
    """
    if not 0.0 < gamma <= 1.0:
        raise PrefenvsError(f"gamma must lie in (0, 1], got {gamma}")
    cells = len(board.glyphs)
    # Without a rewarding loop no best path visits a cell twice.
    sweeps = cells + 1 if gamma == 1.0 else cells + math.ceil(math.log(1e-12 * (1.0 - gamma)) / math.log(gamma))
    values = np.zeros(cells)
    for _ in range(sweeps):
        better = _best_of_moves(board, gamma, rewards, values)
        if np.array_equal(better, values):
            break
        values = better
    if gamma == 1.0 and not np.allclose(_best_of_moves(board, gamma, rewards, values), values, rtol=0, atol=1e-9):
        raise PrefenvsError(f"board {board.number} has a loop that pays, so values are infinite: choose gamma below 1")
    return values


def _best_of_moves(board: Board, gamma: float, rewards: Array, values: Array) -> Array:
    best = (rewards + gamma * values[board.next_cells]).max(axis=1)
    return np.where(board.terminal | (board.glyphs == "#"), 0.0, best)


def policy_values(board: Board, policy: Array, horizon: int, gamma: float = 1.0) -> Array:
    """Return the true expected return [C] of `horizon` moves from each cell by a policy [C, 4] of probabilities."""
    values = np.zeros(len(board.glyphs))
    for _ in range(horizon):
        values = (policy * (board.rewards + gamma * values[board.next_cells])).sum(axis=1)
    return values


def scaled_return(board: Board, policy: Array) -> float:
    """Return a policy's mean true return, scaled: 1 for an optimal policy and 0 for uniformly random moves.

    Undiscounted, over 50 moves, averaged over the cells where episodes begin; below 0 if worse than random.
    """
    best = np.zeros(len(board.glyphs))
    for _ in range(HORIZON):
        best = _best_of_moves(board, 1.0, board.rewards, best)
    random = policy_values(board, np.full_like(board.rewards, 0.25), HORIZON)
    means = [values[board.starts].mean() for values in (policy_values(board, policy, HORIZON), random, best)]
    return float((means[0] - means[1]) / (means[2] - means[1]))
