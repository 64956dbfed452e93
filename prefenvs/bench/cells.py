"""A cell of a benchmark: one run, with the data and the limits that it has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Option = str | int | float | bool | list[int]
Options = Mapping[str, Option]


@dataclass(frozen=True)
class Limits:
    """What one cell may take: wall-clock seconds in all its attempts' longest, and gigabytes of resident memory."""

    seconds: float = 48 * 3600.0
    memory_gb: float = 32.0


@dataclass(frozen=True)
class Data:
    """A data set that cells share; it is made once, before the first of them.

    commands: command lines after the word `prefenvs`, in which {data} is the folder to be made. An empty tuple stands
    for data that are loaded by name and need no making.
    """

    name: str
    commands: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Cell:
    """One run: a method on a task, taught by a rater within a label budget, from one seed.

    oracle: the rater's name, "none" for methods that ask nobody; labels: 0 for those. options: further options of the
    method's command line. dataset: what methods that learn from fixed data get as --dataset; in it and in options,
    {data} is the folder of `data`.
    """

    method: str
    task: str
    oracle: str = "none"
    labels: int = 0
    seed: int = 0
    options: Options = field(default_factory=dict)
    dataset: str = ""
    data: Data | None = None
    limits: Limits = Limits()

    @property
    def problem(self) -> str:
        """Column of a table: the data set where that has a name of its own, else the task."""
        return self.task if "{data}" in self.dataset or not self.dataset else self.dataset.partition("/")[2]

    @property
    def name(self) -> str:
        """Name of the cell's folder: unique in a suite, and safe in any file system."""
        parts = (self.problem, self.method, f"{self.oracle}-{self.labels}", str(self.seed))
        return "--".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part) for part in parts)

    @property
    def definition(self) -> dict[str, Any]:
        """All that decides the result, as JSON holds it; limits do not."""
        return {name: value for name, value in asdict(self).items() if name != "limits"}
