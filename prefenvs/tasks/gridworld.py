"""Gridworlds, whose optimal values are known exactly (prefenvs.envs.delivery.values)."""

from __future__ import annotations

from prefenvs.tasks.task import Task

TASKS: tuple[Task, ...] = (
    Task(
        "Delivery-v0",
        "gridworld",
        "The van drives to a red flag over road rather than brick, takes coins, avoids roadblocks and hits no sheep.",
        horizon=50,
        # Three moves, as in the study with human raters.
        segment_length=3,
        fps=4,
        source="prefenvs.envs.delivery.environment:Delivery",
        success_key="success",
    ),
)
