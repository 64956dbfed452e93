"""The task tables: one row per task, one file per family."""

from __future__ import annotations

from prefenvs.tasks.finding import (
    ends_by_time_alone,
    find_task,
    has_environment,
    has_reward,
    is_same_task,
    known_task,
)
from prefenvs.tasks.task import Camera, LabelBudget, Task, list_tasks

__all__ = [
    "Camera",
    "LabelBudget",
    "Task",
    "ends_by_time_alone",
    "find_task",
    "has_environment",
    "has_reward",
    "is_same_task",
    "known_task",
    "list_tasks",
]
