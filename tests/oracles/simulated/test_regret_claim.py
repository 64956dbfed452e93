"""Knox et al.'s claim on delivery boards: preferences by regret teach a good policy where partial returns do not."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from prefenvs import Query, Segment
from prefenvs.envs.delivery.board import BOARDS
from prefenvs.envs.delivery.values import BoardValues, scaled_return
from prefenvs.oracles import PartialReturnOracle, RegretOracle

# Of its 1,000 steps of Adam, after which the same boards are driven well.
STEPS = 300
SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "rewards" / "regret_vs_partial_return.py"


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regret_vs_partial_return", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("beta", [-1.0, 1.0], ids=["certain", "logistic"])
def test_only_regret_teaches_a_good_policy_when_all_segments_lie_inside_episodes(experiment, beta) -> None:
    boards = experiment.random_boards(16, size=6, seed=11)
    settings = experiment.Settings(steps=STEPS, inside=True, beta=beta)
    regret, regret_predicted = experiment.learn(boards, 300, "regret", settings)
    partial, partial_predicted = experiment.learn(boards, 300, "partial return", settings)
    assert (regret > experiment.ENOUGH).mean() >= 0.9
    assert (partial > experiment.ENOUGH).mean() <= 0.25
    # Neither learner failed at its own task, which is to predict its rater.
    assert min(regret_predicted, partial_predicted) > 0.95


def test_regret_teaches_the_hand_drawn_boards(experiment) -> None:
    returns, _ = experiment.learn(BOARDS, 1000, "regret", experiment.Settings(steps=STEPS, inside=True))
    partial, _ = experiment.learn(BOARDS, 1000, "partial return", experiment.Settings(steps=STEPS, inside=True))
    assert (returns > experiment.ENOUGH).sum() >= 3
    assert (partial > experiment.ENOUGH).sum() <= 1


def test_partial_return_catches_up_but_stays_behind_when_segments_run_past_the_end(experiment) -> None:
    """With noise, and terminal steps in view, theory lets partial return find the reward: it needs more answers."""
    boards = experiment.random_boards(16, size=6, seed=12)
    settings = experiment.Settings(steps=STEPS, inside=False, beta=1.0)
    shares = {
        model: [(experiment.learn(boards, count, model, settings)[0] > experiment.ENOUGH).mean() for count in (30, 300)]
        for model in ("regret", "partial return")
    }
    assert shares["regret"][0] > shares["partial return"][0] + 0.2
    assert shares["regret"][1] > shares["partial return"][1]
    assert shares["partial return"][1] > shares["partial return"][0]


def test_a_constant_changes_no_answer_by_partial_return_but_the_best_policy() -> None:
    """The theory behind the first test, without a learner: +2 for each move makes driving in circles optimal."""
    board, rng = BOARDS[0], np.random.default_rng(0)
    values, shifted = (
        BoardValues(board),
        BoardValues(board, 0.99, np.where(board.terminal[:, None], 0, board.rewards + 2)),
    )
    moves = np.eye(4, dtype=np.float32)
    segments = []
    for start in rng.choice(board.starts, 600):
        path, chosen = [start], rng.integers(4, size=3)
        for move in chosen[:-1]:
            path.append(board.next_cells[path[-1], move])
        if not board.terminal[path].any():
            segments.append((np.array(path), chosen))
    answers = {}
    for name, extra in (("true", 0.0), ("shifted", 2.0)):
        made = [Segment(board.observations[p], moves[c], board.rewards[p, c] + extra) for p, c in segments]
        oracle = PartialReturnOracle()
        oracle.ask([Query(pair) for pair in zip(made[::2], made[1::2], strict=False)])
        answers[name] = np.array([answer.probabilities for answer in oracle.collect()])
    assert np.array_equal(answers["true"], answers["shifted"])
    assert scaled_return(board, values.policy) == pytest.approx(1.0)
    assert scaled_return(board, shifted.policy) < 0.9
    # A rater by regret tells the two apart.
    made = [Segment(board.observations[p], moves[c]) for p, c in segments]
    told = []
    for expert in (values, shifted):
        oracle = RegretOracle(expert)
        oracle.ask([Query(pair) for pair in zip(made[::2], made[1::2], strict=False)])
        told.append(np.array([answer.probabilities for answer in oracle.collect()]))
    assert (told[0] != told[1]).any(axis=1).mean() > 0.2


def test_learner_values_agree_with_exact_values(experiment) -> None:
    """The learner's policy iteration and the package's value iteration are two ways to the same advantages."""
    boards = experiment.random_boards(5, size=6, seed=3)
    weights = np.random.default_rng(0).normal(size=(5, 6))
    advantages = experiment.BestPolicy(experiment.Tables.of(boards), 0.95).improve(weights)
    for board, features, w in zip(boards, advantages, weights, strict=True):
        exact = BoardValues(board, 0.95, board.features @ w).a
        assert np.allclose((features @ w)[board.starts], exact[board.starts], atol=1e-4)
