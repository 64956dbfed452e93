"""Where behaviour is recorded and where the true reward stops: the last wrapper before a learner."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.trajectories import TrajectoryBuffer

# What an `info` may carry on to a learner; everything else is privileged or of no use to it.
PUBLIC_KEYS = ("terminal_observation", "TimeLimit.truncated", "episode")


class TrajectoryRecorder(VecEnvWrapper):
    """Record every finished episode of a vector environment and pass on observations without privileged knowledge.

    The learner behind it gets reward 0 and infos with `PUBLIC_KEYS` only; `buffer` holds true rewards and states for
    raters and recorders. With `reveal` set (the upper-bound baseline) the true reward is passed on as the reward.
    """

    def __init__(self, venv: VecEnv, max_episodes: int | None = 100) -> None:
        super().__init__(venv)
        specs = venv.get_attr("spec")
        # Gymnasium's name of a task of one's own is not the id that finds it again.
        named = specs[0] if specs and specs[0] is not None else None
        task = str(named.kwargs.get("task_id") or named.id.removeprefix("prefenvs/")) if named else ""
        self.horizon = specs[0].max_episode_steps if specs and specs[0] is not None else None
        self.buffer = TrajectoryBuffer(task=task, max_episodes=max_episodes)
        self.reveal = False
        self._observations: Array = np.zeros(0)
        self._actions: Array = np.zeros(0)
        self._states: list[Array | None] = []
        self._discrete = int(venv.action_space.n) if isinstance(venv.action_space, spaces.Discrete) else None

    def reset(self) -> VecEnvObs:
        """Reset all environments; their unfinished episodes are forgotten."""
        observations = self.venv.reset()
        if isinstance(observations, dict | tuple):
            raise PrefenvsError("prefenvs learns from flat observations; wrap the environment in FlattenObservation")
        self.buffer.drop_open()
        self._observations = observations
        self._states = [info.get("state") for info in self.venv.unwrapped.reset_infos]
        return observations

    def step_async(self, actions: Array) -> None:
        """Send the actions, after a check that they are numbers."""
        if not np.all(np.isfinite(actions)):
            raise PrefenvsError(
                f"the policy returned the action {actions.tolist()}, which holds a NaN or infinite value"
            )
        self._actions = np.eye(self._discrete, dtype=np.float32)[actions] if self._discrete else actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return observations, rewards (0 unless `reveal`), dones, and infos without the privileged keys."""
        observations, rewards, dones, infos = self.venv.step_wait()
        if "true_reward" not in infos[0]:
            raise PrefenvsError('the environment does not hide its reward: make it with prefenvs.make("<task>")')
        for i, info in enumerate(infos):
            truncated = bool(info.get("TimeLimit.truncated", False))
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
            )
            self._states[i] = (self.venv.unwrapped.reset_infos[i] if dones[i] else info).get("state")
        if self.reveal:
            rewards = np.asarray([info["true_reward"] for info in infos], np.float32)
        self._observations = observations  # type: ignore[assignment]
        return observations, rewards, dones, [_public(info) for info in infos]


def _public(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in PUBLIC_KEYS if key in info}
