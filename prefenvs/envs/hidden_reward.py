"""The wrapper that hides a task's reward and gives access to its simulator state."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from prefenvs.envs.spaces import flatten_actions
from prefenvs.envs.states import Snapshot, States, mujoco_model, plain_variables
from prefenvs.errors import PrefenvsError, one_line_with_place
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.tasks.own import OWN

OURS = (PrefenvsError, gymnasium.error.Error)
"""Errors that tell in a line what is wrong."""


class HiddenReward(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Return reward 0.0 from every step and put the true one into `info`.

    Observations are copies, so that whoever keeps one has it still after the next step. Actions are a flat Box, or a
    Discrete that counts from 0, whatever the task's own look like.

    `info` holds these keys and no others, so that none of the simulator's own entries (Gymnasium's `reward_forward`,
    Meta-World's `in_place_reward`, ...) tells a learner what it must not know:

    true_reward: float, the reward of this step; steps only. Privileged: synthetic raters and evaluation read it.
    state: [s] float64, the simulator state that the observation beside it was made from; see `States`. Absent where
    the environment does not tell it.
    scene: [m] float64, the model arrays that the reset has set (`Task.scene`), the same in the whole episode; absent
    where there are none.
    the task's `success_key`: 1.0 if this state is a success, else 0.0; absent where the task tells none. Privileged
    too: evaluation reads it.
    """

    def __init__(self, env: gymnasium.Env[Array, Any], task_id: str) -> None:
        RecordConstructorArgs.__init__(self, task_id=task_id)
        gymnasium.Wrapper.__init__(self, env)
        self.task = find_task(task_id)
        self._states = States(env, self.task.scene, mocap=self.task.family == OWN)
        self._scene: Array | None = None
        self._success = self.task.success_key
        self.action_space, self.task_action = flatten_actions(env.action_space)
        self._continuous = isinstance(env.action_space, spaces.Box)
        # Whether a wrapper above gives the true reward back (`TrueReward`).
        self.revealed = False
        self._renderer: Any = None
        modes = [mode for mode in env.metadata.get("render_modes", []) if mode in ("human", "rgb_array")]
        self.metadata = {**env.metadata, "render_modes": modes, "render_fps": self.task.fps}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode."""
        if not self.revealed:
            _warn_of_evaluation(self.task.id)
        try:
            observation, inner = self.env.reset(seed=seed, options=options)
        except OURS:
            raise
        except Exception as error:  # whatever a task's own code raises
            raise self._failed("reset", error) from error
        # A copy, because a task may write into one and the same array; states and scenes are copies already.
        observation = np.array(observation)
        self._scene = self._states.read_scene()
        if not math.isfinite(np.add.reduce(observation, axis=None)):
            self._refuse(observation, 0.0)
        return observation, self._info(inner)

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one step; raises PrefenvsError for a NaN or infinity in action, observation or true reward."""
        # A sum is the cheapest test: it is not finite if any entry is not.
        if self._continuous and not math.isfinite(np.add.reduce(action, axis=None)) and not np.all(np.isfinite(action)):
            raise PrefenvsError(
                f"task {self.task.id!r} was given the action {action}, which holds a NaN or infinite value"
            )
        if self.task_action is not None:
            action = self.task_action(action)
        try:
            observation, reward, terminated, truncated, inner = self.env.step(action)
            reward = float(reward)
        except OURS:
            raise
        except Exception as error:
            raise self._failed("step", error) from error
        observation = np.array(observation)
        if not (math.isfinite(reward) and math.isfinite(np.add.reduce(observation, axis=None))):
            self._refuse(observation, reward)
        info = self._info(inner)
        info["true_reward"] = reward
        return observation, 0.0, terminated, truncated, info

    def _info(self, inner: dict[str, Any]) -> dict[str, Any]:
        state = self._states.read()
        info: dict[str, Any] = {} if state is None else {"state": state}
        if self._scene is not None:
            info["scene"] = self._scene.copy()
        if self._success is not None and inner.get(self._success) is not None:
            info[self._success] = float(inner[self._success])
        return info

    def _failed(self, call: str, error: Exception) -> PrefenvsError:
        return PrefenvsError(f"task {self.task.id!r}: {call} fails ({one_line_with_place(error)})")

    def _refuse(self, observation: Array, reward: float) -> None:
        """Raise if a value is not finite; a sum that merely overflowed passes."""
        if not math.isfinite(reward):
            raise PrefenvsError(
                f"the simulator of task {self.task.id!r} returned the reward {reward}: reset, or bound the actions"
            )
        bad = np.flatnonzero(~np.isfinite(observation))
        if len(bad):
            raise PrefenvsError(
                f"the simulator of task {self.task.id!r} returned {observation.flat[bad[0]]} in entry {bad[0]} of the "
                "observation: reset, or bound the actions"
            )

    def capture(self) -> Array:
        """Return the simulator state [s], float64: what `info["state"]` held last.

        Raises PrefenvsError where the environment does not tell it.
        """
        return self._states.known()

    @property
    def scene(self) -> Array | None:
        """The episode's model arrays [m], float64; None where a reset sets none."""
        return self._scene

    def restore(self, state: Array, scene: Array | None = None) -> None:
        """Put the simulator into a captured state, and into another episode's scene if given; both by `mj_forward`.

        Enough to look at a state or to compute from it. To go on with an episode use `snapshot` and `resume`: a full
        physics state lacks mocap and warm start. Raises PrefenvsError where the shape does not fit.
        """
        self._states.write(state, scene)
        if scene is not None:
            self._scene = np.array(scene, np.float64)

    def snapshot(self) -> Snapshot:
        """Return everything that this environment needs to go on exactly as it would have done.

        Out of its scope are the counters of wrappers, `TimeLimit` among them: an episode resumed elsewhere ends by
        time when the wrapper there says so.
        """
        return self._states.snapshot()

    def resume(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot; the environment must have been reset once before."""
        self._states.resume(snapshot)
        self._scene = snapshot.scene

    def keep_episode(self) -> tuple[Snapshot, list[dict[str, Any]]]:
        """Return the snapshot and the variables of the wrappers below, `TimeLimit`'s counter among them."""
        return self.snapshot(), [plain_variables(wrapper) for wrapper in self._wrappers_below()]

    def go_on_with_episode(self, kept: tuple[Snapshot, list[dict[str, Any]]]) -> None:
        """Go on as the environment would have done that `keep_episode` was called of."""
        snapshot, variables = kept
        self.resume(snapshot)
        for wrapper, values in zip(self._wrappers_below(), variables, strict=True):
            vars(wrapper).update(copy.deepcopy(values))

    def _wrappers_below(self) -> Iterator[gymnasium.Env[Any, Any]]:
        env = self.env
        while isinstance(env, gymnasium.Wrapper):
            yield env
            env = env.env

    def render(self) -> Any:
        """Return a picture [H, W, 3] uint8 of the present state, for the mode "rgb_array".

        It is made from state and scene in a copy of the model, never from the live simulation, whose derived positions
        lag behind its state; so it equals what a recorder makes of the stored state, and disturbs nothing.
        """
        if self.render_mode != "rgb_array":
            return self.env.render()
        state = self._states.read()
        others = other_arguments(self.env.spec)
        model = mujoco_model(self.env) if others else None
        if state is None or (others and model is None):
            from prefenvs.frames.fitting import draw

            return draw(self.env, f"task {self.task.id!r}")
        if self._renderer is None:
            from prefenvs.envs.rendering.renderer import Renderer

            self._renderer = Renderer(self.task, model=model)
        return self._renderer.frame(state, self._scene)

    def close(self) -> None:
        """Close the renderer and the environment."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        super().close()


def other_arguments(spec: EnvSpec | None) -> list[str]:
    """Return the arguments that an environment was made with and that its task's id does not tell."""
    return [] if spec is None else sorted(spec.kwargs.keys() - {"task_id", "render_mode"})


class TrueReward(gymnasium.Wrapper[Array, Any, Array, Any], RecordConstructorArgs):
    """Give the true reward back as the environment's own: for evaluation by other libraries, never for training.

    `prefenvs.make(task, reward="true")` puts it on top. Learners from preferences refuse such an environment.
    """

    def __init__(self, env: gymnasium.Env[Array, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        inner: Any = env
        while isinstance(inner, gymnasium.Wrapper) and not isinstance(inner, HiddenReward):
            inner = inner.env
        if isinstance(inner, HiddenReward):
            inner.revealed = True

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, info["true_reward"], terminated, truncated, info


class _AboveHiddenReward(type):
    """Makes `isinstance` true of wrappers above a `HiddenReward` that change observations or actions."""

    def __instancecheck__(cls, env: Any) -> bool:
        inner = getattr(env, "env", None)
        if not isinstance(env, gymnasium.Wrapper) or isinstance(env, HiddenReward):
            return False
        while isinstance(inner, gymnasium.Wrapper) and not isinstance(inner, HiddenReward):
            inner = inner.env
        return isinstance(inner, HiddenReward) and (
            isinstance(env, gymnasium.ObservationWrapper | gymnasium.ActionWrapper)
            or env.observation_space != env.env.observation_space
            or env.action_space != env.env.action_space
        )


class ChangingWrapper(metaclass=_AboveHiddenReward):
    """A wrapper between `prefenvs.make` and a learner that shows it other observations or takes other actions.

    No class of its own but a question, which vector environments can ask in their worker processes too:
    `venv.env_is_wrapped(ChangingWrapper)`.
    """


def changing_wrapper(env: gymnasium.Env[Any, Any]) -> str | None:
    """Return the name of the outermost `ChangingWrapper` around an environment, None if there is none."""
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, ChangingWrapper):
            return type(layer).__name__
        layer = layer.env
    return None


_warned_of_evaluation = False


def _warn_of_evaluation(task_id: str) -> None:
    """Warn once if Stable-Baselines3's `evaluate_policy` is about to measure hidden rewards, which are all 0.

    It, and the callbacks that use it, tell an environment nothing of their purpose: the call stack does.
    """
    global _warned_of_evaluation
    frame = None if _warned_of_evaluation else sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "evaluate_policy" and "stable_baselines3" in frame.f_globals.get("__name__", ""):
            _warned_of_evaluation = True
            warnings.warn(
                f"Stable-Baselines3 measures 0 in every episode here, because the reward of {task_id} is hidden: "
                f'evaluate in prefenvs.make("{task_id}", reward="true"), or with prefenvs.evaluate.evaluate',
                stacklevel=3,
            )
            return
        frame = frame.f_back
