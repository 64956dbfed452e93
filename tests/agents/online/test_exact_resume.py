"""A run that is resumed from a checkpoint is the run that was never stopped, where the task can tell its state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig

from ..worlds import Point, Rater

STEPS = 260


def make_agent(env: Any) -> PEBBLE:
    reward = RewardConfig(width=8, layers=1, epochs=2)
    config = PebbleConfig(
        labels=20, per_session=5, interact=40, segment_length=8, unsupervised_steps=120, reset_updates=2, reward=reward
    )
    sizes: dict[str, Any] = {"learning_starts": 100, "batch_size": 8, "buffer_size": 5_000}
    return PEBBLE("MlpPolicy", env, Rater(), config, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **sizes)


class CheckpointAt(BaseCallback):
    def __init__(self, steps: int, folder: Path) -> None:
        super().__init__()
        self.steps, self.folder = steps, folder

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.steps:
            self.model.save_checkpoint(self.folder)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize("steps", [50, 150, 235])
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, steps: int) -> None:
    """In the random steps, while exploring, and after the first session; in the middle of an episode each time."""
    unbroken = make_agent(prefenvs.make("Pendulum-v1"))
    unbroken.learn(STEPS, callback=CheckpointAt(steps, tmp_path / "checkpoint"))
    resumed = make_agent(prefenvs.make("Pendulum-v1"))
    resumed.resume(tmp_path / "checkpoint")
    resumed.learn(STEPS - steps, reset_num_timesteps=False)
    for name in ("observations", "actions", "next_observations", "dones", "rewards"):
        rows = [getattr(agent.replay_buffer, name)[:STEPS] for agent in (resumed, unbroken)]
        np.testing.assert_array_equal(*rows, err_msg=name)
    torch.testing.assert_close(resumed.policy.state_dict(), unbroken.policy.state_dict(), rtol=0, atol=0)
    assert resumed.feedback is not None
    assert unbroken.feedback is not None
    ours, theirs = resumed.feedback.preferences, unbroken.feedback.preferences
    assert [answer.query.id for answer in ours] == [answer.query.id for answer in theirs]
    assert len(ours) > 0


def test_a_task_that_cannot_tell_its_state_says_what_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = make_agent(Point())
    agent.learn(240)
    agent.save_checkpoint(tmp_path / "checkpoint")
    make_agent(Point()).resume(tmp_path / "checkpoint")
    assert "start anew" in capsys.readouterr().out
