"""The tasks as their packages define them, with flat float32 observations and seeds that determine everything."""

from __future__ import annotations

import pickle
import sys
import warnings
from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from prefenvs.envs.rendering.gl import without_backend
from prefenvs.envs.spaces import channels_first, is_picture, picture_shape
from prefenvs.errors import PrefenvsError, failure_told, install_command
from prefenvs.segments import Array
from prefenvs.tasks import Task, find_task
from prefenvs.tasks.own import OWN, make_own
from prefenvs.tasks.recorded import is_recorded

# Python module, extra that installs it.
_PACKAGES = {
    "dm_control": ("dm_control.suite", "dmc"),
    "metaworld": ("metaworld", "metaworld"),
    "robotics": ("gymnasium_robotics", "robotics"),
}


def make_source(task_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make the bare environment of a task: no time limit, its true reward in plain sight.

    `kwargs` go to the task's own constructor. Raises PrefenvsError if the task's package is not installed, and for a
    `render_mode` other than None, "rgb_array" and, where the task has a window of its own, "human".
    """
    task = find_task(task_id)
    modes = (None, "rgb_array") if task.family == "dm_control" else (None, "rgb_array", "human")
    if kwargs.get("render_mode") not in modes:
        raise PrefenvsError(f"task {task.id!r} has no render_mode {kwargs['render_mode']!r}: choose one of {modes}")
    kwargs = {**task.kwargs, **kwargs}
    if kwargs.get("reset_target"):
        raise PrefenvsError(
            f"task {task.id!r} cannot take reset_target=True: the goal would move within an episode, whose "
            "recorded scene holds one goal"
        )
    hand = kwargs.pop("d4rl_hand", None)
    how = f" with {kwargs}" if kwargs else ""
    with failure_told(f"task {task.id!r} ({task.family}, {task.source}) cannot be made{how}"), without_backend():
        env = _make_source(task, kwargs)
    if hand is not None:
        env = D4RLHand(env, hand)
    # Outside of what changes the reward, which is that of all its steps.
    return env if task.repeat == 1 else HeldAction(env, task.repeat, task.success_key)


def _make_source(task: Task, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    if is_recorded(task.id):
        raise PrefenvsError(
            f"{task.id!r} is known from recordings alone, so nothing can act in it: name a task of the suite where "
            "the data come from one (--task)"
        )
    if task.family == OWN:
        own = make_own(task, **kwargs)
        _refuse_statistics(own, task)
        return OwnEnv(own)
    package = _import_package(task)
    if task.family == "dm_control":
        return DMControlEnv(package, task, **kwargs)
    if task.family == "metaworld":
        return MetaWorldEnv(package, task, **kwargs)
    entry, defaults = task.source, {}
    if ":" not in entry:
        spec = gymnasium.spec(task.source)
        entry, defaults = str(spec.entry_point), spec.kwargs
    env: Any = load_env_creator(entry)(**{**defaults, **kwargs})
    assert isinstance(env, gymnasium.Env)
    return env


def _refuse_statistics(env: gymnasium.Env[Any, Any], task: Task) -> None:
    """Raise PrefenvsError for a wrapper whose scale depends on what this one environment has seen so far."""
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, NormalizeObservation | NormalizeReward):
            raise PrefenvsError(
                f"task {task.id!r}: {type(layer).__name__} scales by what an environment has seen so far, so training "
                "and evaluation would each have another scale: leave it out (PrefPPO normalises observations itself)"
            )
        layer = layer.env


def _import_package(task: Task) -> Any:
    if task.family not in _PACKAGES:
        return None
    module, extra = _PACKAGES[task.family]
    try:
        # Their imports print notices: GLFW's that there is no display, Farama's that Adroit's rewards once changed.
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            package = import_module(module)
    except ImportError as error:
        raise PrefenvsError(
            f"task {task.id!r} needs the package {module.split('.')[0]}, which cannot be imported ({error}): "
            f"{install_command(extra)}"
        ) from error
    if task.family == "robotics":
        gymnasium.register_envs(package)
    return package


class OwnEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose wrappers are no part of the spec, by which Gymnasium would add them again."""

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """The spec of the environment within its wrappers."""
        return self.unwrapped.spec


class HeldAction(OwnEnv):
    """Each action is held for some steps, which are one step here (action repeat).

    The reward is the sum of theirs, and a success in any of them is one of the step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], repeat: int, success_key: str | None = None) -> None:
        """repeat: how many steps; success_key: key of `info` that tells success."""
        super().__init__(env)
        self.repeat = repeat
        self.success_key = success_key

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by `repeat` steps, or to the episode's end."""
        total, successes = 0.0, []
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if self.success_key in info:
                successes.append(info[self.success_key])
            if terminated or truncated:
                break
        if self.success_key is not None and successes:
            info = {**info, self.success_key: max(successes)}
        return observation, total, terminated, truncated, info


class FlatObservation(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Turn observations of any shape into one new float32 vector; discrete ones become one-hot.

    Pictures stay pictures: uint8, [channels, height, width] wherever the task has its channels.
    Entries of a dictionary are concatenated in the order of `observation_space.spaces`, which Gymnasium sorts by name:
    achieved_goal, desired_goal, observation for the goal tasks of Gymnasium-Robotics; nested ones likewise.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._picture = picture_shape(env.observation_space) if is_picture(env.observation_space) else None
        if self._picture is not None:
            self.observation_space = spaces.Box(0, 255, self._picture, np.uint8)
            return
        self._keys = tuple(_leaves(env.observation_space))
        self._spaces = [_leaf_space(env.observation_space, path) for path in self._keys]
        boxes = [_flat_box(space) for space in self._spaces]
        low = np.concatenate([box.low.ravel() for box in boxes]).astype(np.float32)
        high = np.concatenate([box.high.ravel() for box in boxes]).astype(np.float32)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self._is_box = isinstance(env.observation_space, spaces.Box)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Reset and flatten."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._flatten(observation), info

    def step(self, action: Any) -> tuple[Array, Any, bool, bool, dict[str, Any]]:
        """Step and flatten."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._flatten(observation), reward, terminated, truncated, info

    def _flatten(self, observation: Any) -> Array:
        if self._picture is not None:
            return channels_first(observation, self._picture)
        if self._is_box:
            return np.array(observation, np.float32).ravel()
        parts: list[Array] = []
        for path, space in zip(self._keys, self._spaces, strict=True):
            value = observation
            for key in path:
                value = value[key]
            parts.append(np.ravel(value if isinstance(space, spaces.Box) else np.asarray(spaces.flatten(space, value))))
        return np.concatenate(parts, dtype=np.float32, casting="same_kind")


def _leaves(space: spaces.Space[Any]) -> list[tuple[Any, ...]]:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        children = space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        return [(key, *rest) for key, child in children for rest in _leaves(child)]
    return [()]


def _leaf_space(space: Any, path: tuple[Any, ...]) -> spaces.Space[Any]:
    for key in path:
        space = space[key]
    assert isinstance(space, spaces.Space)
    return space


def _flat_box(space: spaces.Space[Any]) -> spaces.Box:
    """The Box of a leaf, flat; raises PrefenvsError for pictures and for spaces without a fixed number of entries."""
    flat = space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        flat = spaces.flatten_space(space)
    if not isinstance(flat, spaces.Box):
        raise PrefenvsError(
            f"an observation of kind {type(space).__name__} cannot be made a vector: observe a Box, Discrete, "
            "MultiDiscrete, MultiBinary, or a Dict or Tuple of them"
        )
    if is_picture(flat):
        raise PrefenvsError(
            f"the task observes pictures beside other things, {flat}, and no learner here takes both: let it observe "
            "the picture alone, or a vector such as its state"
        )
    return flat


class ShowTarget(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Put the target's mark of a Fetch task where the goal is, at reset; the task does so only while it renders.

    The mark is a site without mass or contact, so the motion does not change.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        task: Any = env.unwrapped
        self._site: int = task.model.site("target0").id
        self._body: int = task.model.site_bodyid[self._site]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset and move the mark."""
        result = self.env.reset(seed=seed, options=options)
        task: Any = self.env.unwrapped
        task.model.site_pos[self._site] = task.goal - task.data.xpos[self._body]
        return result


class D4RLHand(OwnEnv):
    """An Adroit task of Gymnasium-Robotics with the reward and the ends of D4RL's.

    On door, hammer and relocate Gymnasium-Robotics 1.4.2 adds 0.1 times the distance from the palm to what it has to
    reach, D4RL subtracts it; D4RL's pen ends where it was dropped. Both are read from the observation.
    """

    def __init__(self, env: gymnasium.Env[Array, Array], hand: str) -> None:
        super().__init__(env)
        self.hand = hand

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self.hand == "pen":
            # The height of the pen, below which Gymnasium-Robotics and D4RL both take it for dropped.
            return observation, float(reward), bool(observation[26] < 0.075), truncated, info
        if self.hand == "hammer":
            reach = observation[-13:-10] - observation[-10:-7]
        else:
            reach = observation[-4:-1] if self.hand == "door" else observation[-9:-6]
        return observation, float(reward) - 0.2 * float(np.linalg.norm(reach)), terminated, truncated, info


class DMControlEnv(gymnasium.Env[Array, Array]):
    """A task of the DeepMind Control Suite.

    Observations are the suite's own entries in the suite's own order (walker: orientations, height, velocity). An
    episode ends only by the time limit around this class, except where the task itself ends it.
    """

    def __init__(self, suite: Any, task: Task, render_mode: str | None = None, **task_kwargs: Any) -> None:
        """`task_kwargs` go to the suite's task function."""
        domain, name = task.source.split("/")
        self.suite_env = suite.load(domain, name, task_kwargs={"time_limit": float("inf"), **task_kwargs})
        self.suite_task: Any = self.suite_env.task
        # The unwrapped structures: the same memory as the suite's physics, without its index by name.
        self.model: Any = self.suite_env.physics.model.ptr
        self.data: Any = self.suite_env.physics.data.ptr
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1.0 / self.suite_env.control_timestep())}
        size = sum(int(np.prod(entry.shape)) for entry in self.suite_env.observation_spec().values())
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        action = self.suite_env.action_spec()
        self.action_space = spaces.Box(
            action.minimum.astype(np.float32), action.maximum.astype(np.float32), dtype=np.float32
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode; a seed restarts the task's generator (a seed below 2**32 draws what the suite draws)."""
        super().reset(seed=seed)
        if seed is not None:
            self.suite_task.random.seed(seed % 2**32)
        return _flat(self.suite_env.reset().observation), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one control step."""
        step = self.suite_env.step(action)
        terminated = bool(step.last() and step.discount == 0.0)
        return _flat(step.observation), step.reward, terminated, bool(step.last() and not terminated), {}

    def close(self) -> None:
        """Free the physics."""
        self.suite_env.close()


def _flat(observation: Any) -> Array:
    return np.concatenate([np.ravel(entry) for entry in observation.values()], dtype=np.float32, casting="same_kind")


class MetaWorldEnv(gymnasium.Env[Array, Array]):
    """A task of Meta-World with a random goal and object position in each episode, drawn from the environment's seed.

    Observations: gripper position and opening, two objects' positions and quaternions, all of it one step earlier,
    and the goal's position in the last three entries.

    Meta-World itself ignores the seed of `reset`, draws from NumPy's global generator, and leaves the last episode's
    body positions in the model; here the positions are put back first, so that a seed determines the episode, and the
    first observation shows the state that the reset has left.
    """

    def __init__(self, package: Any, task: Task, **kwargs: Any) -> None:
        """`kwargs` go to the Meta-World class, such as `reward_function_version="v1"`."""
        from metaworld.types import Task as Instance

        make_class = package.ALL_V3_ENVIRONMENTS[task.source]
        kwargs.setdefault("reward_function_version", "v2")
        self.sawyer: Any = make_class(**kwargs)
        # Meta-World takes a task in pickled form. With this one the goal is visible.
        setup = {"env_cls": make_class, "rand_vec": None, "partially_observable": False}
        self.sawyer.set_task(Instance(task.source, pickle.dumps(setup)))
        self.sawyer.seeded_rand_vec = True
        # The time limit is the one around this class.
        self.sawyer.max_path_length = sys.maxsize
        self.model: Any = self.sawyer.model
        self.data: Any = self.sawyer.data
        self.metadata = {**self.sawyer.metadata, "render_fps": task.fps}
        self.render_mode = self.sawyer.render_mode
        self._home = {name: getattr(self.model, name).copy() for name in task.scene}
        box = self.sawyer.sawyer_observation_space
        self._low, self._high = box.low, box.high
        self.observation_space = spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)
        self.action_space = self.sawyer.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Begin an episode with new positions."""
        import mujoco

        super().reset(seed=seed)
        if seed is not None:
            self.sawyer.seed(seed)
        for name, values in self._home.items():
            getattr(self.model, name)[:] = values
        mujoco.mj_resetData(self.model, self.data)
        # Meta-World's reset places everything twice and would draw anew each time, so that the first observation showed
        # the first draw and the model the second: draw here, then reset with the draw held fixed.
        self.sawyer._freeze_rand_vec = False
        self.sawyer.reset_model()
        self.sawyer._freeze_rand_vec = True
        observation, info = self.sawyer.reset()
        # Positions lag behind what the reset has set (window-close: by the width of the window).
        mujoco.mj_kinematics(self.model, self.data)
        self.sawyer._prev_obs = self.sawyer._get_curr_obs_combined_no_goal()
        observation[:36] = np.tile(self.sawyer._prev_obs, 2)
        return np.clip(observation, self._low, self._high).astype(np.float32), info

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Advance by one control step of 1/80 s."""
        observation, reward, terminated, truncated, info = self.sawyer.step(action)
        return observation.astype(np.float32), reward, terminated, truncated, info

    def render(self) -> Any:
        """Meta-World's own picture, for the mode "human"."""
        return self.sawyer.render()

    def close(self) -> None:
        """Close Meta-World's environment."""
        self.sawyer.close()
