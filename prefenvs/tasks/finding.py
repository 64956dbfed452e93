"""Tasks by their ids."""

from __future__ import annotations

import re

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.tasks.own import find_own
from prefenvs.tasks.recorded import is_recorded, recorded_task
from prefenvs.tasks.task import Task, suite_tables, tables


def find_task(task_id: str) -> Task:
    """Return the row of a task; "prefenvs/" in front is allowed.

    Beside the suite's ids it takes any id registered with Gymnasium, `module:NAME` for a `Task`, an environment class
    or a function that makes one, and `module:ID` for an id that importing the module registers. So it is called
    wherever it is kept, in stores, run folders and data sets, and any later process finds it where the module can be
    imported. `@2` after any of them holds each action for 2 steps, see `Task.repeated`. `recorded:<sentence>` is a
    task known from recordings alone. Raises PrefenvsError for an unknown id and for an environment from which no row
    can be inferred.
    """
    name = task_id.removeprefix("prefenvs/")
    if is_recorded(name):
        return recorded_task(name)
    held = re.fullmatch(r"(.+)@(\d+)", name)
    rows = suite_tables() if {name, held and held[1]} & suite_tables().keys() else tables()
    if held and name not in rows:
        return find_task(held[1]).repeated(int(held[2]))
    task = rows.get(name) or find_own(name)
    if task is None:
        raise PrefenvsError(
            f"unknown task {task_id!r}.{near_matches(task_id, rows)} `prefenvs tasks` lists all; an environment of "
            "your own is called module:NAME, or module:ID where importing the module registers it with Gymnasium"
        )
    return task


def known_task(task_id: str) -> Task | None:
    """Return the row of a task that a policy can act in, one of your own among them; None where this process has none.

    For data of others: what names no task, or one whose package or module is not here, is no error.
    """
    try:
        return find_task(task_id) if has_environment(task_id) else None
    except PrefenvsError:
        return None


def is_same_task(one: str, other: str) -> bool:
    """Tell whether two ids, as stored or as typed, mean the same task."""
    one, other = one.removeprefix("prefenvs/"), other.removeprefix("prefenvs/")
    if one == other:
        return True
    try:
        return find_task(one).id == find_task(other).id
    except PrefenvsError:
        return False


def has_environment(task_id: str) -> bool:
    """Tell whether a policy can act in a task: not where data tell none, nor in one known from recordings alone."""
    return bool(task_id) and not is_recorded(task_id.removeprefix("prefenvs/"))


def ends_by_time_alone(task_id: str) -> bool:
    """Tell whether a task surely has no other end than its time limit; of most tasks nothing tells it."""
    try:
        return find_task(task_id).family in ("dm_control", "metaworld")
    except PrefenvsError:
        return False


def has_reward(task_id: str) -> bool:
    """Tell whether a task has a true reward; one that is in no table is taken to have."""
    try:
        return find_task(task_id).has_reward
    except PrefenvsError:
        return True
