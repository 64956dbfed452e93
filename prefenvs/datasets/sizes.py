"""Whether arrays fit a task: the sizes of its observations, actions and states."""

from __future__ import annotations

import warnings
from functools import cache

from gymnasium import spaces

from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.trajectories import Trajectories


@cache
def _sizes(task_id: str) -> tuple[int, int, int]:
    """Entries of a task's observation, action (one-hot where discrete) and state."""
    env = make(task_id)
    try:
        _, info = env.reset(seed=0)
        observation, action = env.observation_space, env.action_space
        assert observation.shape is not None
        entries = int(action.n) if isinstance(action, spaces.Discrete) else int((action.shape or (1,))[0])
        return int(observation.shape[0]), entries, int(info["state"].size)
    finally:
        env.close()


def misfit(task_id: str, observations: int, actions: int, states: int | None = None) -> str:
    """Say which of these numbers of entries a task does not have, or return an empty string.

    Where the task's own package is not installed, nothing can be compared, and a warning says so.
    """
    try:
        expected = _sizes(task_id)
    except PrefenvsError as error:
        warnings.warn(f"the data are not compared with their task: {error}", stacklevel=3)
        return ""
    for what, found, known in zip(
        ("observations", "actions", "states"), (observations, actions, states), expected, strict=True
    ):
        if found is not None and found != known:
            return f"its {what} have {known} entries, the data's {found}"
    return ""


def check_fit(trajectories: Trajectories, name: str) -> None:
    """Raise a PrefenvsError if the arrays are not of the task that they are said to be of."""
    if not trajectories.task:
        return
    states = None if trajectories.states is None else trajectories.states.shape[1]
    problem = misfit(trajectories.task, trajectories.observations.shape[1], trajectories.actions.shape[1], states)
    if problem:
        raise PrefenvsError(f"data set {name!r} is not of task {trajectories.task!r}: {problem}")
