"""DQN on the true reward: an expert with values of actions for tasks whose actions are discrete."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from prefenvs.agents.nets.saved import damage_told, find_folder, new_folder
from prefenvs.agents.nets.spaces import action_kind, check_spaces
from prefenvs.agents.online.checkpoint import (
    WAY_OUT,
    load_episodes,
    load_model,
    load_random_state,
    random_state,
    save_episodes,
)
from prefenvs.agents.online.replay import COLUMNS, restore_rows
from prefenvs.agents.online.saved_agent import SavedAgent
from prefenvs.agents.registry import Algorithm, Online, Settings
from prefenvs.envs import make
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_npz
from prefenvs.limits import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, check_settings
from prefenvs.tasks import Task

COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")


@dataclass(frozen=True)
class DQNConfig:
    """Settings of Stable-Baselines3's DQN, for boards and other small tasks on a CPU."""

    learning_rate: PositiveFloat = 1e-3
    """Learning rate."""
    buffer_size: PositiveInt = 100_000
    """Size of the replay buffer, in transitions."""
    learning_starts: NonNegativeInt = 1_000
    """Steps of random actions at the beginning."""
    batch_size: PositiveInt = 128
    """Transitions in a batch."""
    gamma: Fraction = 0.99
    """Discount factor."""
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

    def __post_init__(self) -> None:
        check_settings(self)


class TrueRewardDQN(SavedAgent, DQN):
    """Stable-Baselines3's DQN, with what a run folder asks of a learner; saved as tensors and JSON."""

    name = "dqn"
    learns_from = "true reward (upper bound)"
    oracle = None
    labels = 0

    def check_run(self, total_steps: int) -> None:
        """Any number of steps will do."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that `resume` needs."""
        return save_checkpoint(self, Path(folder))

    def resume(self, folder: str | Path) -> None:
        """Continue from a checkpoint of the same settings; `learn(..., reset_num_timesteps=False)` follows."""
        load_checkpoint(self, Path(folder))


def save_checkpoint(agent: TrueRewardDQN, folder: Path) -> Path:
    """Write a checkpoint beside the old one and put it in its place when it is complete."""
    buffer = agent.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    with new_folder(folder) as new:
        agent.save(new / "model.zip")
        rows = {name: getattr(buffer, name)[: buffer.size()] for name in COLUMNS}
        np.savez(new / "replay.npz", allow_pickle=False, pos=buffer.pos, full=buffer.full, **rows)
        save_episodes(agent, new / "episodes.npz")
        state = {name: getattr(agent, name) for name in COUNTERS} | {"random": random_state(agent)}
        (new / "state.json").write_text(json.dumps(state))
    return folder


def load_checkpoint(agent: TrueRewardDQN, folder: Path) -> None:
    """Put a checkpoint's state into an agent that was made with the same settings.

    Where the task cannot tell its state, the episode under way starts anew, and that is printed. Raises PrefenvsError
    for a checkpoint that is damaged or of other settings.
    """
    buffer = agent.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    find_folder(folder)
    if not (folder / "state.json").is_file():
        raise PrefenvsError(f"{folder} cannot be resumed: it holds a model, but no state.json; train anew elsewhere")
    record = load_model(agent, folder / "model.zip")
    with damage_told(folder / "model.zip", WAY_OUT):
        # It is set after each step, so that the first action has that of the step before.
        agent.exploration_rate = float(record["counters"]["exploration_rate"])
    with damage_told(folder / "replay.npz", WAY_OUT):
        check_npz(folder / "replay.npz")
        with np.load(folder / "replay.npz", allow_pickle=False) as rows:
            restore_rows(buffer, rows, COLUMNS, folder / "replay.npz")
    with damage_told(folder / "state.json", WAY_OUT):
        state = json.loads((folder / "state.json").read_text())
        for name in COUNTERS:
            setattr(agent, name, int(state[name]))
    load_episodes(agent, folder / "episodes.npz")
    with damage_told(folder / "state.json", WAY_OUT):
        # Last, so that nothing above draws from them.
        load_random_state(agent, state["random"])


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
    keywords = asdict(config)
    width, final = keywords.pop("width"), keywords.pop("exploration_final")
    keywords |= {"exploration_final_eps": final, "policy_kwargs": {"net_arch": [width, width]}}
    return TrueRewardDQN("MlpPolicy", recorder, **keywords, seed=seed, device=device)


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
)
