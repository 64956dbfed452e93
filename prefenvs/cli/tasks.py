"""`prefenvs tasks`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Column, Table

from prefenvs.tasks import list_tasks


@dataclass(frozen=True)
class Tasks:
    """List the tasks: horizon, default segment length, camera, and the sentence that raters read."""

    family: str | None = None
    """Only this family: gymnasium_mujoco, classic_control, dm_control, metaworld, robotics, gridworld or poses."""
    json: bool = False
    """Print a JSON list instead of a table."""

    def run(self) -> None:
        """Print the table."""
        tasks = list_tasks(self.family)
        if self.json:
            print(json.dumps([asdict(task) for task in tasks], default=dict, indent=1))
            return
        table = Table(Column("task", no_wrap=True), "horizon", "segment", "fps", "camera", "labels", "sentence")
        for task in tasks:
            labels = " / ".join(str(budget.labels) for budget in task.budgets)
            camera = task.camera.name or (f"tracks {task.camera.track}" if task.camera.track else "free")
            table.add_row(
                task.id, str(task.horizon), str(task.segment_length), str(task.fps), camera, labels, task.sentence
            )
        Console().print(table)
        print(f"{len(tasks)} tasks")
