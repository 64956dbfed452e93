"""Simulator states: read them, write them back, and resume an episode from them exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from prefenvs.envs.spaces import action_choices
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array, Segment

# What MuJoCo derives from a state and tasks read before their next step, when it lags one physics step behind the
# state (Ant's reward, for one, is a difference of `xpos`). Kept in a snapshot so that a resumed episode is the same.
DERIVED = (
    "xpos",
    "xquat",
    "xmat",
    "xipos",
    "ximat",
    "geom_xpos",
    "geom_xmat",
    "site_xpos",
    "site_xmat",
    "cinert",
    "cvel",
    "subtree_com",
    "cfrc_ext",
    "qfrc_actuator",
    "actuator_force",
    "sensordata",
)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything that an environment needs to go on exactly from where it was, in numbers.

    state: integration state of MuJoCo (positions, velocities, controls, mocap, warm start), or the state vector of a
    task without MuJoCo; scene: model arrays of the episode, flat; derived: lagging arrays of `MjData` by name;
    variables: the plain attributes of the environment's objects, random generators included, one dict per object.
    """

    state: Array
    scene: Array | None
    derived: dict[str, Array]
    variables: list[dict[str, Any]]


def mujoco_model(env: gymnasium.Env[Any, Any]) -> Any:
    """Return the `mujoco.MjModel` that an environment simulates, or None if it does not use MuJoCo."""
    simulation = _simulation(env)
    return None if simulation is None else simulation[0]


def _simulation(env: gymnasium.Env[Any, Any]) -> tuple[Any, Any] | None:
    import mujoco

    for owner in _owners(env.unwrapped):
        model, data = getattr(owner, "model", None), getattr(owner, "data", None)
        if isinstance(model, mujoco.MjModel) and isinstance(data, mujoco.MjData):
            return model, data
    return None


def _owners(env: Any) -> Iterator[Any]:
    """The bare environment and the objects within it that carry an episode's variables."""
    yield env
    for name, part in vars(env).items():
        if isinstance(part, gymnasium.Env):
            yield from _owners(part.unwrapped)
        elif name in ("suite_env", "suite_task"):
            yield part


def read_scene(model: Any, names: tuple[str, ...]) -> Array | None:
    """Copy the named arrays of a MuJoCo model into one float64 vector [m]; None if no names are given."""
    if not names:
        return None
    for name in names:
        if not isinstance(getattr(model, name, None), np.ndarray):
            raise PrefenvsError(f"scene={list(names)}: a MuJoCo model has no array {name!r}, such as body_pos")
    scene: Array = np.concatenate([getattr(model, name).ravel() for name in names])
    return scene


def write_scene(model: Any, names: tuple[str, ...], scene: Array) -> None:
    """Write a vector made by `read_scene` into a model of the same task.

    Raises PrefenvsError for a vector of another size.
    """
    sizes = [getattr(model, name).size for name in names]
    if np.shape(scene) != (sum(sizes),):
        raise PrefenvsError(
            f"a scene of shape {np.shape(scene)} does not fit: {names} of this task hold {sum(sizes)} numbers"
        )
    for name, part in zip(names, np.split(scene, np.cumsum(sizes)[:-1]), strict=True):
        array = getattr(model, name)
        array[:] = part.reshape(array.shape)


def state_kinds() -> tuple[int, int, int]:
    """Return MuJoCo's kinds of states that are kept: the full physics, with mocap bodies too, and what goes on."""
    from mujoco import mjtState as kinds

    physics, mocap = int(kinds.mjSTATE_FULLPHYSICS), int(kinds.mjSTATE_MOCAP_POS | kinds.mjSTATE_MOCAP_QUAT)
    return physics, physics | mocap, int(kinds.mjSTATE_INTEGRATION)


class States:
    """The states of one environment.

    MuJoCo tasks: the full physics state (`mjSTATE_FULLPHYSICS`: time, positions, velocities, activations), enough for
    pictures and observations; in a task of the user's own the poses of mocap bodies too, which mark a goal as often as
    not. Others: their own vector, the attribute `state` of the bare environment. Where there is
    neither, `read` returns None and nothing can be put back.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], scene_names: tuple[str, ...] = (), mocap: bool = False) -> None:
        """scene_names: see `Task.scene`; mocap: keep the poses of mocap bodies too, such as marks of a goal."""
        self._env = env
        self._names = scene_names
        self._numbers: int | None = None
        simulation = _simulation(env)
        # Whether the task is simulated by MuJoCo.
        self.uses_mujoco = simulation is not None
        if simulation is None:
            return
        import mujoco

        self._mujoco = mujoco
        self._model, self._data = simulation
        physics, with_mocap, self._integration = state_kinds()
        self._physics = with_mocap if mocap else physics
        self._get_state = mujoco.mj_getState
        self._size = mujoco.mj_stateSize(self._model, self._physics)

    def read(self) -> Array | None:
        """Return the present state [s], float64, in a new array; None where the environment does not tell it."""
        if not self.uses_mujoco:
            return self._read_vector()
        state = np.empty(self._size)
        self._get_state(self._model, self._data, state, self._physics)
        return state

    def read_scene(self) -> Array | None:
        """Return the model arrays of the present episode [m], float64; None where a reset sets none."""
        return read_scene(self._model, self._names) if self._names else None

    def write(self, state: Array, scene: Array | None = None) -> None:
        """Put the simulation into a state, and into an episode's scene if given, and derive all positions from it.

        Raises PrefenvsError for a state of another size.
        """
        if not self.uses_mujoco:
            self._write_vector(state)
            return
        if np.shape(state) != (self._size,):
            raise PrefenvsError(
                f"a state of shape {np.shape(state)} does not fit: this task's hold {self._size} numbers"
            )
        if scene is not None:
            write_scene(self._model, self._names, scene)
        self._mujoco.mj_setState(self._model, self._data, np.asarray(state, np.float64), self._physics)
        self._mujoco.mj_forward(self._model, self._data)

    def _write_vector(self, state: Array) -> None:
        size = self.known().size
        if np.size(state) != size:
            raise PrefenvsError(f"a state of shape {np.shape(state)} does not fit: this task's hold {size} numbers")
        bare: Any = self._env.unwrapped
        try:
            bare.state = as_own(np.array(state, np.float64).ravel(), bare.state)
        except AttributeError as error:
            raise PrefenvsError(
                f"the attribute `state` of {type(bare).__name__} cannot be set ({error}): give it a setter that brings "
                "a step back, or another name"
            ) from error

    def _read_vector(self) -> Array | None:
        state = getattr(self._env.unwrapped, "state", None)
        try:
            vector = None if state is None or callable(state) else np.array(state, np.float64).ravel()
        except (TypeError, ValueError):
            vector = None
        numbers = -1 if vector is None else vector.size
        if self._numbers is None and vector is not None:
            self._numbers = numbers
        if self._numbers not in (None, numbers):
            now = "cannot be read as one" if vector is None else f"holds {numbers} numbers"
            raise PrefenvsError(
                f"the attribute `state` of {type(self._env.unwrapped).__name__} held {self._numbers} numbers and now "
                f"{now}: a state is a vector of one size that brings a step back; call what is none by another name"
            )
        return vector

    def known(self) -> Array:
        """Return what `read` does; raises PrefenvsError where the environment does not tell its state."""
        state = self.read()
        if state is None:
            raise PrefenvsError(
                f"{type(self._env.unwrapped).__name__} does not tell its state: reset it, or give it an attribute "
                "`state`, a vector that brings it back"
            )
        return state

    def snapshot(self) -> Snapshot:
        """Return what `resume` needs."""
        variables = [plain_variables(owner) for owner in _owners(self._env.unwrapped)]
        if not self.uses_mujoco:
            return Snapshot(self.known(), None, {}, variables)
        state = np.empty(self._mujoco.mj_stateSize(self._model, self._integration))
        self._get_state(self._model, self._data, state, self._integration)
        derived = {name: getattr(self._data, name).copy() for name in DERIVED}
        return Snapshot(state, self.read_scene(), derived, variables)

    def resume(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of the same task, taken in this environment or in another one.

        Raises PrefenvsError for a snapshot of another size.
        """
        if self.uses_mujoco:
            size = self._mujoco.mj_stateSize(self._model, self._integration)
            if snapshot.state.shape != (size,):
                raise PrefenvsError(
                    f"a snapshot of {snapshot.state.size} numbers does not fit this task, which has {size}"
                )
            if snapshot.scene is not None:
                write_scene(self._model, self._names, snapshot.scene)
            self._mujoco.mj_setState(self._model, self._data, snapshot.state, self._integration)
            self._mujoco.mj_forward(self._model, self._data)
            # mj_forward has renewed the solver's warm start; the next step must find the recorded one.
            self._mujoco.mj_setState(self._model, self._data, snapshot.state, self._integration)
            for name, values in snapshot.derived.items():
                getattr(self._data, name)[:] = values
        for owner, variables in zip(_owners(self._env.unwrapped), snapshot.variables, strict=True):
            vars(owner).update(copy.deepcopy(variables))


def goes_on(env: Any, segment: Segment) -> bool:
    """Return whether an environment, put into a segment's last state but one, steps to the observation recorded next.

    False where states lack what the simulator goes on with (mocap bodies, warm starts, variables of the task), and
    where the segment has no states or a single step.
    """
    if segment.states is None or len(segment) < 2:
        return False
    env.restore(segment.states[-2], segment.scene)
    space = env.action_space
    action: Any = action_choices(space, np.asarray(segment.actions[-2]))
    if isinstance(space, spaces.Discrete):
        action = int(space.start + action)
    else:
        action = np.asarray(action, space.dtype).reshape(space.shape)
    found, known = np.ravel(env.step(action)[0]), np.ravel(segment.observations[-1])
    return found.shape == known.shape and bool(np.abs(found - known).max() <= 1e-4 * (1.0 + np.abs(known).max()))


def as_own(state: Array, like: Any) -> Any:
    """Return a state vector [s] in the form that an environment has its own in: shape, containers, whole numbers."""
    if isinstance(like, list | tuple):
        sizes = [np.size(part) for part in like]
        parts = (as_own(part, one) for part, one in zip(np.split(state, np.cumsum(sizes)[:-1]), like, strict=False))
        return getattr(type(like), "_make", type(like))(parts)
    own = np.asarray(like)
    array = state.reshape(own.shape).astype(own.dtype if own.dtype.kind in "iub" else np.float64)
    return array if isinstance(like, np.ndarray) else array.item() if array.ndim == 0 else array


def plain_variables(owner: Any) -> dict[str, Any]:
    """Return copies of an object's attributes that are numbers, text, arrays, generators or containers of them."""
    return copy.deepcopy({name: value for name, value in vars(owner).items() if _is_plain(value)})


def _is_plain(value: Any) -> bool:
    """True for numbers, text, arrays, random generators and containers of them.

    Arrays that look into the simulator's memory are not copied: the simulator's state brings them back.
    """
    if isinstance(value, np.ndarray):
        return value.dtype != object and not _is_foreign(value)
    if isinstance(value, list | tuple | set | frozenset):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    kinds = (bool, int, float, str, bytes, type(None), np.generic, np.random.Generator, np.random.RandomState)
    return isinstance(value, kinds)


def _is_foreign(array: Array) -> bool:
    base = array.base
    while isinstance(base, np.ndarray):
        base = base.base
    return base is not None
