"""The task tables: one row per task, one file per family."""

from __future__ import annotations

from prefenvs.tasks.task import (
    Budget,
    Camera,
    Task,
    ends_by_time_alone,
    find_task,
    has_reward,
    is_same_task,
    list_tasks,
)

__all__ = ["Budget", "Camera", "Task", "ends_by_time_alone", "find_task", "has_reward", "is_same_task", "list_tasks"]
