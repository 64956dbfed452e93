"""Suites as plain data: which methods meet which tasks, with which rater, how many labels, and from which seeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prefenvs.bench.methods import Method, find_method
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task

Option = str | int | float | bool
Options = Mapping[str, Option]

MEASURES = {"success": "success", "return": "mean_return", "d4rl": "normalised_score"}


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


@dataclass(frozen=True)
class Grid:
    """Every combination of its methods, tasks, raters, budgets and seeds.

    options: for all its cells; method_options: by method's name, laid over them. Methods that ask no rater get one cell
    for each task and seed, whatever the raters and budgets; those without chance in training, one for each task.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    oracles: tuple[str, ...] = ("oracle",)
    labels: tuple[int, ...] = (500,)
    seeds: tuple[int, ...] = (0, 1, 2)
    options: Options = field(default_factory=dict)
    method_options: Mapping[str, Options] = field(default_factory=dict)
    dataset: str = ""
    data: Data | None = None
    limits: Limits = Limits()

    def cells(self) -> Iterator[Cell]:
        """Yield the combinations."""
        for task in self.tasks:
            for name in self.methods:
                method = find_method(name)
                teachers = [(oracle, labels) for oracle in self.oracles for labels in self.labels]
                for oracle, labels in teachers if method.asks else [("none", 0)]:
                    for seed in self.seeds if method.seeded else self.seeds[:1]:
                        yield self._cell(method, task, oracle, labels, seed)

    def _cell(self, method: Method, task: str, oracle: str, labels: int, seed: int) -> Cell:
        options = method.accepted(self.options) | dict(self.method_options.get(method.name, {}))
        data = self.data if method.offline else None
        return Cell(method.name, task, oracle, labels, seed, options, self.dataset, data, self.limits)


@dataclass(frozen=True)
class Suite:
    """A named benchmark.

    sentence: what it compares; reduced: how its sizes differ from the published ones, empty if they do not; measure:
    "success", "return" or "d4rl" (D4RL's normalised score), or None for success where a task tells it and the return
    elsewhere; published: name under
    which published.csv holds figures to set beside ours.
    """

    name: str
    sentence: str
    grids: tuple[Grid, ...]
    reduced: str = ""
    measure: str | None = None
    published: str = ""

    def cells(self) -> list[Cell]:
        """Return all cells in the order in which they are run: first every task's first seed.

        A cell that several grids hold counts once. Raises a PrefenvsError for an unknown method or task, and for two
        cells that differ in their options only, which would share a folder.
        """
        found: dict[str, Cell] = {}
        for grid in self.grids:
            for task in grid.tasks:
                find_task(task)
            for cell in grid.cells():
                twin = found.setdefault(cell.name, cell)
                if twin is not cell and twin.definition != cell.definition:
                    raise PrefenvsError(
                        f"suite {self.name!r} defines the cell {cell.name} twice with different options: "
                        "give one of them a method of another name"
                    )
        order = {name: number for number, name in enumerate(found)}
        return sorted(found.values(), key=lambda cell: (cell.seed, order[cell.name]))

    def measure_of(self, cell: Cell) -> str:
        """Return the column of results by which a cell's problem is judged."""
        if self.measure is not None:
            return MEASURES[self.measure]
        return "success" if find_task(cell.task).success_key else "mean_return"
