"""Gymnasium's MuJoCo locomotion and control tasks, version 5."""

from __future__ import annotations

from prefenvs.tasks.task import Camera, Task


def _task(name: str, fps: int, camera: Camera, sentence: str, horizon: int = 1000, segment_length: int = 50) -> Task:
    task_id = f"{name}-v5"
    return Task(task_id, "gymnasium_mujoco", sentence, horizon, segment_length, fps, source=task_id, camera=camera)


TASKS: tuple[Task, ...] = (
    _task(
        "Ant",
        20,
        Camera(track="torso", lookat=(0.0, 0.0, 0.5), distance=5.0, azimuth=90.0, elevation=-25.0),
        "The four-legged ant walks to the right as fast as it can without falling over.",
    ),
    _task(
        "HalfCheetah",
        20,
        Camera(track="torso", lookat=(0.0, 0.0, 0.5), distance=3.5, azimuth=90.0, elevation=-10.0),
        "The two-legged cheetah runs to the right as fast as it can, upright and not on its back.",
    ),
    _task(
        "Hopper",
        125,
        Camera(track="torso", lookat=(0.0, 0.0, 0.8), distance=3.5, azimuth=90.0, elevation=-10.0),
        "The one-legged hopper hops to the right as fast as it can without falling.",
    ),
    _task(
        "Humanoid",
        67,
        Camera(track="torso", lookat=(0.0, 0.0, 0.9), distance=4.0, azimuth=90.0, elevation=-15.0),
        "The humanoid walks or runs to the right as fast as it can without falling.",
    ),
    _task(
        "HumanoidStandup",
        67,
        Camera(track="torso", lookat=(0.0, 0.0, 0.6), distance=4.0, azimuth=90.0, elevation=-15.0),
        "The humanoid, which lies on its back at first, gets up and holds its body as high as possible.",
    ),
    _task(
        "InvertedDoublePendulum",
        20,
        Camera(lookat=(0.0, 0.0, 0.4), distance=3.5, azimuth=90.0, elevation=-5.0),
        "The cart moves sideways so that the two linked poles stay upright above it.",
    ),
    _task(
        "InvertedPendulum",
        25,
        Camera(lookat=(0.0, 0.0, 0.2), distance=3.0, azimuth=90.0, elevation=-5.0),
        "The cart moves sideways so that the pole stays upright above it.",
    ),
    _task(
        "Pusher",
        20,
        Camera(lookat=(0.3, -0.2, -0.2), distance=2.6, azimuth=140.0, elevation=-40.0),
        "The arm pushes the white cylinder across the table onto the red goal disc.",
        horizon=100,
    ),
    _task(
        "Reacher",
        50,
        Camera(lookat=(0.0, 0.0, 0.0), distance=0.75, azimuth=90.0, elevation=-90.0),
        "The two-link arm moves its fingertip onto the red target and stays there.",
        horizon=50,
        segment_length=25,
    ),
    _task(
        "Swimmer",
        25,
        Camera(track="torso", lookat=(0.0, 0.0, 0.0), distance=7.0, azimuth=90.0, elevation=-60.0),
        "The three-link swimmer undulates and moves to the right as fast as it can.",
    ),
    _task(
        "Walker2d",
        125,
        Camera(track="torso", lookat=(0.0, 0.0, 0.8), distance=4.0, azimuth=90.0, elevation=-10.0),
        "The two-legged walker walks or runs to the right as fast as it can without falling.",
    ),
)
