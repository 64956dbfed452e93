"""Where behaviour is recorded and where the true reward stops: the last wrapper before a learner."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from prefenvs.envs.hidden_reward import ChangingWrapper, TrueReward, changing_wrapper, other_arguments
from prefenvs.envs.spaces import action_vectors
from prefenvs.envs.vectors import seed_environments
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import TrajectoryBuffer

if TYPE_CHECKING:
    from prefenvs.frames.live import LiveFrames

# What a pipe to a process that is gone raises.
WORKER_ERRORS = (EOFError, BrokenPipeError, ConnectionResetError)
# What an `info` may carry on to a learner; everything else is privileged or of no use to it.
PUBLIC_KEYS = ("terminal_observation", "TimeLimit.truncated", "episode")


class TrajectoryRecorder(VecEnvWrapper):
    """Record every finished episode of a vector environment and pass on observations without privileged knowledge.

    The learner behind it gets reward 0 and infos with `PUBLIC_KEYS` only; `buffer` holds true rewards and states for
    raters and recorders. With `reveal` set (the upper-bound baseline) the true reward is passed on as the reward.

    Raters, the reward model and evaluation all speak of the task's own observations and actions, so wrappers below that
    change them are refused by a PrefenvsError.
    """

    def __init__(self, venv: VecEnv, max_episodes: int | None = 100) -> None:
        super().__init__(venv)
        _refuse_wrappers(venv)
        spec = venv.get_attr("spec")[0]
        # Gymnasium's name of a task of one's own is not the id that finds it again.
        task = str(spec.kwargs.get("task_id") or spec.id.removeprefix("prefenvs/")) if spec is not None else ""
        others = other_arguments(spec)
        if others:
            warnings.warn(
                f"pictures for raters and evaluations are of {task} without {', '.join(others)}, which its id does not "
                "tell: give prefenvs.make a prefenvs.Task with these kwargs",
                stacklevel=3,
            )
        self.horizon = spec.max_episode_steps if spec is not None else None
        self.buffer = TrajectoryBuffer(task=task, max_episodes=max_episodes)
        self.reveal = False
        self._observations: Array = np.zeros(0)
        self._actions: Array = np.zeros(0)
        self._states: list[Array | None] = []
        self._live: LiveFrames | None = None
        self._pictures: list[Any] = []

    def film(self, folder: str | Path) -> None:
        """Keep what the environments draw while they act, a video for each episode, as the episodes' recordings.

        For environments without simulator states, from which pictures could be drawn when somebody looks. Raises
        PrefenvsError where they were not made with render_mode="rgb_array".
        """
        from prefenvs.frames.live import LiveFrames

        if any(mode != "rgb_array" for mode in self.venv.get_attr("render_mode")):
            raise PrefenvsError(
                'the environments draw nothing: make them with render_mode="rgb_array", and give their class that mode'
            )
        fps = self.venv.get_attr("metadata")[0].get("render_fps") or 30
        self._live = LiveFrames(folder, max(round(fps), 1))

    def reset(self) -> VecEnvObs:
        """Reset all environments; their unfinished episodes are forgotten."""
        try:
            observations = self.venv.reset()
        except WORKER_ERRORS as error:
            raise _worker_died(error) from error
        if isinstance(observations, dict | tuple):
            raise PrefenvsError("prefenvs learns from flat observations; wrap the environment in FlattenObservation")
        self.buffer.drop_open()
        if self._live is not None:
            self._live.drop()
            self._pictures = self.venv.env_method("render")
        self._observations = np.array(observations)
        self._states = [_copy_state(info) for info in self.venv.unwrapped.reset_infos]
        return observations

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give each environment a seed of its own for the next `reset`; the runs of two seeds share none."""
        return seed_environments(self.venv, seed)

    def step_async(self, actions: Array) -> None:
        """Send the actions, after a check that they are numbers."""
        if not np.all(np.isfinite(actions)):
            raise PrefenvsError(
                f"the policy returned the action {actions.tolist()}, which holds a NaN or infinite value"
            )
        self._actions = action_vectors(self.action_space, actions)
        try:
            self.venv.step_async(actions)
        except WORKER_ERRORS as error:
            raise _worker_died(error) from error

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards (0 unless `reveal`), dones, and infos without the privileged keys."""
        try:
            observations, rewards, dones, infos = self.venv.step_wait()
        except WORKER_ERRORS as error:
            raise _worker_died(error) from error
        if "true_reward" not in infos[0]:
            raise PrefenvsError(
                'the environment does not hide its reward: pass prefenvs.make(env), or prefenvs.make("<task>")'
            )
        for i, info in enumerate(infos):
            truncated = bool(info.get("TimeLimit.truncated", False))
            if self._live is not None:
                self._live.add(i, self._pictures[i])
            self.buffer.add_step(
                i,
                self._observations[i],
                self._actions[i],
                info["true_reward"],
                self._states[i],
                done=bool(dones[i]),
                terminated=bool(dones[i]) and not truncated,
                scene=info.get("scene"),
                final_observation=info.get("terminal_observation"),
                recording=self._live.end(i) if self._live is not None and dones[i] else None,
            )
            self._states[i] = _copy_state(self.venv.unwrapped.reset_infos[i] if dones[i] else info)
        # Whatever a wrapper below may have added: nothing but the true reward, and only if that is to be seen.
        rewards = np.asarray([info["true_reward"] if self.reveal else 0.0 for info in infos], np.float32)
        self._observations = np.array(observations)
        if self._live is not None:
            self._pictures = self.venv.env_method("render")
        return observations, rewards, dones, [_public(info) for info in infos]

    def keep_episodes(self) -> dict[str, Any] | None:
        """Return all that `go_on_with_episodes` needs, or None where an environment cannot tell its state."""
        if not self.venv.has_attr("keep_episode"):
            return None
        try:
            environments = self.venv.env_method("keep_episode")
        except PrefenvsError:
            return None
        return {
            "environments": environments,
            "observations": self._observations,
            "states": self._states,
            "steps": {i: _stack(steps) for i, steps in self.buffer.open_steps.items()},
        }

    def go_on_with_episodes(self, kept: dict[str, Any]) -> Array:
        """Put the environments into the episodes that `keep_episodes` saw under way; returns their observations."""
        environments = kept["environments"]
        if len(environments) != self.num_envs:
            raise PrefenvsError(f"{len(environments)} episodes were under way, but there are {self.num_envs} envs")
        # A simulator is ready for a state after its first reset.
        self.reset()
        for i, environment in enumerate(environments):
            self.venv.env_method("go_on_with_episode", environment, indices=i)
        self._observations, self._states = kept["observations"], kept["states"]
        self.buffer.open_steps = {i: list(zip(*columns, strict=True)) for i, columns in kept["steps"].items()}
        return np.array(self._observations)

    def close(self) -> None:
        """Close all environments, those too whose worker has died."""
        if self._live is not None:
            self._live.drop()
        # Stable-Baselines3 waits here for the answer of a step that is under way.
        with contextlib.suppress(*WORKER_ERRORS):
            self.venv.close()


def _worker_died(error: Exception) -> PrefenvsError:
    return PrefenvsError(
        f"the process of an environment has died ({type(error).__name__}), for want of memory perhaps, or by an error "
        "that it printed above: mend the task or use fewer environments, and resume from the last checkpoint"
    )


def _refuse_wrappers(venv: VecEnv) -> None:
    """Raise PrefenvsError if what a learner sees or does is not what the task shows or is told."""
    changed: str | None = None
    layer = venv
    while isinstance(layer, VecEnvWrapper):
        if isinstance(layer, VecNormalize | VecFrameStack | VecTransposeImage | VecExtractDictObs) or (
            (layer.observation_space, layer.action_space) != (layer.venv.observation_space, layer.venv.action_space)
        ):
            changed = type(layer).__name__
        layer = layer.venv
    if changed is None and any(venv.env_is_wrapped(ChangingWrapper)):  # type: ignore[arg-type]
        names = [changing_wrapper(env) for env in getattr(layer, "envs", ())]
        changed = next((name for name in names if name is not None), "a wrapper")
    if changed is not None:
        raise PrefenvsError(
            f"{changed} around the environment would show the learner other observations or actions than raters and "
            "evaluation see: leave it out (PrefPPO normalises observations itself), or make it part of a task of yours"
        )
    if any(venv.env_is_wrapped(TrueReward)):
        raise PrefenvsError(
            'an environment made with reward="true" is for evaluation; train in prefenvs.make("<task>"), with '
            "true_reward=True in the configuration for the upper bound"
        )


def _stack(steps: list[tuple[Any, ...]]) -> list[Any]:
    """Return the columns of an episode's T steps: observations, actions, true rewards and states, [T, ...] each.

    Where the task tells no state, its column is a list of None.
    """
    columns = [list(column) for column in zip(*steps, strict=True)]
    return [column if column[0] is None else np.asarray(column) for column in columns]


def _copy_state(info: dict[str, Any]) -> Array | None:
    """A copy of the state, because an environment may write the next one into the same array."""
    state = info.get("state")
    return None if state is None else np.array(state)


def _public(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in PUBLIC_KEYS if key in info}
