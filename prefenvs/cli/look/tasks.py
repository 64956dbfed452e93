"""`prefenvs tasks`."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path

from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task, list_tasks
from prefenvs.tasks.files import write_task

WIDTH = 100
"""Columns that the table fits into, on a terminal and in a file alike."""


@dataclass(frozen=True)
class Tasks:
    """List the tasks: horizon, default segment length, camera, and the sentence that raters read."""

    family: str | None = None
    """Only this family: gymnasium_mujoco, classic_control, dm_control, metaworld, robotics, gridworld or poses."""
    json: bool = False
    """Print a JSON list instead of a table."""
    task: str | None = None
    """Show one task, an environment of your own among them, as its row was inferred."""
    write: Path | None = None
    """Write that row to this .json file, to edit it: the file's name is then the task's, `--task reach.json`."""

    def run(self) -> None:
        """Print the table. Raises PrefenvsError for an unknown family or task."""
        if self.task is not None or self.write is not None:
            self._show_one()
            return
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

    def _show_one(self) -> None:
        if self.task is None:
            raise PrefenvsError("--write needs the task whose row is to be written: --task NAME")
        task = find_task(self.task)
        if self.write is None:
            print(json.dumps(asdict(task), default=dict, indent=1))
        else:
            print(f"{write_task(task, self.write)}: edit it, and name it as the task: --task {self.write}")


def _row(task: str, horizon: object, segment: object, fps: object, camera: str, labels: str) -> str:
    return f"{task:<38} {horizon:>7} {segment:>7} {fps:>4}  {camera:<12}  {labels}".rstrip()
