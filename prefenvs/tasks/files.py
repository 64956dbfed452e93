"""Task rows in files: written once, edited by hand, and named by their path wherever a task is named."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.tasks.task import Camera, LabelBudget, Task

ENDING = ".json"


def write_task(task: Task, path: str | Path) -> Path:
    """Write a row as JSON, a line for each field; the file's path then names the task, as `reach.json` does.

    Raises PrefenvsError for an environment that no other process could make again.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise PrefenvsError(f"{path}: a task is written to a file whose name ends in {ENDING}")
    if not task.source:
        raise PrefenvsError(
            f"task {task.id!r} was given as an object, and nothing tells how to make it again: name its class as "
            "module:NAME"
        )
    fields = dataclasses.asdict(task)
    del fields["id"]
    try:
        path.write_text(json.dumps(fields, indent=1, default=dict) + "\n")
    except (TypeError, ValueError) as error:
        raise PrefenvsError(
            f"task {task.id!r} cannot be written, since its kwargs hold no plain values: {error}"
        ) from None
    return path


def read_task(path: Path) -> Task:
    """Return the row that a file holds; fields that it lacks have their defaults.

    Raises PrefenvsError where it is missing, is not JSON, or holds a field that no task has or a value of another type.
    """
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        raise PrefenvsError(
            f"there is no task file {path}: `prefenvs tasks --task NAME --write {path}` writes one"
        ) from None
    except OSError as error:
        raise PrefenvsError(f"the task file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise PrefenvsError(f"the task file {path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise PrefenvsError(f"the task file {path} holds no object of fields, as `prefenvs tasks --write` writes one")
    known = {field.name: field for field in dataclasses.fields(Task) if field.name != "id"}
    for name in fields:
        if name not in known:
            raise PrefenvsError(
                f"the task file {path} has the field {name!r}, which no task has.{near_matches(name, known)}"
            )
    for name, kinds in KINDS.items():
        if name in fields and type(fields[name]) is not kinds:
            raise PrefenvsError(f"the task file {path} has {name}={fields[name]!r}, which is no {kinds.__name__}")
    for name in ("family", "sentence", "horizon", "segment_length", "fps", "source"):
        if name not in fields:
            raise PrefenvsError(f"the task file {path} lacks the field {name!r}")
    try:
        made: dict[str, Any] = _tuples(fields)
        made["camera"] = Camera(**_tuples(fields.get("camera", {})))
        made["budgets"] = tuple(LabelBudget(**budget) for budget in fields.get("budgets", ()))
        return Task(path.as_posix(), **made)
    except TypeError as error:
        raise PrefenvsError(f"the task file {path} cannot be read: {error}") from None


KINDS = {
    "family": str,
    "sentence": str,
    "horizon": int,
    "segment_length": int,
    "fps": int,
    "repeat": int,
    "source": str,
    "kwargs": dict,
    "has_reward": bool,
    "domain": str,
    "camera": dict,
    "scene": list,
    "budgets": list,
    "goal": list,
    "baseline": list,
}


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
