"""Do preferences by regret teach a reward that preferences by partial return do not? (Knox et al. 2022.)

For each random delivery board: draw pairs of segments made by random moves, let a simulated rater of one model answer,
fit six linear reward weights by maximum likelihood under the same model, and drive by the policy that is optimal for
the learned reward. It succeeds if its mean true return is above 0.9 on a scale of 0 (random moves) to 1 (optimal).

Two settings: "inside" cuts all segments inside an episode, as replay buffers do, so that all have as many moves as
another and a constant added to each move's reward changes no answer; "past the end" lets them run on, at reward 0, in
the terminal cell. Raters answer without noise, or draw by logistic noise with beta 1. "predicted" is the share of 300
new noise-free answers of the same rater, ties left out, that the learned reward gets right: it tells a reward that fits
the preferences but drives badly from one that does not fit.

Run: python -m benchmarks.rewards.regret_vs_partial_return
    [--boards 40] [--counts 10 30 100 300 1000] [--size 6] [--length 3] [--out docs/results/measured/regret/small.csv]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prefenvs import Query, Segment
from prefenvs.envs.delivery.board import FEATURES, Board, random_board
from prefenvs.envs.delivery.values import BoardValues, scaled_return
from prefenvs.internal.csv_tables import write_table
from prefenvs.internal.seeding import derive_seed
from prefenvs.oracles import PartialReturnOracle, RegretOracle, Teacher

Array = np.ndarray
ENOUGH = 0.9


@dataclass(frozen=True)
class Settings:
    """What an experiment is made of.

    gamma: discount of values, the rater's and the learner's; steps, lr, decay: Adam's; decay pulls weights to 0.
    """

    size: int = 6
    length: int = 3
    gamma: float = 0.99
    inside: bool = True
    beta: float = -1.0
    steps: int = 1000
    lr: float = 0.5
    decay: float = 1e-6


@dataclass(frozen=True, eq=False)
class Answers:
    """Answered pairs on B boards: cells and moves [B, N, 2, T], and the chance that the first is preferred [B, N]."""

    cells: Array
    moves: Array
    first: Array


def random_segments(board: Board, count: int, settings: Settings, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return cells and moves [count, T] of random moves from random starts."""
    cells, moves = np.zeros((0, settings.length), int), np.zeros((0, settings.length), int)
    while len(cells) < count:
        cell = rng.choice(board.starts, 4 * count)
        path, chosen = [], rng.integers(4, size=(4 * count, settings.length))
        for move in chosen.T:
            path.append(cell)
            cell = board.next_cells[cell, move]
        found = np.stack(path, axis=1)
        # The last move may end the episode; an earlier one may not.
        kept = ~board.terminal[found].any(axis=1) if settings.inside else np.ones(len(found), bool)
        cells, moves = np.concatenate([cells, found[kept]]), np.concatenate([moves, chosen[kept]])
    return cells[:count], moves[:count]


def answer(boards: Sequence[Board], count: int, model: str, settings: Settings, seed: int) -> Answers:
    """Draw `count` pairs on each board and let the package's own rater answer them."""
    parts = []
    for i, board in enumerate(boards):
        # The same pairs whatever the rater.
        cells, moves = random_segments(board, 2 * count, settings, np.random.default_rng((seed, i)))
        rewards = board.rewards[cells, moves]
        segments = [
            Segment(board.observations[c], np.eye(4, dtype=np.float32)[m], r)
            for c, m, r in zip(cells, moves, rewards, strict=True)
        ]
        queries = [Query((segments[2 * j], segments[2 * j + 1])) for j in range(count)]
        teacher, own = Teacher(beta=settings.beta), derive_seed(seed, "rater", i)
        oracle = (
            RegretOracle(BoardValues(board, settings.gamma), teacher, seed=own)
            if model == "regret"
            else PartialReturnOracle(teacher, seed=own)
        )
        oracle.ask(queries)
        first = np.array([one.probabilities[0] for one in oracle.collect() if one.probabilities is not None])
        shape = (count, 2, settings.length)
        parts.append((cells.reshape(shape), moves.reshape(shape), first))
    return Answers(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False)
class Tables:
    """B boards of C cells side by side: features [B, C, 4, F], next cells [B, C, 4]."""

    features: Array
    next_cells: Array

    @classmethod
    def of(cls, boards: Sequence[Board]) -> Tables:
        """Stack the tables of boards of one size."""
        return cls(np.stack([board.features for board in boards]), np.stack([board.next_cells for board in boards]))

    def at_next(self, values: Array) -> Array:
        """Values [B, C, ...] of the cell after each move, [B, C, 4, ...]."""
        found: Array = values[np.arange(len(values))[:, None, None], self.next_cells]
        return found


class BestPolicy:
    """The optimal policy for changing reward weights, by policy iteration from the last one; one per board."""

    def __init__(self, tables: Tables, gamma: float) -> None:
        self.tables, self.gamma = tables, gamma
        self.moves = np.zeros(tables.next_cells.shape[:2], int)
        self.successors = self._follow()

    def _follow(self) -> Array:
        """Discounted sums of features [B, C, F] under the present moves, exact by doubling the number of steps."""
        tables, lead = self.tables, np.arange(len(self.moves))[:, None]
        place = np.take_along_axis(tables.next_cells, self.moves[..., None], axis=2)[..., 0]
        sums = np.take_along_axis(tables.features, self.moves[..., None, None], axis=2)[:, :, 0]
        factor = self.gamma
        while factor > 1e-6:
            sums = sums + factor * sums[lead, place]
            place, factor = place[lead, place], factor * factor
        return sums

    def improve(self, weights: Array, rounds: int = 100) -> Array:
        """Return the move features [B, C, 4, F] of the advantage: phi(s, a) + gamma psi(s') - psi(s).

        Their product with the weights is A*. The optimal policy stays the same under small changes of the weights, so
        they are also the derivative of A*, wherever it has one.
        """
        for _ in range(rounds):
            gains = self.tables.features + self.gamma * self.tables.at_next(self.successors)
            worth = np.einsum("bcaf,bf->bca", gains, weights)
            now = np.take_along_axis(worth, self.moves[..., None], axis=2)[..., 0]
            better = worth.max(axis=2) > now + 1e-9 * (1 + np.abs(now))
            if not better.any():
                break
            self.moves = np.where(better, worth.argmax(axis=2), self.moves)
            self.successors = self._follow()
        gains = self.tables.features + self.gamma * self.tables.at_next(self.successors)
        advantages: Array = gains - self.successors[:, :, None]
        return advantages


def differences(tables: Tables, answers: Answers, model: str, weights: Array, best: BestPolicy, rounds: int) -> Array:
    """Return the features [B, N, F] of first minus second segment, whose product with the weights is the log-odds.

    They are sums of rewards' features, or of advantages' features under the policy that is optimal for the weights.
    """
    features = best.improve(weights, rounds) if model == "regret" else tables.features
    boards = np.arange(len(features))[:, None, None, None]
    sums = features[boards, answers.cells, answers.moves].sum(axis=3)
    change: Array = sums[:, :, 0] - sums[:, :, 1]
    return change


def fit(tables: Tables, answers: Answers, model: str, settings: Settings, seed: int) -> Array:
    """Return weights [B, F] by maximum likelihood of the answers under a model, with Adam."""
    weights = 0.1 * np.random.default_rng(seed).standard_normal((len(tables.features), len(FEATURES)))
    best = BestPolicy(tables, settings.gamma)
    mean, square = np.zeros_like(weights), np.zeros_like(weights)
    for step in range(1, settings.steps + 1):
        if step == 1 or model == "regret":
            # Three rounds of policy iteration keep up with small changes of the weights.
            change = differences(tables, answers, model, weights, best, rounds=3)
        chance = 1 / (1 + np.exp(-np.clip(np.einsum("bnf,bf->bn", change, weights), -50, 50)))
        gradient = np.einsum("bn,bnf->bf", chance - answers.first, change) / answers.first.shape[1]
        gradient += settings.decay * weights
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        rate = settings.lr * min(1.0, 2 * (1 - step / (settings.steps + 1)))
        weights = weights - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return weights


def predicted(tables: Tables, answers: Answers, model: str, weights: Array, gamma: float) -> float:
    """Return the share of answers that the weights predict, ties left out."""
    change = differences(tables, answers, model, weights, BestPolicy(tables, gamma), rounds=100)
    right = (np.einsum("bnf,bf->bn", change, weights) > 0) == (answers.first > 0.5)
    return float(right[answers.first != 0.5].mean())


def scaled_returns(boards: Sequence[Board], weights: Array, gamma: float) -> Array:
    """Return the scaled true return [B] of the policies that are optimal for the learned weights."""
    values = [BoardValues(board, gamma, board.features @ w) for board, w in zip(boards, weights, strict=True)]
    return np.array([scaled_return(board, known.policy) for board, known in zip(boards, values, strict=True)])


def learn(boards: Sequence[Board], count: int, model: str, settings: Settings, seed: int = 0) -> tuple[Array, float]:
    """Learn from `count` preferences; return the scaled returns [B] and the share of new answers predicted."""
    tables = Tables.of(boards)
    weights = fit(tables, answer(boards, count, model, settings, seed), model, settings, seed)
    fresh = answer(boards, 300, model, replace(settings, beta=-1.0), derive_seed(seed, "new answers"))
    returns = scaled_returns(boards, weights, settings.gamma)
    return returns, predicted(tables, fresh, model, weights, settings.gamma)


def random_boards(count: int, size: int, seed: int) -> list[Board]:
    return [random_board(np.random.default_rng((seed, i)), size, size) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=40)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--size", type=int, default=6)
    parser.add_argument("--length", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="write the table to this .csv file")
    options = parser.parse_args()
    boards = random_boards(options.boards, options.size, options.seed)
    print(f"{options.boards} boards of {options.size} x {options.size}, segments of {options.length} moves")
    print("successes (answers predicted) by number of preferences")
    rows = []
    for inside, beta in ((True, -1.0), (True, 1.0), (False, -1.0), (False, 1.0)):
        settings = Settings(options.size, options.length, inside=inside, beta=beta)
        for model in ("regret", "partial return"):
            cells = ["inside" if inside else "past the end", "certain" if beta < 0 else "logistic", model]
            for count in options.counts:
                returns, right = learn(boards, count, model, settings, options.seed)
                cells.append(f"{int((returns > ENOUGH).sum())}/{len(boards)} ({right:.0%})")
            rows.append(cells)
            print(*cells, sep="; ", flush=True)
    if options.out:
        write_table(options.out, ("segments", "answers", "model", *map(str, options.counts)), rows)


if __name__ == "__main__":
    main()
