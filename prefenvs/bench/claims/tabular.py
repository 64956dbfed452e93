"""Demonstrations on delivery boards whose figures are exact."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from prefenvs.agents.registry import Online, find_algorithm
from prefenvs.agents.tabular.barfi import BARFI, BARFIConfig, Heuristic
from prefenvs.agents.tabular.dcppo import DCPPO, DCPPOConfig
from prefenvs.agents.tabular.parl import PARLConfig
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.delivery import drive, make_segment, soft_policy, table_of
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs.delivery.board import Board, find_board
from prefenvs.envs.delivery.values import scaled_return
from prefenvs.oracles import CoinOracle, PartialReturnOracle, Teacher
from prefenvs.preferences import Query
from prefenvs.segments import Array, Segment
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

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


LABELS, LENGTH, UPDATES = 500, 5, 300


def coins(observations: Array, actions: Array) -> Array:
    """A designer who pays for coins, so that driving to and fro over one is worth more than a delivery."""
    features = observations[:, -24:].reshape(-1, 4, 6)
    paid: Array = features[np.arange(len(features)), actions.argmax(1), 2]
    return paid


def progress(board: Board) -> Heuristic:
    """Return a designer who pays for each move by which the nearest destination comes nearer."""
    far = np.where(board.glyphs == "D", 0.0, 100.0)
    for _ in far:
        step = np.where(board.terminal | (board.glyphs == "#"), far, 1.0 + far[board.next_cells].min(1))
        far = np.minimum(far, step)

    def paid(observations: Array, actions: Array) -> Array:
        cells, moves = observations[:, :100].argmax(1), actions.argmax(1)
        gained: Array = far[cells] - far[board.next_cells[cells, moves]]
        return gained

    return paid


def _segments(board: Board, data: Trajectories, rng: np.random.Generator) -> list[Segment]:
    """Return segments of the data, every second of which is an episode's end."""
    cells, moves = data.observations[:, :100].argmax(1), data.actions.argmax(1)
    episodes = rng.choice(np.flatnonzero(data.lengths >= LENGTH), 2 * LABELS)
    begins = data.ends[episodes] - LENGTH
    begins[::2] -= rng.integers(data.lengths[episodes][::2] - LENGTH + 1)
    order = rng.permutation(2 * LABELS)
    rows = [slice(begin, begin + LENGTH) for begin in begins[order].tolist()]
    return [make_segment(board, cells[row], moves[row]) for row in rows]


@cache
def _mix(seed: int, useful: bool = False, rate: float = BARFIConfig.rate, coin: bool = False) -> tuple[float, float]:
    """Return BARFI's exact return, and its heuristic's weight as a share of the primary reward's."""
    board, rng = find_board(BOARD), np.random.default_rng(seed)
    data = drive(board, np.full((100, 4), 0.25), 200, rng)
    made = _segments(board, data, rng)
    rater = CoinOracle(seed=seed) if coin else PartialReturnOracle(Teacher(beta=0.3), seed=seed)
    rater.ask([Query((made[2 * i], made[2 * i + 1])) for i in range(LABELS)])
    heuristic = progress(board) if useful else coins
    config = BARFIConfig(rate=rate)
    dataset = OfflineDataset("drives", data)
    learner = BARFI(dataset, rater.collect(), config, heuristic=heuristic, seed=seed, device="cpu").learn(UPDATES)
    mixing = learner.tables.mixing.detach().numpy()
    return scaled_return(board, table_of(learner, board)), float(mixing[1] / mixing[0])


def barfi(seed: int) -> Measured:
    """BARFI with a heuristic that misleads, and the plain sum of both rewards."""
    return Measured(_mix(seed)[0], _mix(seed, rate=0.0)[0])


def barfi_weight(seed: int) -> Measured:
    """The weight of a heuristic that misleads, and of one that helps."""
    return Measured(_mix(seed)[1], _mix(seed, useful=True)[1])


def barfi_labels(seed: int) -> Measured:
    """BARFI on labels, and on a coin's."""
    return Measured(_mix(seed)[0], _mix(seed, coin=True)[0])


@cache
def _align(seed: int, policy_weight: float, coin: bool = False) -> float:
    """Return A-PARL's exact return on board 0 after its labels."""
    algorithm, task = find_algorithm("parl"), find_task("Delivery-v0")
    settings = algorithm.settings(task)
    config = replace(settings.config, labels=20, policy_weight=policy_weight)
    rater = CoinOracle(seed=seed) if coin else PartialReturnOracle(Teacher(beta=1.0), seed=seed)
    agent = algorithm.make_online(replace(settings, config=config), Online(task, rater, seed, "cpu"))
    agent.learn(settings.steps)
    return scaled_return(find_board(0), table_of(agent, find_board(0)))


def parl(seed: int) -> Measured:
    """A-PARL, and the same without the gradient through the policy."""
    return Measured(_align(seed, PARLConfig.policy_weight), _align(seed, 0.0))


def parl_labels(seed: int) -> Measured:
    """A-PARL on labels, and on a coin's."""
    return Measured(_align(seed, PARLConfig.policy_weight), _align(seed, PARLConfig.policy_weight, True))
