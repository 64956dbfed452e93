"""Evaluations beside training find what evaluations in its place would have found, and fail aloud."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

from agents.beside import EvaluationProcess, Order
from agents.callbacks import EvaluationCallback
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.runs import Run

from .test_aggregate import make_agent

TASK = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def beside() -> Iterator[EvaluationProcess]:
    with EvaluationProcess() as process:
        yield process


def train(folder: Path, beside: EvaluationProcess | None, every: int = 60) -> list[dict[str, float]]:
    run = Run.create(folder, "train pebble", {})
    agent = make_agent()
    agent.set_logger(Logger(None, []))
    agent.learn(200, callback=EvaluationCallback(run, TASK, every, episodes=3, seed=4, beside=beside))
    return run.rows("evaluations")


def test_the_rows_are_those_of_evaluations_in_place(tmp_path: Path, beside: EvaluationProcess) -> None:
    """More evaluations than are let wait, with learned returns of reward models that have changed meanwhile."""
    rows, expected = train(tmp_path / "beside", beside, every=20), train(tmp_path / "in-place", None, every=20)
    assert [row["steps"] for row in rows] == [*range(0, 201, 20)]
    for row, other in zip(rows, expected, strict=True):
        del row["seconds"], other["seconds"]
        assert row == pytest.approx(other, nan_ok=True)
    learned = [row["learned_return"] for row in rows]
    assert np.isfinite(learned[-1])
    assert len(set(learned)) > 3


def test_a_policy_is_evaluated_as_it_was_when_it_was_handed_over(beside: EvaluationProcess) -> None:
    agent = make_agent()
    agent.set_logger(Logger(None, []))
    found: list[Any] = []
    beside.submit(agent, Order(TASK, 3, 7, record=True), found.append)
    expected = evaluate(agent, TASK, episodes=3, seed=7, record=3)
    agent.learn(150)
    assert not found, "only poll and drain hand results on"
    beside.drain()
    np.testing.assert_array_equal(found[0].returns, expected.returns)
    np.testing.assert_array_equal(found[0].trajectories.observations, expected.trajectories.observations)


def test_what_goes_wrong_there_is_told_here(beside: EvaluationProcess) -> None:
    agent = make_agent()
    beside.submit(agent, Order("Hopper-v5", 2, 0, record=False), lambda result: pytest.fail("no result was due"))
    with pytest.raises(PrefenvsError, match="evaluating beside training failed"):
        beside.drain()
    found: list[Any] = []
    beside.submit(agent, Order(TASK, 2, 0, record=False), found.append)
    beside.drain()
    assert len(found) == 1, "the process goes on after an error"


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    with EvaluationProcess() as process:
        assert process._process.pid is not None
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(PrefenvsError, match=r"has ended \(exit status -9\): train without --evaluate-beside"):
            train(tmp_path / "run", process)
    process.close()
