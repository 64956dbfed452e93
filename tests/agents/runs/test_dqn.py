"""DQN in a run folder: what is resumed goes on as if it had never stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from prefenvs.agents.online.dqn import DQNConfig, TrueRewardDQN, make_dqn
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

SMALL = DQNConfig(learning_starts=50, batch_size=16, width=16, buffer_size=150, target_update_interval=40)
TASKS = ["CartPole-v1", "Delivery-v0"]


def weights(agent: TrueRewardDQN) -> list[torch.Tensor]:
    return [value.detach().clone() for value in agent.policy.state_dict().values()]


@pytest.mark.parametrize("task", TASKS)
def test_a_resumed_run_is_the_unbroken_one(task: str, tmp_path: Path) -> None:
    whole, rates = make_dqn(task, SMALL, seed=3), list[float]()

    class Keep(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.num_timesteps == 80:
                self.model.save_checkpoint(tmp_path / "checkpoint")  # type: ignore[attr-defined]
                rates.append(self.model.exploration_rate)  # type: ignore[attr-defined]

        def _on_step(self) -> bool:
            return True

    whole.learn(320, callback=Keep())
    resumed = make_dqn(task, SMALL, seed=3)
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.num_timesteps == 80
    # While actions are random still, which the first one after a resume has to be as often.
    assert [resumed.exploration_rate] == rates > [0.5]
    resumed.learn(240, reset_num_timesteps=False)
    assert resumed.num_timesteps == whole.num_timesteps
    assert resumed.exploration_rate == whole.exploration_rate
    for ours, theirs in zip(weights(resumed), weights(whole), strict=True):
        assert torch.equal(ours, theirs)


def options(folder: Path, steps: int = 400) -> list[str]:
    return ["--task", "CartPole-v1", "--steps", str(steps), "--evaluate-every", "200", "--episodes", "1",
            "--folder", str(folder), "--no-progress"]  # fmt: skip


def test_a_stopped_run_is_resumed_by_the_command_that_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = TrueRewardDQN._on_step

    def interrupt(agent: Any) -> None:
        steps(agent)
        if agent.num_timesteps == 250:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(TrueRewardDQN, "_on_step", interrupt)
        with pytest.raises(SystemExit):
            main(["train", "dqn", *options(tmp_path / "run")])
    line = next(line for line in capsys.readouterr().out.splitlines() if "--resume" in line)
    main([*line.partition("prefenvs ")[2].split(), "--no-progress"])
    assert [row["steps"] for row in Run.open(tmp_path / "run").rows("evaluations")] == [0, 200, 400]
    main(["evaluate", str(tmp_path / "run"), "--episodes", "1"])


@pytest.mark.parametrize("name", ["model.zip", "replay.npz", "state.json", "episodes.npz"])
def test_a_damaged_checkpoint_is_one_line(name: str, tmp_path: Path) -> None:
    agent = make_dqn("CartPole-v1", SMALL)
    agent.learn(60)
    agent.save_checkpoint(tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PrefenvsError, match=name) as error:
        make_dqn("CartPole-v1", SMALL).resume(tmp_path / "checkpoint")
    assert "\n" not in str(error.value)
    path.unlink()
    with pytest.raises(PrefenvsError):
        make_dqn("CartPole-v1", SMALL).resume(tmp_path / "checkpoint")
