"""A run that is resumed from a checkpoint is the run that was never stopped, where the task can tell its state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO, PrefPPOConfig, RewardConfig, StateRewardSAC
from prefenvs.agents.online.sac import CerConfig
from prefenvs.agents.rewards.options.reed import ReedConfig
from prefenvs.agents.rewards.options.rime import RimeConfig
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.envs.vectors import IndependentEnvs
from prefenvs.errors import PrefenvsError

from ...worlds import Point, Rater

STEPS = 260


def make_agent(env: Any, surf: SurfConfig | None = None, body: str = "mlp", **given: Any) -> PEBBLE:
    reward = given.pop("reward", RewardConfig(width=8, layers=1, epochs=2, surf=surf))
    control = {"true_reward", "exploration_only"} & {*given}
    config = PebbleConfig(
        labels=60,
        per_session=5,
        interact=40,
        segment_length=8,
        unsupervised_steps=120,
        reset_updates=2,
        reward=reward,
        **given,
    )
    sizes: dict[str, Any] = {"learning_starts": 100, "batch_size": 8, "buffer_size": 5_000}
    return PEBBLE(
        "MlpPolicy",
        env,
        None if control else Rater(),
        config,
        policy_kwargs={"net_arch": [8], "body": body},
        seed=0,
        device="cpu",
        **sizes,
    )


OPTIONS: dict[str, Any] = {
    "body": "simba",
    "reward": RewardConfig(width=8, layers=1, epochs=2, normalise=True, rime=RimeConfig(), reed=ReedConfig(epochs=1)),
    "value_resets": CerConfig(threshold=0.01, rise=0.001),
    "lists": "lire",
}
"""All that has a state of its own."""


def two(task: str) -> IndependentEnvs:
    return IndependentEnvs([lambda: prefenvs.make(task)] * 2)


def make_prefppo(task: str) -> PrefPPO:
    reward = RewardConfig(width=8, layers=1, epochs=2)
    config = PrefPPOConfig(
        labels=60,
        per_session=5,
        interact=40,
        segment_length=8,
        unsupervised_steps=120,
        unsupervised_epochs=2,
        reward=reward,
    )
    sizes: dict[str, Any] = {"n_steps": 20, "batch_size": 10, "n_epochs": 2, "policy_kwargs": {"net_arch": [8]}}
    return PrefPPO("MlpPolicy", two(task), Rater(), config, seed=0, device="cpu", **sizes)


class StateReward:
    """Scores a state by its numbers."""

    def score(self, states: np.ndarray, scenes: np.ndarray | None) -> np.ndarray:
        return np.asarray(-np.abs(states).sum(1), np.float32)


def make_clip(task: str) -> StateRewardSAC:
    sizes: dict[str, Any] = {"learning_starts": 100, "batch_size": 8, "buffer_size": 5_000, "train_freq": 10}
    return StateRewardSAC(
        "MlpPolicy",
        two(task),
        StateReward(),
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
        **sizes,
    )


MAKERS: dict[str, Callable[[str], Any]] = {
    "pebble": lambda task: make_agent(two(task)),
    "pebble-true-reward-explored": lambda task: make_agent(two(task), true_reward=True, explore_first=True),
    "pebble-no-labels": lambda task: make_agent(two(task), exploration_only=True),
    "prefppo": make_prefppo,
    "clip": make_clip,
}


class CheckpointAt(BaseCallback):
    def __init__(self, steps: int, folder: Path) -> None:
        super().__init__()
        self.steps, self.folder = steps, folder

    def _on_rollout_start(self) -> None:
        if self.num_timesteps == self.steps:
            self.model.save_checkpoint(self.folder)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("steps", "options"),
    [(50, {}), (150, {}), (235, {}), (150, OPTIONS), (235, OPTIONS)],
    ids=lambda value: value if isinstance(value, int) else "options" if value else "plain",
)
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, steps: int, options: dict[str, Any]) -> None:
    """In the random steps, while exploring, and after the first session; in the middle of an episode each time."""
    unbroken = make_agent(prefenvs.make("Pendulum-v1"), **options)
    unbroken.learn(STEPS, callback=CheckpointAt(steps, tmp_path / "checkpoint"))
    resumed = make_agent(prefenvs.make("Pendulum-v1"), **options)
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


def test_a_reward_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    agent = make_agent(Point())
    agent.learn(240)
    agent.save_checkpoint(tmp_path / "checkpoint")
    other = make_agent(Point(), reward=RewardConfig(width=8, layers=1, epochs=3))
    with pytest.raises(PrefenvsError, match="epochs=2, this agent's has epochs=3"):
        other.resume(tmp_path / "checkpoint")


def test_what_surf_and_a_rollout_draw_anew_is_said_on_resuming(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    surf = make_agent(Point(), surf=SurfConfig(margin=1))
    surf.learn(240)
    surf.save_checkpoint(tmp_path / "surf")
    make_agent(Point(), surf=SurfConfig(margin=1)).resume(tmp_path / "surf")
    assert "unlabelled queries are drawn anew" in capsys.readouterr().out

    def make_ppo() -> PrefPPO:
        config = PrefPPOConfig(labels=20, per_session=5, interact=40, segment_length=8, unsupervised_steps=50)
        return PrefPPO("MlpPolicy", Point(), Rater(), config, n_steps=40, batch_size=20, seed=0, device="cpu")

    class StopAt(BaseCallback):
        def _on_step(self) -> bool:
            return bool(self.num_timesteps < self.steps)

        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps

    for steps, said in ((100, True), (1000, False)):
        agent = make_ppo()
        agent.learn(120, callback=StopAt(steps))
        agent.save_checkpoint(tmp_path / "ppo")
        make_ppo().resume(tmp_path / "ppo")
        assert ("within a rollout" in capsys.readouterr().out) == said


@pytest.mark.parametrize("task", ["Pendulum-v1", "Reacher-v5"])
@pytest.mark.parametrize("algorithm", MAKERS)
def test_every_online_algorithm_resumes_bit_for_bit(tmp_path: Path, algorithm: str, task: str) -> None:
    make, steps, half = MAKERS[algorithm], 520, 440
    unbroken = make(task)
    unbroken.learn(steps, callback=CheckpointAt(half, tmp_path / "checkpoint"))
    resumed = make(task)
    # What its own start has drawn must not matter.
    resumed.action_space.sample(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.num_timesteps == half
    assert any(len(states) for states in resumed.recorder.buffer.open_steps.values())
    resumed.learn(steps - half, reset_num_timesteps=False)
    assert resumed.num_timesteps == unbroken.num_timesteps == steps
    for name, expected in unbroken.get_parameters().items():
        # Of an optimiser the moments; a loaded one names another of its equal kernels.
        found, expected = (part.get("state", part) for part in (resumed.get_parameters()[name], expected))
        torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=0, msg=name)
    episodes = [agent.recorder.buffer.trajectories() for agent in (resumed, unbroken)]
    for name in ("observations", "actions", "ends", "true_rewards", "states"):
        np.testing.assert_array_equal(*(getattr(each, name) for each in episodes), err_msg=name)
    np.testing.assert_array_equal(resumed._last_obs, unbroken._last_obs)
    if unbroken.feedback is not None:
        asked = [[answer.query.id for answer in agent.feedback.preferences] for agent in (resumed, unbroken)]
        assert asked[0] == asked[1]
        assert len(asked[0]) > 10
        steps_seen = episodes[0].observations, episodes[0].actions
        rewards = [agent.reward_model.predict(*steps_seen) for agent in (resumed, unbroken)]
        np.testing.assert_array_equal(*rewards)
