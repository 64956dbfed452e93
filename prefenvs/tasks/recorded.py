"""Tasks that are known from recordings alone: a sentence, without an environment."""

from __future__ import annotations

from functools import lru_cache

from prefenvs.errors import PrefenvsError
from prefenvs.tasks.task import Task

PREFIX = "recorded:"
FAMILY = "recorded"
LONGEST = 1_000_000
"""Steps of an episode at most, since nothing tells a time limit."""


@lru_cache(maxsize=4096)
def recorded_task(name: str) -> Task:
    """Return the task called "recorded:<sentence>", whose sentence raters read; it has no environment.

    Its rate of 30 steps a second holds where a recording tells none. Raises PrefenvsError without a sentence.
    """
    sentence = name.removeprefix(PREFIX).strip()
    if not sentence:
        raise PrefenvsError(f"{name!r} names no task: write what the robot is to do, such as recorded:open the drawer")
    return Task(
        id=PREFIX + sentence,
        family=FAMILY,
        sentence=sentence,
        horizon=LONGEST,
        segment_length=60,
        fps=30,
        source="",
        has_reward=False,
        goal=(sentence,),
    )


def is_recorded(task_id: str) -> bool:
    """Tell whether a task is known from recordings alone."""
    return task_id.removeprefix("prefenvs/").startswith(PREFIX)
