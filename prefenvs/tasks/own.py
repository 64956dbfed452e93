"""Tasks of your own: a `Task` that you wrote, or one whose row is inferred from any Gymnasium environment.

They are named by `module:NAME` (a `Task`, an environment class or a function that makes one), by `module:ID` (importing
the module registers the id with Gymnasium), by an id that is registered already, or by a file that `write_task` wrote.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefenvs.errors import PrefenvsError, failure_told, one_line
from prefenvs.internal.loading import import_named
from prefenvs.tasks.files import ENDING, read_task
from prefenvs.tasks.task import Camera, Task, tables

if TYPE_CHECKING:
    import gymnasium

Make = Callable[..., "gymnasium.Env[Any, Any]"]

OWN = "own"
"""Family of the tasks whose row was inferred."""

# What this process has loaded, by the names it goes by, and what makes the environments of inferred tasks.
_loaded: dict[str, Task] = {}
_makers: dict[str, Make] = {}
# What the names of these tasks stood for then: a module loaded anew, as in a notebook, holds another class.
_origins: dict[str, object] = {}
# What the imported modules have registered with Gymnasium: by module, `module:ID` by id.
_registered: dict[str, dict[str, str]] = {}

# Model arrays that a reset may set. Those that differ between two resets belong to the episode.
SCENE = (
    *("body_pos", "body_quat", "body_mass", "geom_pos", "geom_quat", "geom_size", "geom_rgba", "site_pos", "qpos0"),
    *("site_quat", "site_size", "site_rgba", "mat_rgba", "light_pos", "light_dir", "light_diffuse"),
    *("cam_pos", "cam_quat", "cam_fovy"),
)


def find_own(name: str) -> Task | None:
    """Return a task of your own by its name, None if there is none of that name.

    Raises PrefenvsError where a module cannot be imported or holds nothing of that name, and where an environment does
    not tell what a task needs.
    """
    if name.endswith(ENDING):
        # Read each time: it may be another folder's by now, or have been edited.
        return dataclasses.replace(read_task(Path(name)), id=name)
    known = _loaded.get(name)
    if known is not None:
        name = known.id
        if name not in _origins or _origins[name] is _origin(name):
            return known
    if ":" in name:
        return _load(name)
    import gymnasium

    return _infer_registered(name, name) if name in gymnasium.registry else None


def import_module_of_tasks(module: str) -> dict[str, str]:
    """Import a module and return the names, `module:ID`, of the ids that it has registered with Gymnasium, by id.

    By that name any later process finds them. Raises PrefenvsError where it cannot be imported.
    """
    import gymnasium

    if module not in _registered:
        before = set(gymnasium.registry)
        import_named(module, "--import")
        _registered[module] = {one: f"{module}:{one}" for one in gymnasium.registry if one not in before}
    return _registered[module]


def _origin(name: str) -> object:
    """What a name stands for at present: an object of an imported module, or Gymnasium's spec; None for others."""
    import gymnasium

    module, _, own = name.rpartition(":")
    found: object = getattr(sys.modules.get(module), own, None)
    return gymnasium.registry.get(own) if found is None else found


def _load(path: str) -> Task:
    import gymnasium

    module, name = import_named(path, "task")
    found = getattr(module, name, None)
    if isinstance(found, Task):
        return _keep(path, found)
    if callable(found):
        return _infer(path, found, path)
    if name in gymnasium.registry:
        return _infer_registered(path, name)
    raise PrefenvsError(
        f"task {path!r}: {module.__name__} has no prefenvs.Task, environment class or function called {name!r}, nor "
        "does importing it register that id with Gymnasium"
    )


def _keep(path: str, found: Task) -> Task:
    if tables().get(found.id) == found:
        return found
    known = tables().get(found.id) or _loaded.get(found.id)
    if known is not None and known.id != path and dataclasses.replace(known, id=found.id) != found:
        raise _called_as_another(path, found)
    task = dataclasses.replace(found, id=path)
    # The author's id goes on working in this process.
    _loaded[path] = _loaded[found.id] = task
    _origins[path] = _origin(path)
    return task


def _called_as_another(name: str, task: Task) -> PrefenvsError:
    return PrefenvsError(f"task {name!r} is called {task.id!r}, as another task is: give it another id")


def own_task(env: gymnasium.Env[Any, Any] | Make | Task, horizon: int | None = None) -> Task:
    """Return the task that an environment, what makes one, or a row of your own stands for, known from now on.

    A class or function of a module is called `module:NAME` and found again by every process; others, and environments
    without a registered id, only by this one. horizon: steps of an episode, where the environment does not tell.
    """
    import gymnasium

    if isinstance(env, Task):
        known = find_own(env.id) if env.id.endswith(ENDING) else tables().get(env.id)
        if known not in (None, env):
            raise _called_as_another(env.id, env)
        _loaded[env.id] = env
        _origins.pop(env.id, None)
        return env
    if isinstance(env, gymnasium.Env):
        return _own_object(env, horizon)
    if not callable(env):
        raise PrefenvsError(
            f"a task is an id, a Task, an environment, or a class or function that makes one, got {env!r}"
        )
    path = _importable(env)
    if path in _loaded and _makers.get(path) is env:
        return _loaded[path]
    name = path or _free_name(getattr(env, "__name__", type(env).__name__))
    return _infer(name, env, path, horizon)


def _own_object(env: gymnasium.Env[Any, Any], horizon: int | None) -> Task:
    import gymnasium
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

    layers, layer = [], env
    while isinstance(layer, gymnasium.Wrapper):
        layers.append(type(layer))
        layer = layer.env
    spec = env.spec
    plain = all(issubclass(kind, OrderEnforcing | PassiveEnvChecker | TimeLimit) for kind in layers)
    known = None if spec is None else gymnasium.registry.get(spec.id)
    made, registered = (one and (one.kwargs, one.max_episode_steps) for one in (spec, known))
    if spec is not None and plain and made == registered:
        return tables().get(spec.id) or find_own(spec.id) or _infer_registered(spec.id, spec.id)
    name = type(env if layers and not plain else layer).__name__ + (f"-{spec.id}" if spec is not None else "")
    given = [env]

    def make_again(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        if given and not kwargs:
            return given.pop()
        if spec is None:
            raise PrefenvsError(
                f"the environment {name!r} was given as an object, and nothing tells how to make another one, for "
                "evaluation or pictures: give prefenvs.make its class, or a function that makes it"
            )
        try:
            return gymnasium.make(spec, **kwargs)
        except ValueError as error:  # of a wrapper that does not record its arguments
            raise PrefenvsError(
                f"the environment {name!r} was given as an object that cannot be made again, for evaluation or "
                f"pictures ({one_line(error)}): give prefenvs.make a function that makes it"
            ) from error

    task = _describe(_free_name(name), "", env, horizon)
    return _remember(task, make_again)


def _infer(name: str, make: Make, source: str | None, horizon: int | None = None) -> Task:
    with failure_told(f"task {name!r}: the environment cannot be made", "it is made by a call without arguments"):
        env = make()
    import gymnasium

    if not isinstance(env, gymnasium.Env):
        raise PrefenvsError(f"task {name!r}: a call gives {type(env).__name__}, not a gymnasium.Env")
    try:
        told = make.__doc__ if inspect.isfunction(make) else None  # that of other objects is their class's
        return _remember(_describe(name, source or "", env, horizon, told), make)
    finally:
        _close(name, env)


def _infer_registered(name: str, registered: str) -> Task:
    import gymnasium

    make = _registered_maker(registered)
    with failure_told(f"task {name!r} cannot be made"):
        env = make()
    try:
        return _remember(_describe(name, name, env, gymnasium.spec(registered).max_episode_steps), make)
    finally:
        _close(name, env)


def _close(name: str, env: gymnasium.Env[Any, Any]) -> None:
    """Close an environment; raises PrefenvsError where that fails, but for the error of what came before it."""
    before = sys.exception()
    try:
        env.close()
    except Exception as error:  # whatever a user's code raises
        if before is None:
            raise PrefenvsError(
                f"task {name!r}: close() raised {one_line(error)}; Gymnasium calls it to free windows and the like"
            ) from error


def _registered_maker(name: str) -> Make:
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    def make(**kwargs: Any) -> gymnasium.Env[Any, Any]:
        entry: Any = gymnasium.spec(name).entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        if not _takes(inspect.signature(creator).parameters, "render_mode"):
            kwargs.pop("render_mode", None)
        # The time limit is the one that every task gets.
        return gymnasium.make(name, max_episode_steps=-1, disable_env_checker=True, **kwargs)

    return make


def _remember(task: Task, make: Make) -> Task:
    _loaded[task.id], _makers[task.id], _origins[task.id] = task, make, _origin(task.id)
    told = f"shown to raters as {task.sentence!r}"
    if not task.sentence:
        told = "without a sentence for raters: say what is to be done in the class's docstring"
    print(
        f"task {task.id}: episodes of {task.horizon} steps, segments of {task.segment_length} by default, "
        f"{task.fps} steps per second, {told}",
        file=sys.stderr,
    )
    return task


def make_own(task: Task, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment of an inferred task; `kwargs` are those that its class or function takes."""
    make = _makers.get(task.id.partition("@")[0]) or _maker(task)
    if "render_mode" in kwargs and not _takes(inspect.signature(make).parameters, "render_mode"):
        kwargs.pop("render_mode")
    return make(**kwargs)


def _maker(task: Task) -> Make:
    """What makes the environment of a row that its author wrote: its source, `module:NAME` or a registered id."""
    import gymnasium

    if ":" in task.source:
        module, name = import_named(task.source, f"task {task.id!r}, source")
        found = getattr(module, name, None)
        if callable(found):
            make: Make = found
            return make
    name = task.source.rpartition(":")[2]
    if name in gymnasium.registry:
        return _registered_maker(name)
    raise PrefenvsError(
        f"task {task.id!r} has the source {task.source!r}, which makes no environment: name a class or function as "
        "module:NAME, or an id registered with Gymnasium"
    )


def _takes(parameters: Any, name: str) -> bool:
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _describe(
    name: str, source: str, env: gymnasium.Env[Any, Any], horizon: int | None = None, documentation: str | None = None
) -> Task:
    """Infer a row: time limit, frame rate, sentence, camera, key of success, reward, arrays that a reset sets."""
    import gymnasium

    from prefenvs.envs.states import mujoco_model

    horizon = horizon or _horizon(env)
    if horizon is None:
        raise PrefenvsError(
            f"task {name!r} does not tell how many steps an episode has: write max_episode_steps = ... into the class, "
            "register it with max_episode_steps=..., wrap it in gymnasium.wrappers.TimeLimit, or give prefenvs.make "
            "max_episode_steps"
        )
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if vars(layer).get("revealed") is False:  # prefenvs.envs.hidden_reward.HiddenReward
            raise PrefenvsError(
                f"task {name!r} hides its reward already, so that its true reward would be 0: take it as it is, or "
                "build on the environment itself, as gymnasium.make gives it"
            )
        layer = layer.env
    info = _try_out(name, env)
    # An environment that uses MuJoCo has imported it.
    model = mujoco_model(env) if "mujoco" in sys.modules else None
    before = {} if model is None else {array: getattr(model, array).copy() for array in SCENE}
    env.reset(seed=1)
    scene = tuple(array for array, values in before.items() if (getattr(model, array) != values).any())
    text = type(env.unwrapped).__doc__ or documentation or ""
    return Task(
        name,
        OWN,
        _first_sentence(text),
        horizon,
        min(50, max(horizon // 2, 1)),
        _frame_rate(env),
        source,
        camera=Camera() if model is None else _camera(env, model),
        scene=scene,
        success_key=next((key for key in ("is_success", "success") if key in info), None),
        has_reward=bool(getattr(env.unwrapped, "has_reward", True)),
    )


def _try_out(name: str, env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    """Reset an environment, make one step and return its info; raises PrefenvsError where they are not Gymnasium's."""
    from gymnasium import spaces

    from prefenvs.envs.spaces import find_outside

    for side in ("observation_space", "action_space"):
        if not isinstance(getattr(env, side, None), spaces.Space):
            raise PrefenvsError(f"task {name!r}: {type(env.unwrapped).__name__} has no {side}: set a gymnasium.Space")
    env.action_space.seed(0)
    given: Any = None
    for call, parts in (("reset", "observation, info"), ("step", "observation, reward, terminated, truncated, info")):
        with failure_told(f"task {name!r}: {call} fails"):
            given = env.reset(seed=0) if call == "reset" else env.step(env.action_space.sample())
        if not isinstance(given, tuple) or len(given) != parts.count(",") + 1 or not isinstance(given[-1], dict):
            what = f"{len(given)} values" if isinstance(given, tuple) else type(given).__name__
            raise PrefenvsError(f"task {name!r}: {call} returns {what}, where Gymnasium's returns {parts}")
        outside = find_outside(env.observation_space, given[0])
        if outside:
            raise PrefenvsError(f"task {name!r}: {call} returns an observation outside its space: {outside}")
    try:
        float(given[1])
    except (TypeError, ValueError):
        raise PrefenvsError(f"task {name!r}: step returns the reward {given[1]!r}, which is no number") from None
    info: dict[str, Any] = given[-1]
    return info


def _camera(env: gymnasium.Env[Any, Any], model: Any) -> Camera:
    """A camera that follows the robot, if there is one: the model's, as Gymnasium's own rendering has it, or the body
    that the environment's renderer tracks.
    """
    import mujoco

    modes = (mujoco.mjtCamLight.mjCAMLIGHT_TRACK, mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM)
    following = [model.camera(i).name for i in range(model.ncam) if model.cam_mode[i] in modes]
    following = [name for name in following if name]
    if following:
        return Camera("track" if "track" in following else following[0])
    view = getattr(getattr(env.unwrapped, "mujoco_renderer", None), "default_cam_config", None) or {}
    body = view.get("trackbodyid", -1)
    if not 0 < body < model.nbody or not model.body(body).name:
        return Camera()
    lookat = None if view.get("lookat") is None else (*map(float, view["lookat"]),)
    aims = {name: float(view[name]) for name in ("distance", "azimuth", "elevation") if name in view}
    return dataclasses.replace(Camera(track=model.body(body).name, lookat=lookat), **aims)  # type: ignore[arg-type]


def _horizon(env: gymnasium.Env[Any, Any]) -> int | None:
    import gymnasium
    from gymnasium.wrappers import TimeLimit

    limits: list[Any] = [] if env.spec is None else [env.spec.max_episode_steps]
    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, TimeLimit):
            limits.append(layer._max_episode_steps)
        layer = layer.env
    limits += [getattr(layer, name, None) for name in ("max_episode_steps", "_max_episode_steps", "horizon")]
    return next((int(limit) for limit in limits if isinstance(limit, Integral) and int(limit) > 0), None)


def _frame_rate(env: gymnasium.Env[Any, Any]) -> int:
    rate = (env.metadata or {}).get("render_fps")
    seconds = getattr(env.unwrapped, "dt", None)
    if isinstance(rate, int | float) and rate >= 1:
        return round(rate)
    return max(round(1.0 / seconds), 1) if isinstance(seconds, int | float) and seconds > 0 else 30


def _first_sentence(documentation: str) -> str:
    """The first sentence of a docstring, without the headings that Gymnasium's begin with."""
    lines = [line.strip() for line in documentation.strip().splitlines()]
    text = "\n".join(line for line in lines if not line.startswith("#")).strip()
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0][:300]


def _importable(make: Make) -> str | None:
    """`module:NAME` of a class or function that any process can import."""
    name, module = getattr(make, "__qualname__", ""), sys.modules.get(getattr(make, "__module__", None) or "")
    if module is None or getattr(module, name, None) is not make:
        return None
    if module.__name__ != "__main__":
        return f"{module.__name__}:{name}"
    # The script that is running is a module for others.
    script = getattr(module, "__file__", None)
    return f"{Path(script).stem}:{name}" if script else None


def _free_name(name: str) -> str:
    import gymnasium

    name = re.sub(r"[^\w./-]+", "", name) or "environment"
    free, number = name, 2
    while free in _loaded or (f"prefenvs/{free}" in gymnasium.registry):
        free, number = f"{name}-{number}", number + 1
    return free
