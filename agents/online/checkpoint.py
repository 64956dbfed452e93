"""Checkpoints from which preference learning goes on: all state of an agent in one folder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.agents.nets.rng_state import RngState
from prefenvs.agents.nets.saved import damage_told, find_folder, new_folder, read_values, write_values
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.online.saved_agent import SavedAgent, check_algorithm, read_agent
from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Recording
from prefenvs.internal.file_sizes import check_npz
from prefenvs.store import Store
from prefenvs.tasks import is_same_task
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

if TYPE_CHECKING:
    from prefenvs.agents.online.learner import PreferenceLearner

FORMAT = "prefenvs-checkpoint-1"
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num")
ARRAYS = ("observations", "actions", "ends", "true_rewards", "states", "scenes", "terminated", "final_observations")

# Name under which the queries in the state of a rater lie in the checkpoint's store.
ASKED = "asked"
WAY_OUT = "put the checkpoint back from a copy, or start the run anew in another folder"


def save_checkpoint(agent: PreferenceLearner, folder: Path) -> Path:
    """Write a checkpoint; it takes the former one's place when it is complete.

    Raises PrefenvsError where it cannot be written; the former one is kept then.
    """
    with new_folder(folder) as new:
        agent.save(new / "model.zip")
        agent.reward_model.save(new / "reward.pt")
        if not (new / "reward.pt").exists():
            raise PrefenvsError(
                f"{type(agent.reward_model).__name__}.save wrote nothing to the path it was given, {new / 'reward.pt'}"
            )
        agent.save_memory(new)
        save_trajectories(agent.recorder.buffer.trajectories(), new / "trajectories.npz")
        save_episodes(agent, new / "episodes.npz")
        state: dict[str, Any] = {
            "format": FORMAT,
            "task": agent.recorder.buffer.task,
            "reward_learned": agent.reward_learned,
            "state_entropy": agent.state_entropy.state_dict(),
            "counters": {name: getattr(agent, name) for name in COUNTERS},
            "feedback": None,
            "random": random_state(agent),
            "seen": agent.state_entropy.seen.state_dict(),
        }
        if agent.feedback is not None:
            state["feedback"] = agent.feedback.state_dict()
            asked = state["feedback"]["oracle"].pop("queries", [])
            state["total_steps"] = agent.feedback.total_steps
            state["answers"] = len(agent.feedback.preferences)
            with Store(new / "preferences.sqlite") as store:
                store.add_preferences(agent.feedback.preferences)
                store.add_queries(asked, run=ASKED)
        (new / "state.json").write_text(json.dumps(state))
    return folder


def load_checkpoint(agent: PreferenceLearner, folder: Path) -> None:
    """Put a checkpoint's state into an agent that was made with the same settings; nothing in it is executed.

    Raises PrefenvsError for a folder that is damaged, of another task or reward model, or of an older version.
    """
    find_folder(folder)
    if not (folder / "state.json").is_file():
        raise PrefenvsError(
            f"{folder} is not a checkpoint: it holds no state.json; a run stopped before its first one starts anew"
        )
    with damage_told(folder / "state.json", WAY_OUT):
        state = json.loads((folder / "state.json").read_text())
        written = state.get("format", "an older version, with pickles that can run code")
        same = is_same_task(state["task"], agent.recorder.buffer.task)
    if written != FORMAT:
        raise PrefenvsError(
            f"the checkpoint {folder} is of {written}, not of {FORMAT}, and is not read: start the run anew in "
            "another folder, or resume it with the version that wrote it"
        )
    if not same:
        raise PrefenvsError(
            f"the checkpoint {folder} is of task {state['task']!r}, but the environment is "
            f"{agent.recorder.buffer.task!r}: make the environment of the checkpoint's task"
        )
    load_model(agent, folder / "model.zip")
    asked_for = getattr(agent.reward_model, "config", None)
    with damage_told(folder / "reward.pt", WAY_OUT, always=True):
        agent.load_reward_model(folder / "reward.pt")
    _check_reward(asked_for, getattr(agent.reward_model, "config", None), folder)
    agent.load_memory(folder)
    buffer = agent.recorder.buffer
    with damage_told(folder / "trajectories.npz", WAY_OUT):
        restore_trajectories(buffer, folder / "trajectories.npz")
    with damage_told(folder / "state.json", WAY_OUT):
        agent.reward_learned = bool(state["reward_learned"])
        agent.state_entropy.load_state_dict(state["state_entropy"])
        for name in COUNTERS:
            setattr(agent, name, int(state["counters"][name]))
    if state.get("feedback") is not None:
        _load_feedback(agent, folder, state)
    load_episodes(agent, folder / "episodes.npz")
    with damage_told(folder / "state.json", WAY_OUT):
        replay = getattr(agent, "replay_buffer", None)
        if isinstance(replay, RelabelBuffer):
            agent.state_entropy.seen.restore(state["seen"], replay.all_observations, agent.device)
        # Last, so that nothing above draws from them.
        load_random_state(agent, state["random"])


def save_episodes(agent: Any, path: Path) -> None:
    """Write the episodes under way, or None where the task cannot tell its state in numbers."""
    try:
        write_values(path, agent.recorder.keep_episodes())
    except PrefenvsError:
        write_values(path, None)


def load_episodes(agent: Any, path: Path) -> None:
    """Put the environments where they were, or say that their episodes start anew."""
    with damage_told(path, WAY_OUT):
        kept = read_values(path)
        if kept is not None and len(kept["environments"]) == agent.n_envs:
            agent._last_obs = agent.recorder.go_on_with_episodes(kept)
            agent._last_episode_starts = np.array([i not in kept["steps"] for i in range(agent.n_envs)])
            return
    print("the episodes under way start anew: the task cannot tell its state, or the number of environments differs")


def random_state(agent: Any) -> dict[str, Any]:
    """Return the states of the process's random generators and of the action space's."""
    actions: Any = agent.action_space.np_random.bit_generator.state
    return RngState.capture().state_dict() | {"actions": actions}


def load_random_state(agent: Any, state: dict[str, Any]) -> None:
    """Let the generators go on from what `random_state` returned."""
    agent.action_space.np_random.bit_generator.state = state["actions"]
    RngState.from_dict(state).restore()


def load_model(agent: SavedAgent, path: Path) -> dict[str, Any]:
    """Read networks, optimisers and temperature; return what else the file tells of the agent."""
    with damage_told(path, WAY_OUT):
        record, parameters, variables = read_agent(path, agent.device)
        check_algorithm(record, agent.name, path)
        agent.set_parameters(parameters, exact_match=True, device=agent.device)
        for name, value in variables.items():
            if value is not None:
                getattr(agent, name).data = value.data
    return record


def _check_reward(asked_for: Any, saved: Any, folder: Path) -> None:
    """Raise a PrefenvsError where a saved reward model has other settings than the agent was made with."""
    if asked_for == saved or not dataclasses.is_dataclass(saved) or type(asked_for) is not type(saved):
        return
    name = next(f.name for f in dataclasses.fields(saved) if getattr(saved, f.name) != getattr(asked_for, f.name))
    raise PrefenvsError(
        f"the checkpoint {folder} has a reward model with {name}={getattr(saved, name)!r}, this agent's has "
        f"{name}={getattr(asked_for, name)!r}: make the agent with the settings of the checkpoint"
    )


def _load_feedback(agent: PreferenceLearner, folder: Path, state: dict[str, Any]) -> None:
    if agent.oracle is None:
        raise PrefenvsError("the checkpoint asks an oracle: pass oracle=... to the agent before it resumes")
    with damage_told(folder / "state.json", WAY_OUT):
        feedback = agent.make_feedback(int(state["total_steps"]))
    path = folder / "preferences.sqlite"
    with damage_told(path, WAY_OUT, always=True):
        # A store that is not there would be made, empty, and every answer forgotten.
        if not path.is_file():
            raise FileNotFoundError(path)
        with Store(path) as store:
            feedback.preferences = store.preferences(with_true_rewards=True)
            asked = store.pending_queries(run=ASKED, with_true_rewards=True)
    with damage_told(folder / "state.json", WAY_OUT):
        if asked:
            state["feedback"]["oracle"]["queries"] = asked
        feedback.load_state_dict(state["feedback"])
    expected = state.get("answers", len(feedback.preferences))
    if len(feedback.preferences) < expected:
        raise PrefenvsError(f"{path} holds {len(feedback.preferences)} answers of {expected}: {WAY_OUT}")
    agent.feedback = feedback


def save_trajectories(trajectories: Trajectories, path: Path) -> None:
    """Write finished episodes."""
    arrays = {name: getattr(trajectories, name) for name in ARRAYS if getattr(trajectories, name) is not None}
    if trajectories.recordings is not None:
        records = [recording.record() | {"times": recording.times.tolist()} for recording in trajectories.recordings]
        arrays["recordings"] = np.frombuffer(json.dumps(records).encode(), np.uint8)
    np.savez(path, allow_pickle=False, first_episode=trajectories.first_episode, **arrays)


def restore_trajectories(buffer: TrajectoryBuffer, path: Path) -> None:
    """Read into a buffer what `save_trajectories` wrote."""
    check_npz(path)
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ARRAYS if name in file}
        first = int(file["first_episode"])
        records = json.loads(file["recordings"].tobytes()) if "recordings" in file else []
    recordings = tuple(Recording.of_record(record, np.array(record["times"])) for record in records) or None
    buffer.extend(
        Trajectories(**arrays, task=buffer.task, source=buffer.source, first_episode=first, recordings=recordings)
    )
