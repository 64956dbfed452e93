"""What a row of a task table holds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.loading import entry_points, load_object

FAMILIES = ("gymnasium_mujoco", "classic_control", "dm_control", "metaworld", "robotics", "gridworld", "poses")


@dataclass(frozen=True)
class Budget:
    """A published label budget: `labels` in all, `per_session` of them every `interact` environment steps.

    steps: length of the published run in environment steps; epochs: reward epochs per session;
    lr: actor and critic learning rate; source: where it was published.
    """

    labels: int
    per_session: int
    interact: int
    steps: int
    epochs: int
    lr: float
    source: str


WALKER_BUDGET = Budget(labels=500, per_session=50, interact=20_000, steps=500_000, epochs=50, lr=5e-4, source="B-Pref")
"""What tasks without a published budget get: walker-walk's smallest."""


@dataclass(frozen=True)
class Camera:
    """Where to look from: a camera of the model by `name`, or a free one that follows body `track` if given.

    lookat, distance (m), azimuth and elevation (degrees) describe the free camera; None keeps the model's default.
    """

    name: str | None = None
    track: str | None = None
    lookat: tuple[float, float, float] | None = None
    distance: float | None = None
    azimuth: float | None = None
    elevation: float | None = None


@dataclass(frozen=True)
class Task:
    """One row of a task table.

    id: registered as "prefenvs/<id>"; that of a task of your own becomes `module:NAME`, see `find_task`.
    family: name of its table; sentence: the task in one sentence, for raters.
    horizon: steps until the time limit; segment_length: default T in steps; fps: steps per second of simulated time.
    source: id or name in the package that it comes from; kwargs: what its constructor is given.
    scene: MuJoCo model arrays that a reset sets, such as "body_pos"; they belong to the episode, as its states do.
    success_key: key of `info` that tells success, if any (privileged, as the reward); budgets: published ones,
    smallest first.
    has_reward: False where the task has no true reward; `true_reward` then is 0 in every step and means nothing.
    goal, baseline: what a picture of the task done, and of the task in general, shows; prompts for a CLIP reward.
    domain: part of the family whose tasks share published settings, such as "adroit"; empty where all of it do.
    """

    id: str
    family: str
    sentence: str
    horizon: int
    segment_length: int
    fps: int
    source: str
    camera: Camera = Camera()
    scene: tuple[str, ...] = ()
    success_key: str | None = None
    budgets: tuple[Budget, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    has_reward: bool = True
    goal: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    domain: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.segment_length <= self.horizon:
            raise PrefenvsError(
                f"task {self.id}: a segment of {self.segment_length} steps does not fit into {self.horizon}"
            )

    @property
    def file_name(self) -> str:
        """The id as part of a file's name: without the colon and dots of `module:NAME`."""
        return re.sub(r"[:.]", "-", self.id)

    def budget(self, labels: int | None = None) -> Budget:
        """Return the published budget of so many labels; else the smallest, or walker-walk's, with `labels` instead."""
        if labels is not None and labels < 1:
            raise PrefenvsError(f"labels must be at least 1, got {labels}")
        for budget in self.budgets:
            if labels in (None, budget.labels):
                return budget
        nearest = self.budgets[0] if self.budgets else WALKER_BUDGET
        return dataclasses.replace(nearest, labels=labels or nearest.labels)


@cache
def _rows() -> dict[str, Task]:
    tables = [import_module(f"prefenvs.tasks.{family}").TASKS for family in FAMILIES]
    rows = {task.id: task for table in tables for task in table}
    for task in entry_points("prefenvs.tasks", Task):
        if task.id in rows:
            raise PrefenvsError(f"an installed package offers a task called {task.id!r}, which there is already")
        rows[task.id] = task
    return rows


def list_tasks(family: str | None = None) -> list[Task]:
    """Return every task, or those of one family."""
    if family is not None and family not in FAMILIES:
        raise PrefenvsError(
            f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}.{near_matches(family, FAMILIES)}"
        )
    return [task for task in _rows().values() if family in (None, task.family)]


# Tasks of one's own that this process has loaded, by `module:NAME` and by the id that their author gave them.
_OWN: dict[str, Task] = {}


def find_task(task_id: str) -> Task:
    """Return the row of a task, or one of your own by `module:NAME`; "prefenvs/" in front is allowed.

    A task of your own is called `module:NAME` wherever it is kept, in stores, run folders and data sets, so that any
    later process finds it where the module can be imported.
    """
    name = task_id.removeprefix("prefenvs/")
    task = _rows().get(name) or _OWN.get(name)
    if task is not None:
        return task
    if ":" in name:
        return _load_own(name)
    raise PrefenvsError(
        f"unknown task {task_id!r}.{near_matches(task_id, _rows())} `prefenvs tasks` lists all; one of your own is "
        "called module:NAME"
    )


def _load_own(path: str) -> Task:
    found = load_object(path, Task)
    if _rows().get(found.id) == found:
        return found
    known = _OWN.get(found.id)
    if found.id in _rows() or (known is not None and dataclasses.replace(known, id=found.id) != found):
        raise PrefenvsError(f"task {path!r} is called {found.id!r}, as another task is: give it another id")
    task = dataclasses.replace(found, id=path)
    # The author's id goes on working in this process.
    _OWN[path] = _OWN[found.id] = task
    return task


def is_same_task(one: str, other: str) -> bool:
    """Tell whether two ids, as stored or as typed, mean the same task."""
    one, other = one.removeprefix("prefenvs/"), other.removeprefix("prefenvs/")
    if one == other:
        return True
    try:
        return find_task(one).id == find_task(other).id
    except PrefenvsError:
        return False


def has_reward(task_id: str) -> bool:
    """Tell whether a task has a true reward; one that is in no table is taken to have."""
    try:
        return find_task(task_id).has_reward
    except PrefenvsError:
        return True
