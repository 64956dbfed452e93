"""Checkpoints from which DQN goes on as if it had never stopped: networks, replay, episode and random states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer

from prefenvs.agents.nets.saved import damage_told, find_folder, new_folder
from prefenvs.agents.online.checkpoint import load_episodes, load_random_state, random_state, save_episodes
from prefenvs.agents.online.saved_agent import read_agent
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.file_sizes import check_npz

COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
WAY_OUT = "put the checkpoint back from a copy, or start the run anew in another folder"


def save_dqn(agent: DQN, folder: Path) -> Path:
    """Write a checkpoint beside the old one and put it in its place when it is complete."""
    recorder, buffer = agent.env, agent.replay_buffer
    assert isinstance(recorder, TrajectoryRecorder)
    assert isinstance(buffer, ReplayBuffer)
    with new_folder(folder) as new:
        agent.save(new / "model.zip")
        rows = {name: getattr(buffer, name)[: buffer.size()] for name in ARRAYS}
        np.savez(new / "replay.npz", allow_pickle=False, pos=buffer.pos, full=buffer.full, **rows)
        save_episodes(agent, new / "episodes.npz")
        state = {name: getattr(agent, name) for name in COUNTERS} | {"random": random_state(agent)}
        (new / "state.json").write_text(json.dumps(state))
    return folder


def load_dqn(agent: DQN, folder: Path) -> None:
    """Put a checkpoint's state into an agent that was made with the same settings.

    Where the task cannot tell its state, the episode under way starts anew, and that is printed. Raises PrefenvsError
    for a checkpoint that is damaged or of other settings.
    """
    recorder, buffer = agent.env, agent.replay_buffer
    assert isinstance(recorder, TrajectoryRecorder)
    assert isinstance(buffer, ReplayBuffer)
    find_folder(folder)
    if not (folder / "state.json").is_file():
        raise PrefenvsError(f"{folder} cannot be resumed: it holds a model, but no state.json; train anew elsewhere")
    with damage_told(folder / "model.zip", WAY_OUT):
        _, parameters, _ = read_agent(folder / "model.zip", agent.device)
        agent.set_parameters(parameters, exact_match=True, device=agent.device)
    with damage_told(folder / "replay.npz", WAY_OUT):
        check_npz(folder / "replay.npz")
        with np.load(folder / "replay.npz", allow_pickle=False) as rows:
            for name in ARRAYS:
                target, stored = getattr(buffer, name), rows[name]
                if len(stored) > len(target) or stored.shape[1:] != target.shape[1:]:
                    raise PrefenvsError(f"{name} of shape {stored.shape} do not fit a buffer of {target.shape}")
                target[: len(stored)] = stored
            buffer.pos, buffer.full = int(rows["pos"]), bool(rows["full"])
    with damage_told(folder / "state.json", WAY_OUT):
        state = json.loads((folder / "state.json").read_text())
        for name in COUNTERS:
            setattr(agent, name, int(state[name]))
    load_episodes(agent, folder / "episodes.npz")
    with damage_told(folder / "state.json", WAY_OUT):
        # Last, so that nothing above draws from them.
        load_random_state(agent, state["random"])
