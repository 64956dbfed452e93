"""Crowds answer as often alike, and as often equal, as the people they are named after; measured on their answers."""

import csv
from pathlib import Path

import numpy as np
import pytest

from prefenvs import PrefenvsError, Query, Segment
from prefenvs.oracles import CROWDS, PartialReturnOracle, RegretOracle, Teacher
from prefenvs.oracles.contract import check_oracle
from prefenvs.oracles.make import RaterContext, make_rater
from prefenvs.oracles.simulated.crowds import MEASURED, Measured, crowd_rates

QUERIES, LENGTH = 4000, 5
FILE = Path(__file__).resolve().parents[3] / "docs" / "results" / "measured" / "crowds.csv"


def pairs(rewards: np.ndarray) -> list[Query]:
    """Return pairs of segments with these rewards [Q, 2, T]."""
    zeros = np.zeros((LENGTH, 1), np.float32)
    return [Query(tuple(Segment(zeros, zeros, row, task="t") for row in pair)) for pair in rewards]


def ask(oracle, rewards: np.ndarray, queries: list[Query] | None = None) -> np.ndarray:
    """Return the answers [Q, 2] about pairs of segments with these rewards [Q, 2, T]."""
    oracle.ask(queries or pairs(rewards))
    return np.array([answer.probabilities for answer in oracle.collect()])


@pytest.fixture(scope="module")
def normal() -> tuple[np.ndarray, list[Query]]:
    """Random rewards and the pairs that have them."""
    rewards = np.random.default_rng(3).normal(size=(QUERIES, 2, LENGTH))
    return rewards, pairs(rewards)


def measure(rewards: np.ndarray, answers: np.ndarray) -> tuple[float, float, float]:
    """Return agreement on pairs that both decide, and the shares of ties of the rater and of the return."""
    returns = rewards.sum(axis=2)
    tied, equal = answers[:, 0] == 0.5, returns[:, 0] == returns[:, 1]
    both = ~tied & ~equal
    alike = answers[both].argmax(axis=1) == returns[both].argmax(axis=1)
    return float(alike.mean()), float(tied.mean()), float(equal.mean())


@pytest.mark.parametrize("name", CROWDS)
def test_agrees_and_ties_as_often_as_measured(name, normal) -> None:
    agreement, ties = crowd_rates()[name]
    found = measure(normal[0], ask(PartialReturnOracle(name, seed=0), *normal))
    # Four standard errors of a share of about 5000 answers.
    assert found[0] == pytest.approx(agreement, abs=0.03)
    assert found[1] == pytest.approx(ties, abs=0.01)


@pytest.mark.parametrize("row", [row for row in MEASURED if row.domain == "antmaze"], ids=lambda row: row.dataset)
def test_sparse_rewards_leave_the_tie_share_alone(row) -> None:
    """Where the return ties nine pairs of ten, people still tie fewer than two of ten."""
    rng = np.random.default_rng(0)
    rewards = np.zeros((QUERIES, 2, LENGTH))
    decided = rng.random(QUERIES) > row.script_ties
    rewards[decided, rng.integers(0, 2, decided.sum()), 0] = 1.0
    found = measure(rewards, ask(PartialReturnOracle(f"crowd-{row.dataset}", seed=0), rewards))
    assert found[2] == pytest.approx(row.script_ties, abs=0.02)
    assert found[1] == pytest.approx(row.ties, abs=0.02)
    assert found[0] == pytest.approx(row.agreement, abs=0.07)


def test_rates_hold_over_many_small_sessions() -> None:
    rewards = np.random.default_rng(1).normal(size=(3000, 2, LENGTH))
    oracle = PartialReturnOracle("crowd-walker2d-medium-expert", seed=0)
    answers = np.concatenate([ask(oracle, rewards[i : i + 20]) for i in range(0, 3000, 20)])
    agreement, ties, _ = measure(rewards, answers)
    assert agreement == pytest.approx(0.86, abs=0.03)
    assert ties == pytest.approx(0.122, abs=0.03)


def test_domains_pool_their_sets() -> None:
    rows = [row for row in MEASURED if row.domain == "adroit"]
    agreement, ties = crowd_rates()["crowd-adroit"]
    assert min(row.agreement for row in rows) < agreement < max(row.agreement for row in rows)
    assert ties == pytest.approx(np.mean([row.ties for row in rows]))
    assert {f"crowd-{domain}" for domain in ("mujoco", "adroit", "antmaze")} <= set(CROWDS)


def test_guesses_are_even_and_soft_ones_are_halves() -> None:
    rewards = np.ones((QUERIES, 2, LENGTH))
    teacher = Teacher(exact_ties="guess")
    answers = ask(PartialReturnOracle(teacher, seed=0), rewards)
    assert set(answers[:, 0]) == {0.0, 1.0}
    assert answers[:, 0].mean() == pytest.approx(0.5, abs=0.03)
    assert np.all(ask(PartialReturnOracle(teacher, soft=True), rewards[:10]) == 0.5)


def test_a_crowd_may_judge_by_regret() -> None:
    """Where the reward is sparse, people see progress: the same rates on top of an expert's advantages."""
    rewards = np.random.default_rng(2).normal(size=(QUERIES, 2, LENGTH))
    steps = {row.tobytes(): row for pair in rewards for row in pair}
    assert len(steps) == 2 * QUERIES
    observations = rewards[..., None]
    oracle = RegretOracle(lambda o, a: o[..., 0], "crowd-antmaze", seed=0)
    oracle.ask([Query(tuple(Segment(o, o, task="t") for o in pair)) for pair in observations])
    answers = np.array([answer.probabilities for answer in oracle.collect()])
    agreement, ties = crowd_rates()["crowd-antmaze"]
    found = measure(rewards, answers)
    assert found[:2] == pytest.approx((agreement, ties), abs=0.03)


def test_keeps_the_contract_and_its_name() -> None:
    rewards = np.random.default_rng(0).normal(size=(10, 2, LENGTH))
    zeros = np.zeros((LENGTH, 1), np.float32)
    queries = [Query(tuple(Segment(zeros + i, zeros, row, task="t") for row in pair)) for i, pair in enumerate(rewards)]
    check_oracle(lambda: PartialReturnOracle("crowd-mujoco", seed=0), queries)
    assert PartialReturnOracle("crowd-mujoco").name == "partial-return-crowd-mujoco"
    assert PartialReturnOracle("crowd-mujoco").annotator == "crowd-mujoco"


def test_answers_go_on_after_a_restart() -> None:
    rewards = np.random.default_rng(5).integers(0, 2, (200, 2, LENGTH)).astype(float)
    whole = PartialReturnOracle("crowd-antmaze", seed=4)
    ask(whole, rewards[:100])
    other = PartialReturnOracle("crowd-antmaze", seed=9)
    other.load_state_dict(whole.state_dict())
    assert np.array_equal(ask(whole, rewards[100:]), ask(other, rewards[100:]))


def test_the_command_line_knows_crowds() -> None:
    oracle = make_rater("crowd-hopper-medium", RaterContext("Hopper-v5", 0))
    assert oracle is not None
    assert oracle.name == "partial-return-crowd-hopper-medium"
    with pytest.raises(PrefenvsError, match="Did you mean crowd-antmaze"):
        PartialReturnOracle("crowd-antmaz")


def test_the_docs_quote_the_figures_that_crowds_imitate() -> None:
    with FILE.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == Measured._fields
    assert rows == [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in MEASURED]
