"""Whether arrays fit a task: the sizes of its observations, actions and states."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.tasks.recorded import is_recorded
from prefenvs.trajectories import Trajectories

FAR = 50.0
"""Actions this many half-widths from the middle of their space are of another unit, or nonsense.

Scripted policies ask for a dozen times what an arm can do, as a matter of course, and their environments clip it.
"""


@cache
def _sizes(task_id: str) -> tuple[int, int, int | None]:
    """Entries of a task's observation, action (one-hot where discrete) and state; None where it tells no state."""
    env = make(task_id)
    try:
        _, info = env.reset(seed=0)
        states = info["state"].size if "state" in info else None
        return spaces.flatdim(env.observation_space), spaces.flatdim(env.action_space), states
    finally:
        env.close()


@cache
def task_action_space(task_id: str) -> spaces.Space[Any]:
    """Return the action space of a task."""
    env = make(task_id)
    try:
        return env.action_space
    finally:
        env.close()


def check_actions(actions: Array, space: spaces.Space[Any], name: str) -> None:
    """Raise a PrefenvsError where flat actions [S, act] are nowhere near their space, or choose nothing of it."""
    if isinstance(space, spaces.Box):
        low, high = (side.ravel().astype(np.float64) for side in (space.low, space.high))
        if actions.shape[1:] != low.shape or not len(actions):
            return
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            far = np.maximum(actions.max(0) - (low + high) / 2, (low + high) / 2 - actions.min(0)) / ((high - low) / 2)
        # Entries without bounds, or with equal ones, say nothing.
        far = np.where(np.isfinite(far), far, 0.0)
        entry = int(np.argmax(far))
        if far[entry] > FAR:
            raise PrefenvsError(
                f"actions of data set {name!r} reach from {actions[:, entry].min():.4g} to "
                f"{actions[:, entry].max():.4g} in entry {entry}, but their space from {low[entry]:.4g} to "
                f"{high[entry]:.4g}: scale them, or name the task that they are of"
            )
    elif isinstance(space, spaces.Discrete) and actions.shape[1] == space.n and len(actions):
        wrong = np.flatnonzero((np.sort(actions, 1) != np.eye(int(space.n))[-1]).any(1))
        if len(wrong):
            raise PrefenvsError(
                f"actions of data set {name!r} are no choices of {space}: row {wrong[0]} is not one 1 among zeros"
            )


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
        if found is not None and known is not None and found != known:
            return f"its {what} have {known} entries, the data's {found}"
    return ""


def check_fit(trajectories: Trajectories, name: str) -> None:
    """Raise a PrefenvsError if the arrays are not of the task that they are said to be of."""
    if not trajectories.task or is_recorded(trajectories.task):
        return
    states = None if trajectories.states is None else trajectories.states.shape[1]
    problem = misfit(trajectories.task, trajectories.observations.shape[1], trajectories.actions.shape[1], states)
    if problem:
        raise PrefenvsError(f"data set {name!r} is not of task {trajectories.task!r}: {problem}")
    try:
        space = task_action_space(trajectories.task)
    except PrefenvsError:
        # Its package is not installed, of which `misfit` has warned.
        return
    check_actions(trajectories.actions, space, name)
