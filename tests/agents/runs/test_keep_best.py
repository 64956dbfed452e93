"""A run may end with the policy that the learned reward calls best, of those at its last evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prefenvs.agents.online.pebble import PEBBLE
from prefenvs.agents.runs.train import train
from prefenvs.evaluate import evaluate
from prefenvs.runs import Run

from ..online.feedback.test_aggregate import make_agent

TASK = "InvertedPendulum-v5"


def run_with(
    folder: Path,
    keep_best: int,
    liked: int | None,
    monkeypatch: pytest.MonkeyPatch,
    beside: bool = False,
    steps: int = 200,
) -> tuple[PEBBLE, Run]:
    """Train by a learned reward that likes the policy played `liked`-th of those compared."""
    run = Run.create(folder, "train pebble", {})
    agent = make_agent()
    own, played = agent.learned_reward, []

    def reward(observations: np.ndarray, actions: np.ndarray, ends: np.ndarray | None = None):
        if ends is None or liked is None:
            return own(observations, actions)
        played.append(len(ends))
        likes = len(played) - 1 == liked
        return np.full(len(observations), float(likes), np.float32), np.zeros(len(observations), np.float32)

    monkeypatch.setattr(agent, "learned_reward", reward)
    train([agent], [run], steps, 40, episodes=2, progress=False, keep_best=keep_best, evaluate_async=beside)
    return agent, run


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """Evaluations of the run that keeps its last policy."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_with(tmp_path_factory.mktemp("plain") / "run", 0, None, monkeypatch)[1].rows("evaluations")


@pytest.mark.parametrize("beside", [False, True])
def test_the_policy_kept_is_the_one_that_the_learned_reward_likes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: list[dict[str, float]],
    beside: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    agent, run = run_with(tmp_path / "kept", 3, 0, monkeypatch, beside)
    told = [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "true return" in line]
    assert told == [f"seed {agent.seed or 0}, step {step}" for step in (0, 40, 80, 120, 160, 200, 200)]
    # The policies of steps 120, 160 and 200 are compared, and the first of them is liked.
    kept = torch.load(run.path("policies/120.pt"), weights_only=True)
    torch.testing.assert_close(dict(agent.policy.state_dict()), dict(kept), rtol=0, atol=0)
    rows = run.rows("evaluations")
    assert [row["steps"] for row in rows] == [row["steps"] for row in plain] == [0, 40, 80, 120, 160, 200]
    assert rows[-1]["mean_return"] == rows[3]["mean_return"] == plain[3]["mean_return"]
    found = evaluate(PEBBLE.load(run.folder), TASK, episodes=2, seed=agent.seed or 0)
    assert found.returns.mean() == pytest.approx(rows[-1]["mean_return"])


def test_the_last_policy_stays_where_none_is_liked_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: list[dict[str, float]]
) -> None:
    agent, run = run_with(tmp_path / "kept", 3, 2, monkeypatch)
    last = torch.load(run.path("policies/200.pt"), weights_only=True)
    torch.testing.assert_close(dict(agent.policy.state_dict()), dict(last), rtol=0, atol=0)
    assert run.rows("evaluations")[-1]["mean_return"] == plain[-1]["mean_return"]


def test_the_last_row_is_of_the_policy_kept_where_the_run_ends_between_two_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = run_with(tmp_path / "kept", 3, 0, monkeypatch, beside=True, steps=190)
    rows = run.rows("evaluations")
    assert [row["steps"] for row in rows] == [0, 40, 80, 120, 160, 190]
    # Of steps 120, 160 and 190 the first is liked.
    assert rows[-1]["mean_return"] == rows[3]["mean_return"]
