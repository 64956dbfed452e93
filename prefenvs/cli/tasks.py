"""`prefenvs tasks`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass

from prefenvs.tasks import list_tasks

WIDTH = 100
"""Columns that the table fits into, on a terminal and in a file alike."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks: horizon, default segment length, camera, and the sentence that raters read."""

    family: str | None = None
    """Only this family: gymnasium_mujoco, classic_control, dm_control, metaworld, robotics, gridworld or poses."""
    json: bool = False
    """Print a JSON list instead of a table."""

    def run(self) -> None:
        """Print the table. Raises PrefenvsError for an unknown family."""
        tasks = list_tasks(self.family)
        if self.json:
            print(json.dumps([asdict(task) for task in tasks], default=dict, indent=1))
            return
        print(_row("task", "horizon", "segment", "fps", "camera", "published labels"))
        for task in tasks:
            camera = task.camera.name or (f"tracks {task.camera.track}" if task.camera.track else "free")
            labels = " / ".join(str(budget.labels) for budget in task.budgets)
            print(_row(task.id, task.horizon, task.segment_length, task.fps, camera, labels))
            print(textwrap.fill(task.sentence, WIDTH, initial_indent="  ", subsequent_indent="  "))
        print(f"{len(tasks)} tasks")


def _row(task: str, horizon: object, segment: object, fps: object, camera: str, labels: str) -> str:
    return f"{task:<38} {horizon:>7} {segment:>7} {fps:>4}  {camera:<12}  {labels}".rstrip()
