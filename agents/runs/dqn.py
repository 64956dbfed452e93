"""DQN on the true reward: an expert with values of actions for tasks whose actions are discrete."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import stable_baselines3
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from prefenvs.agents.nets.spaces import action_kind, check_spaces
from prefenvs.agents.online.dqn_checkpoint import load_dqn, save_dqn
from prefenvs.agents.online.saved_agent import SavedAgent
from prefenvs.agents.runs.callbacks import CheckpointCallback, EvaluationCallback
from prefenvs.agents.runs.groups import checkpointed
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.bench.curves import draw_learning_curve
from prefenvs.envs import make
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run


@dataclass(frozen=True)
class DQNConfig:
    """Settings of Stable-Baselines3's DQN, for boards and other small tasks on a CPU."""

    learning_rate: float = 1e-3
    """Learning rate."""
    buffer_size: int = 100_000
    """Transitions kept."""
    learning_starts: int = 1_000
    """Steps of random actions at the beginning."""
    batch_size: int = 128
    """Transitions in a gradient step."""
    gamma: float = 0.99
    """Discount."""
    train_freq: int = 4
    """Environment steps between two gradient steps."""
    target_update_interval: int = 500
    """Environment steps between two copies of the network into the target."""
    exploration_fraction: float = 0.5
    """Share of the run over which random actions become rarer."""
    exploration_final: float = 0.1
    """Share of random actions from then on."""
    width: int = 128
    """Units in each of the two hidden layers."""


class TrueRewardDQN(SavedAgent, stable_baselines3.DQN):
    """Stable-Baselines3's DQN, which can be stopped and resumed; saved as tensors and JSON."""

    name = "dqn"
    sees_raw_observations = True

    @property
    def recorder(self) -> TrajectoryRecorder:
        """The wrapper that records this agent's episodes."""
        assert isinstance(self.env, TrajectoryRecorder)
        return self.env

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that `resume` needs."""
        return save_dqn(self, Path(folder))

    def resume(self, folder: Path) -> None:
        """Continue from a checkpoint of the same settings; `learn(..., reset_num_timesteps=False)` follows."""
        load_dqn(self, folder)


def make_dqn(task: str, config: DQNConfig, seed: int = 0) -> TrueRewardDQN:
    """Return an untrained DQN agent that is shown the true reward of a task with discrete actions."""
    venv = DummyVecEnv([lambda: make(task)])
    if action_kind(venv.action_space) == "bounded":
        raise PrefenvsError(
            f"DQN needs discrete actions, and those of {task} are not: train an expert by "
            f"`prefenvs train pebble --true-reward --task {task}`"
        )
    check_spaces("DQN", ("discrete",), venv)
    recorder = TrajectoryRecorder(venv)
    recorder.reveal = True
    return TrueRewardDQN(
        "MlpPolicy",
        recorder,
        learning_rate=config.learning_rate,
        buffer_size=config.buffer_size,
        learning_starts=config.learning_starts,
        batch_size=config.batch_size,
        gamma=config.gamma,
        train_freq=config.train_freq,
        target_update_interval=config.target_update_interval,
        exploration_fraction=config.exploration_fraction,
        exploration_final_eps=config.exploration_final,
        policy_kwargs={"net_arch": [config.width, config.width]},
        seed=seed,
    )


def train_dqn(
    agent: TrueRewardDQN,
    task: str,
    run: Run,
    steps: int,
    evaluate_every: int,
    episodes: int = 10,
    progress: bool = True,
) -> dict[str, Any]:
    """Train until `steps` environment steps, and write checkpoint, evaluations, learning curve and summary.

    The upper bound for learners from preferences, and an expert for raters that judge by regret. After Ctrl-C the
    checkpoint is written before KeyboardInterrupt goes on, so a run can be resumed.
    """
    begin = time.time()
    done = agent.num_timesteps
    agent.set_logger(configure(str(run.path(f"log/from-{done}")), ["csv", "tensorboard"]))
    stop = StopOnInterrupt()
    evaluation = EvaluationCallback(run, task, evaluate_every, episodes, seed=agent.seed or 0)
    with checkpointed([agent], [run], stop, None, "steps"):
        agent.learn(
            max(steps - done, 0),
            callback=[evaluation, CheckpointCallback(run.checkpoint), stop],
            reset_num_timesteps=done == 0,
            progress_bar=progress,
        )
    rows = run.rows("evaluations")
    summary = {
        "task": task,
        "algorithm": "dqn",
        "learns_from": "true reward (upper bound)",
        "seed": agent.seed,
        "steps": agent.num_timesteps,
        "labels": 0,
        "queries": 0,
        "first": rows[0],
        "last": rows[-1],
        "best_mean_return": max(row["mean_return"] for row in rows),
        "seconds": round(time.time() - begin, 1),
    }
    run.summarise(summary)
    curve = {"true reward (upper bound)": rows}
    draw_learning_curve(curve, run.path("learning_curve.png"), f"{task}, seed {agent.seed}")
    return summary
