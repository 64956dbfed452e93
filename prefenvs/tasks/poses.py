"""Poses of the humanoid, told by words alone: the tasks of VLM-RM (Rocamonde et al., ICLR 2024).

They have no true reward (`Task.has_reward`). `goal` and `baseline` are the prompts of a CLIP reward.
"""

from __future__ import annotations

from prefenvs.tasks.task import Camera, Task

BASELINE = "a humanoid robot"
# VLM-RM's camera: it follows the torso from 3.5 m, with the view fixed at a height of 1 m.
_CAMERA = Camera(track="torso", lookat=(0.0, 0.0, 1.0), distance=3.5, azimuth=180.0, elevation=-10.0)


def _task(pose: str, goal: str, sentence: str) -> Task:
    return Task(
        id=f"humanoid-{pose}-v0",
        family="poses",
        sentence=sentence,
        horizon=100,
        segment_length=25,
        fps=67,
        source="prefenvs.envs.poses:HumanoidPoseEnv",
        camera=_CAMERA,
        # An episode goes on after a fall: on the floor begins many a pose.
        kwargs={"terminate_when_unhealthy": False},
        has_reward=False,
        goal=(goal,),
        baseline=(BASELINE,),
    )


TASKS: tuple[Task, ...] = (
    _task("kneel", "a humanoid robot kneeling", "The humanoid kneels on the floor with its upper body upright."),
    _task("splits", "a humanoid robot doing the splits", "The humanoid does the splits, its legs apart on the floor."),
    _task(
        "lotus",
        "a humanoid robot sitting in the lotus position",
        "The humanoid sits on the floor in the lotus position, with its legs crossed.",
    ),
    _task(
        "arms-raised",
        "a humanoid robot standing up with both arms raised",
        "The humanoid stands upright and raises both arms above its head.",
    ),
    _task(
        "one-leg",
        "a humanoid robot standing up on one leg",
        "The humanoid stands upright on one leg and keeps the other foot off the floor.",
    ),
)
