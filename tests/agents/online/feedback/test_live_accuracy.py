"""What the page and the log tell of the reward model: pooled over what it predicted before it learned from it."""

from typing import Any

import numpy as np
import pytest

from prefenvs.agents.online.feedback import Feedback, FeedbackConfig
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles import PartialReturnOracle
from prefenvs.trajectories import TrajectoryBuffer


class Noting(PartialReturnOracle):
    """Answers at once and keeps what the learner tells."""

    def __init__(self) -> None:
        super().__init__("oracle", seed=0)
        self.notes: list[dict[str, Any]] = []

    def report(self, status: Any) -> None:
        self.notes.append(dict(status))


def make_feedback(oracle: Noting) -> Feedback:
    rng = np.random.default_rng(0)
    buffer = TrajectoryBuffer("Pendulum-v1", max_episodes=None)
    for k in range(2_000):
        seen = rng.normal(size=3).astype(np.float32)
        buffer.add_step(0, seen, np.zeros(1, np.float32), float(seen[0]), None, done=k % 200 == 199, terminated=False)
    config = FeedbackConfig(labels=200, per_session=4, interact=10, segment_length=5, selector="uniform")
    model = RewardEnsemble(3, 1, RewardConfig(members=2, width=16, epochs=30), seed=0, device="cpu")
    return Feedback(config, oracle, model, buffer, 10, 1_000, seed=0)


def test_accuracy_is_pooled_over_all_labels_predicted_before_they_were_learned() -> None:
    oracle = Noting()
    feedback = make_feedback(oracle)
    seen, hits, rows = 0, 0.0, []
    for session in range(20):
        metrics = feedback.run(10 * (session + 1))
        assert metrics is not None
        if session:  # nothing had been learned before the first
            seen += int(metrics["new"])
            hits += metrics["new"] * metrics["new_accuracy"]
        rows.append(metrics)
    note = oracle.notes[-1]
    assert note["held_out_count"] == seen == 19 * 4
    assert note["held_out_accuracy"] == pytest.approx(hits / seen)
    assert (note["held_out_low"], note["held_out_high"]) == pytest.approx(Share(hits, seen).interval)
    assert rows[-1]["predicted_accuracy"] == note["held_out_accuracy"]
    assert note["held_out_high"] - note["held_out_low"] < 0.25
    assert oracle.notes[0]["held_out_accuracy"] is None
    assert oracle.notes[0]["held_out_count"] == 0
    # It is not the last look's.
    assert {row["new_accuracy"] for row in rows} - {0.0, 0.25, 0.5, 0.75, 1.0} == set()
    assert note["held_out_accuracy"] not in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_the_pool_is_in_the_checkpoint() -> None:
    first = make_feedback(Noting())
    for session in range(3):
        first.run(10 * (session + 1))
    other = make_feedback(Noting())
    other.load_state_dict(first.state_dict())
    assert other.predicted == first.predicted
    assert other.predicted.count == 8
    assert other.fitted
