"""Environments that hide their reward: wrappers, state capture, and registration."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from numbers import Integral
from typing import Any, Literal

import gymnasium
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from prefenvs.errors import PrefenvsError
from prefenvs.tasks import Task, find_task
from prefenvs.tasks.own import own_task
from prefenvs.tasks.task import suite_tables

__all__ = ["draws_live", "make"]


def make(
    task: str | Task | gymnasium.Env[Any, Any] | Callable[..., gymnasium.Env[Any, Any]],
    *,
    reward: Literal["hidden", "true"] = "hidden",
    max_episode_steps: int | None = None,
    **kwargs: Any,
) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task, with its reward hidden: see `prefenvs.envs.hidden_reward.HiddenReward`.

    task: an id of the suite, an id registered with Gymnasium, `module:NAME` (see `find_task`), a `Task`, a class or
    function that makes an environment, or an environment. Of what has no row in a table one is inferred: the time limit
    from its spec, the frame rate from its metadata or `dt`, the sentence for raters from its docstring.
    reward: "true" pays the true reward instead, for Stable-Baselines3's `EvalCallback` and `evaluate_policy`; learners
    from preferences refuse to train there.
    max_episode_steps: another time limit than the task's. `kwargs` are those of `gymnasium.make`
    (`render_mode="rgb_array"`) and of the task's own class.
    Raises PrefenvsError for an unknown task, a package that is not installed, or an argument that the task refuses.
    """
    steps: Any = max_episode_steps
    if steps is not None:
        if not isinstance(steps, Integral) or steps < 1:
            raise PrefenvsError(f"max_episode_steps={steps!r}: an episode has a whole number of steps, 1 or more")
        max_episode_steps = int(steps)
    row = find_task(task) if isinstance(task, str) else own_task(task, max_episode_steps)
    if reward not in ("hidden", "true"):
        raise PrefenvsError(f'reward={reward!r} is unknown: choose "hidden" or "true"')
    if reward == "true" and not row.has_reward:
        raise PrefenvsError(f"task {row.id!r} has no true reward that an evaluation could be paid")
    name = _registered(row)
    try:
        # One of the user's own is not registered, since another may have its name next time.
        spec = name if name in gymnasium.registry else EnvSpec(**_spec(row))
        env = gymnasium.make(spec, max_episode_steps=max_episode_steps, **kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        raise PrefenvsError(f"task {row.id!r} cannot be made with {kwargs}: {error}") from error
    if reward == "hidden":
        return env
    from prefenvs.envs.hidden_reward import TrueReward

    return TrueReward(env)


def draws_live(task: str) -> bool:
    """Tell whether a task has no simulator states, but draws itself while it acts: then it has to be filmed."""
    with closing(make(task)) as env:
        return "state" not in env.reset(seed=0)[1] and "rgb_array" in env.metadata.get("render_modes", [])


def _wrappers(task: Task) -> tuple[WrapperSpec, ...]:
    """The wrappers from the inside out. Named by text: importing prefenvs must not import what they need."""

    def wrapper(name: str, module: str, **kwargs: Any) -> WrapperSpec:
        return WrapperSpec(name, f"prefenvs.envs.{module}:{name}", kwargs)

    wrappers = []
    if task.source.startswith("Fetch"):
        wrappers.append(wrapper("ShowTarget", "adapters"))
    # The others' own classes are flat: prefenvs.envs.adapters.
    if task.family not in ("dm_control", "metaworld"):
        wrappers.append(wrapper("FlatObservation", "adapters"))
    return (*wrappers, wrapper("HiddenReward", "hidden_reward", task_id=task.id))


def _registered(task: Task) -> str:
    """Gymnasium's name of a task; there a colon ends a module to import, and a slash ends a namespace.

    Of a module's own tasks none has a version there: Gymnasium refuses `Reach` beside `Reach-v0`.
    """
    name = re.sub(r"-(v\d+)$", r".\1", task.id) if ":" in task.id else task.id
    return f"prefenvs/{re.sub('[^0-9A-Za-z_.-]', '.', name)}"


def _spec(task: Task) -> dict[str, Any]:
    return {
        "id": _registered(task),
        "entry_point": "prefenvs.envs.adapters:make_source",
        "max_episode_steps": task.horizon,
        # It would warn of the packages' own spaces and buffers; `prefenvs.envs.check` looks at what users get.
        "disable_env_checker": True,
        "additional_wrappers": _wrappers(task),
        "kwargs": {"task_id": task.id},
    }


for _task in suite_tables().values():
    gymnasium.register(**_spec(_task))
