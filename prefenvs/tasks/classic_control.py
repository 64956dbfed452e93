"""Gymnasium's classic control tasks that train in minutes on any machine."""

from __future__ import annotations

from prefenvs.tasks.task import Task

TASKS: tuple[Task, ...] = (
    Task(
        "Pendulum-v1",
        "classic_control",
        "The pendulum swings up and then stands still, pointing straight up.",
        horizon=200,
        segment_length=50,
        fps=20,
        source="Pendulum-v1",
    ),
    Task(
        "CartPole-v1",
        "classic_control",
        "The cart moves left and right so that the pole stays upright and the cart stays near the middle of the track.",
        horizon=500,
        segment_length=25,
        fps=50,
        source="CartPole-v1",
    ),
)
