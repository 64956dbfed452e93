"""SPO: whole episodes of a rollout, win shares against a count by hand, and what has no reward teaches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback

import prefenvs
from prefenvs.agents.direct.spo import SPO, SPOConfig, find_episodes
from prefenvs.envs.vectors import make_envs
from prefenvs.errors import PrefenvsError
from prefenvs.raters import FunctionOracle
from prefenvs.segments import Segment

SMALL: dict[str, Any] = {"n_steps": 60, "batch_size": 30, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}, "seed": 0}


def first_longer(first: Segment, second: Segment) -> float:
    """The chance that the second is better: 1 where it lasts longer, half where both last alike."""
    lengths = [segment.actions.any(axis=1).sum() for segment in (first, second)]
    return float(0.5 + 0.5 * np.sign(lengths[1] - lengths[0]))


def test_episodes_of_a_rollout_come_in_the_order_of_their_ends() -> None:
    starts = np.zeros((6, 2))
    starts[[0, 3], 0] = 1
    starts[[0, 2, 4], 1] = 1
    assert find_episodes(starts, np.array([False, True])) == [(1, 0, 2), (0, 0, 3), (1, 2, 4), (1, 4, 6)]


class Looks(SPO):
    """Keeps what it learned from."""

    def _reward(self, buffer: Any, spans: Any, shares: Any) -> None:
        super()._reward(buffer, spans, shares)
        self.seen = buffer.rewards.copy(), buffer.advantages.copy(), list(spans), shares.copy()


def test_the_reward_is_the_share_of_wins_spread_over_the_episode() -> None:
    # So many opponents that every episode meets every other.
    config = SPOConfig(queue=400, opponents=399)
    agent = Looks("MlpPolicy", make_envs("CartPole-v1", 2), FunctionOracle(first_longer), config, **SMALL)
    agent.learn(120)
    rewards, advantages, spans, shares = agent.seen
    lengths = np.array([end - begin for _, begin, end in spans])
    n = len(lengths)
    by_hand = [((own > lengths).sum() + 0.5 * ((own == lengths).sum() - 1)) / (n - 1) for own in lengths]
    np.testing.assert_allclose(shares, by_hand)
    assert agent.asked == agent.labels == n * (n - 1) // 2
    covered = np.zeros(rewards.shape, bool)
    for (env, begin, end), share in zip(spans, by_hand, strict=True):
        assert rewards[begin:end, env].sum() == pytest.approx(share - 0.5, abs=1e-6)
        covered[begin:end, env] = True
    assert not covered.all()
    assert not rewards[~covered].any()
    assert not advantages[~covered].any()


def test_the_budget_of_labels_is_kept_and_ends_the_run() -> None:
    config = SPOConfig(labels=10, queue=8, opponents=3)
    agent = SPO("MlpPolicy", make_envs("CartPole-v1", 2), FunctionOracle(first_longer), config, **SMALL)
    agent.learn(1_000)
    assert (agent.asked, agent.labels) == (10, 10)
    assert agent.num_timesteps < 1_000


def test_a_rollout_shorter_than_an_episode_and_a_queue_without_room_are_refused() -> None:
    agent = SPO("MlpPolicy", prefenvs.make("Pendulum-v1"), FunctionOracle(first_longer), **SMALL)
    with pytest.raises(PrefenvsError, match="--n-steps"):
        agent.learn(200)
    with pytest.raises(PrefenvsError, match="raise --queue"):
        SPOConfig(queue=4, opponents=4)


class StopAt(BaseCallback):
    """Ctrl-C after so many steps, in the middle of a rollout as an on-policy run takes it."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.steps:
            raise KeyboardInterrupt
        return True


def test_a_run_that_was_stopped_within_a_rollout_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def make() -> SPO:
        config = SPOConfig(queue=8, opponents=3)
        return SPO("MlpPolicy", make_envs("CartPole-v1", 2), FunctionOracle(first_longer), config, **SMALL)

    agent = make()
    with pytest.raises(KeyboardInterrupt):
        agent.learn(360, StopAt(150))
    resumed = make()
    resumed.resume(agent.save_checkpoint(tmp_path / "checkpoint"))
    resumed.learn(360 - resumed.num_timesteps, reset_num_timesteps=False)
    assert resumed.num_timesteps >= 360
    assert "stopped within a rollout, which begins anew" in capsys.readouterr().out


def test_a_checkpoint_holds_a_queue_of_any_length(tmp_path: Path) -> None:
    def make() -> SPO:
        config = SPOConfig(queue=150, opponents=2)
        settings = SMALL | {"n_steps": 600, "batch_size": 300}
        return SPO("MlpPolicy", make_envs("CartPole-v1", 6), FunctionOracle(first_longer), config, **settings)

    agent, resumed = make(), make()
    agent.learn(3_600)
    resumed.resume(agent.save_checkpoint(tmp_path / "checkpoint"))
    assert len(resumed.recorder.buffer) == len(agent.recorder.buffer) == 150
