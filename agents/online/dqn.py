"""DQN on the true reward: an expert with values of actions for tasks whose actions are discrete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from prefenvs.agents.nets.spaces import action_kind, check_spaces
from prefenvs.agents.registry import Algorithm, Online, Settings
from prefenvs.envs import make
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from prefenvs.tasks import Task


@dataclass(frozen=True)
class DQNConfig:
    """Settings of Stable-Baselines3's DQN, for boards and other small tasks on a CPU."""

    learning_rate: PositiveFloat = 1e-3
    """Learning rate."""
    buffer_size: PositiveInt = 100_000
    """Transitions kept."""
    learning_starts: NonNegativeInt = 1_000
    """Steps of random actions at the beginning."""
    batch_size: PositiveInt = 128
    """Transitions in a gradient step."""
    gamma: Fraction = 0.99
    """Discount."""
    train_freq: PositiveInt = 4
    """Environment steps between two gradient steps."""
    target_update_interval: PositiveInt = 500
    """Environment steps between two copies of the network into the target."""
    exploration_fraction: Fraction = 0.5
    """Share of the run over which random actions become rarer."""
    exploration_final: Fraction = 0.1
    """Share of random actions from then on."""
    width: PositiveInt = 128
    """Units in each of the two hidden layers."""


class TrueRewardDQN(DQN):
    """Stable-Baselines3's DQN, with what a run folder asks of a learner."""

    name = "dqn"
    learns_from = "true reward (upper bound)"
    oracle = None
    labels = 0

    @property
    def task(self) -> str:
        """Id of the task that the agent is trained on."""
        if not isinstance(self.env, TrajectoryRecorder):
            raise PrefenvsError("the agent has no environment")
        return self.env.buffer.task

    def check_run(self, total_steps: int) -> None:
        """Any number of steps will do."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write the model into a folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        self.save(path / "model.zip")
        return path


def make_dqn(task: str, config: DQNConfig, seed: int = 0, device: str = "auto") -> TrueRewardDQN:
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
        device=device,
    )


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return settings for boards and other small tasks on a CPU, whatever the task."""
    return Settings(DQNConfig(), 100_000 if steps is None else steps)


def _make(settings: Settings, given: Online) -> TrueRewardDQN:
    return make_dqn(given.task.id, settings.config, given.seed, given.device)


ALGORITHM = Algorithm(
    name="dqn",
    title="DQN on the true reward (upper bound)",
    source="online",
    learner=TrueRewardDQN,
    config=DQNConfig,
    preset=preset,
    make=_make,
    signal="true",
    resumes=False,
)
