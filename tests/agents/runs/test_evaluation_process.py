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

from prefenvs.agents.runs.callbacks import CheckpointCallback, EvaluationCallback
from prefenvs.agents.runs.evaluation_process import EvaluationFailed, EvaluationProcess, Order
from prefenvs.agents.runs.train import train as train_run
from prefenvs.evaluate import evaluate
from prefenvs.runs import Run

from ..online.feedback.test_aggregate import make_agent

TASK = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def beside() -> Iterator[EvaluationProcess]:
    with EvaluationProcess() as process:
        yield process


def train(folder: Path, beside: EvaluationProcess | None, every: int = 60) -> list[dict[str, float]]:
    run = Run.create(folder, "train pebble", {})
    agent = make_agent()
    agent.set_logger(Logger(None, []))
    agent.learn(200, callback=EvaluationCallback(run, TASK, every, episodes=3, seed=4, evaluator=beside))
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
    with pytest.raises(EvaluationFailed, match="evaluating beside training failed"):
        beside.drain()
    found: list[Any] = []
    beside.submit(agent, Order(TASK, 2, 0, record=False), found.append)
    beside.drain()
    assert len(found) == 1, "the process goes on after an error"


def test_a_learner_that_another_process_cannot_import_is_told(beside: EvaluationProcess) -> None:
    class Local:
        def save(self, path: Path) -> None:
            path.touch()

    beside.submit(Local(), Order(TASK, 2, 0, record=False), lambda result: pytest.fail("no result was due"))
    with pytest.raises(EvaluationFailed, match="cannot import Local"):
        beside.poll()


def test_training_survives_its_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies: what was learned is saved, the way on is told, and the run goes on by its checkpoint."""
    run = Run.create(tmp_path / "run", "train pebble", {})
    agent = make_agent()

    class Dying(EvaluationProcess):
        def submit(self, *arguments: Any) -> None:
            if agent.num_timesteps:
                os.kill(self._child.process.pid or 0, signal.SIGKILL)
            super().submit(*arguments)

    monkeypatch.setattr("prefenvs.agents.runs.train.EvaluationProcess", Dying)
    with pytest.raises(EvaluationFailed, match=r"has ended \(exit status -9\).*without --evaluate-async"):
        train_run([agent], [run], 200, evaluate_every=110, episodes=2, progress=False, evaluate_async=True)
    assert 110 <= agent.num_timesteps < 200
    resumed = make_agent()
    resumed.resume(run.checkpoint)
    assert resumed.num_timesteps == agent.num_timesteps
    train_run([resumed], [run], 200, evaluate_every=110, episodes=2, progress=False)
    assert run.rows("evaluations")[-1]["steps"] == 200


def test_a_checkpoint_waits_for_what_is_being_evaluated(tmp_path: Path, beside: EvaluationProcess) -> None:
    run = Run.create(tmp_path / "run", "train pebble", {})
    agent = make_agent()
    agent.set_logger(Logger(None, []))
    rows_at_checkpoints = []

    class Watched(CheckpointCallback):
        def _on_rollout_start(self) -> None:
            super()._on_rollout_start()
            measured = [row["steps"] for row in run.rows("evaluations")]
            rows_at_checkpoints.append((self.num_timesteps, measured[-1]))

    evaluation = EvaluationCallback(run, TASK, 30, episodes=2, evaluator=beside)
    agent.learn(130, callback=[evaluation, Watched(tmp_path / "checkpoint", seconds=0.0, evaluator=beside)])
    assert all(steps - last <= 30 for steps, last in rows_at_checkpoints)


def test_ctrl_c_while_the_process_starts_does_not_reach_it() -> None:
    with EvaluationProcess() as process:
        os.kill(process._child.process.pid or 0, signal.SIGINT)
        found: list[Any] = []
        process.submit(make_agent(), Order(TASK, 1, 0, record=False), found.append)
        process.drain()
        assert len(found) == 1
