"""What a row of a task table holds."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from numbers import Integral
from typing import Any

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import entry_points

FAMILIES = ("gymnasium_mujoco", "classic_control", "dm_control", "metaworld", "robotics", "gridworld", "poses")


@dataclass(frozen=True)
class LabelBudget:
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

    def repeated(self, repeat: int) -> LabelBudget:
        """Return the budget of the same time where each action is held for `repeat` steps."""
        return dataclasses.replace(self, interact=max(self.interact // repeat, 1), steps=max(self.steps // repeat, 1))


WALKER_BUDGET = LabelBudget(
    labels=500, per_session=50, interact=20_000, steps=500_000, epochs=50, lr=5e-4, source="B-Pref"
)
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
    repeat: steps of the simulation for which an action is held; they are one step here, and their rewards its reward.
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
    budgets: tuple[LabelBudget, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    has_reward: bool = True
    goal: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    domain: str = ""
    repeat: int = 1

    def __post_init__(self) -> None:
        for name in ("horizon", "segment_length", "fps", "repeat"):
            if not isinstance(getattr(self, name), Integral):
                raise PrefenvsError(f"task {self.id}: {name} is a whole number, got {getattr(self, name)!r}")
        if not 1 <= self.segment_length <= self.horizon:
            raise PrefenvsError(
                f"task {self.id}: a segment of {self.segment_length} steps does not fit into {self.horizon}"
            )
        if self.fps < 1:
            raise PrefenvsError(f"task {self.id}: fps is at least 1 step per second, got {self.fps}")
        if self.repeat < 1:
            raise PrefenvsError(f"task {self.id}: an action is held for at least 1 step, got repeat={self.repeat}")

    @property
    def file_name(self) -> str:
        """The id as part of a file's name: without the colon, dots and slashes of `module:NAME`."""
        return re.sub(r"[:./]", "-", self.id)

    def repeated(self, repeat: int) -> Task:
        """Return the task in which each action is held for `repeat` of these steps, as `ID@repeat`.

        Horizon, segments, frame rate and budgets are those of the same time. Raises PrefenvsError where that is not
        a step long, or longer than an episode.
        """
        if repeat < 1 or repeat > self.horizon:
            raise PrefenvsError(
                f"task {self.id}@{repeat}: an action is held for 1 to {self.horizon} steps, an episode's"
            )
        if repeat == 1:
            return self
        return dataclasses.replace(
            self,
            id=f"{self.id}@{repeat}",
            horizon=self.horizon // repeat,
            segment_length=max(self.segment_length // repeat, 1),
            fps=max(round(self.fps / repeat), 1),
            budgets=tuple(budget.repeated(repeat) for budget in self.budgets),
            repeat=self.repeat * repeat,
        )

    def budget(self, labels: int | None = None) -> LabelBudget:
        """Return the published budget of so many labels; else the smallest, or walker-walk's, with `labels` instead.

        Raises PrefenvsError for labels below 1.
        """
        if labels is not None and labels < 1:
            raise PrefenvsError(f"labels must be at least 1, got {labels}")
        for budget in self.budgets:
            if labels in (None, budget.labels):
                return budget
        nearest = self.budgets[0] if self.budgets else WALKER_BUDGET.repeated(self.repeat)
        return dataclasses.replace(nearest, labels=labels or nearest.labels)


@cache
def suite_tables() -> dict[str, Task]:
    """Return the rows of the suite's own tables, by id.

    While prefenvs is being imported only these are looked at: what an installed package offers imports prefenvs itself.
    """
    families = [import_module(f"prefenvs.tasks.{family}").TASKS for family in FAMILIES]
    return {task.id: task for table in families for task in table}


@cache
def tables() -> dict[str, Task]:
    """Return the rows of the suite's tables and of installed packages, by id.

    Raises PrefenvsError for an id that two have.
    """
    rows = dict(suite_tables())
    for task in entry_points("prefenvs.tasks", Task):
        if task.id in rows:
            raise PrefenvsError(f"an installed package offers a task called {task.id!r}, which there is already")
        rows[task.id] = task
    return rows


def list_tasks(family: str | None = None) -> list[Task]:
    """Return every task, or those of one family; raises PrefenvsError for an unknown family."""
    if family is not None and family not in FAMILIES:
        raise PrefenvsError(
            f"unknown family {family!r}: choose one of {', '.join(FAMILIES)}.{near_matches(family, FAMILIES)}"
        )
    return [task for task in tables().values() if family in (None, task.family)]
