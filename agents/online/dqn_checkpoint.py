"""Checkpoints from which DQN goes on as if it had never stopped: networks, replay, episode and random states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import load_from_zip_file

from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online.environments import go_on_drawing, random_state, read_episodes, save_episodes
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
    new, old = (folder.with_name(f"{folder.name}.{state}") for state in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    agent.save(new / "model.zip")
    rows = {name: getattr(buffer, name)[: buffer.size()] for name in ARRAYS}
    np.savez(new / "replay.npz", pos=buffer.pos, full=buffer.full, **rows)
    save_episodes(recorder, new / "episodes.pickle")
    state = {name: getattr(agent, name) for name in COUNTERS} | {"random": random_state(agent)}
    (new / "state.json").write_text(json.dumps(state))
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_dqn(agent: DQN, folder: Path) -> None:
    """Put a checkpoint's state into an agent that was made with the same settings.

    Where the task cannot tell its state, the episode under way starts anew, and that is printed. Raises PrefenvsError
    for a checkpoint that is damaged or of other settings.
    """
    recorder, buffer = agent.env, agent.replay_buffer
    assert isinstance(recorder, TrajectoryRecorder)
    assert isinstance(buffer, ReplayBuffer)
    old = folder.with_name(f"{folder.name}.old")
    if not folder.exists() and old.exists():
        # The writer was killed between its two renames.
        old.rename(folder)
    if not (folder / "state.json").is_file():
        raise PrefenvsError(f"{folder} cannot be resumed: it holds a model, but no state.json; train anew elsewhere")
    with damage_told(folder / "model.zip", WAY_OUT):
        _, parameters, _ = load_from_zip_file(folder / "model.zip", load_data=False, device=agent.device)
        agent.set_parameters(parameters, exact_match=True, device=agent.device)
    with damage_told(folder / "replay.npz", WAY_OUT):
        check_npz(folder / "replay.npz")
        with np.load(folder / "replay.npz") as rows:
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
    with damage_told(folder / "episodes.pickle", WAY_OUT):
        kept = read_episodes(folder / "episodes.pickle")
        if kept is None:
            print("the episode under way starts anew: the task cannot tell its state")
        else:
            agent._last_obs = recorder.go_on_with_episodes(kept)
            agent._last_episode_starts = np.array([i not in kept["steps"] for i in range(agent.n_envs)])
    with damage_told(folder / "state.json", WAY_OUT):
        # Last, so that nothing above draws from them.
        go_on_drawing(agent, state["random"])
