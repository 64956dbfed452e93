"""Suites as plain data: which methods meet which tasks, with which rater, how many labels, and from which seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prefenvs.bench.cells import Cell, Data, Limits, Options
from prefenvs.bench.methods import Method, find_method
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task

MEASURES = {"success": "success", "return": "mean_return", "d4rl": "normalised_score"}


@dataclass(frozen=True)
class Grid:
    """Every combination of its methods, tasks, raters, budgets and seeds.

    options: for all its cells; method_options: by method's name, laid over them. Methods that ask no rater get one cell
    for each task and seed, whatever the raters and budgets; those without chance in training, one for each task.
    priority: cells of lower numbers are run first.
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
    limits: Limits = field(default_factory=Limits)
    priority: int = 0

    def __post_init__(self) -> None:
        """Raise a PrefenvsError where one thing stands for several: a text would be taken by its letters."""
        for name in ("methods", "tasks", "oracles", "labels", "seeds"):
            value = getattr(self, name)
            if isinstance(value, str | int):
                raise PrefenvsError(f"{name} of a grid are several: write {name}=({value!r},) for {value!r} alone")

    def cells(self) -> Iterator[Cell]:
        """Yield the combinations; raises a PrefenvsError for an unknown method."""
        changes = {find_method(name).name: options for name, options in self.method_options.items()}
        for task in self.tasks:
            for name in self.methods:
                method = find_method(name)
                oracles = (method.rater,) if method.rater else self.oracles
                teachers = [(oracle, labels) for oracle in oracles for labels in self.labels]
                for oracle, labels in teachers if method.asks else [("none", 0)]:
                    for seed in self.seeds if method.seeded else self.seeds[:1]:
                        yield self._cell(method, task, oracle, labels, seed, changes.get(method.name, {}))

    def _cell(self, method: Method, task: str, oracle: str, labels: int, seed: int, changes: Options) -> Cell:
        options = method.accepted(self.options) | dict(changes)
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
        """Return all cells in the order in which they are run: by priority, then by seed, so that a part is useful.

        A cell that several grids hold counts once. Raises a PrefenvsError for an unknown method or task, and for two
        cells that differ in their options only, which would share a folder.
        """
        found: dict[str, Cell] = {}
        order: dict[str, tuple[int, int, int]] = {}
        for grid in self.grids:
            for task in grid.tasks:
                find_task(task)
            for cell in grid.cells():
                twin = found.setdefault(cell.name, cell)
                order.setdefault(cell.name, (grid.priority, cell.seed, len(order)))
                if twin is not cell and twin.definition != cell.definition:
                    raise PrefenvsError(
                        f"suite {self.name!r} defines the cell {cell.name} twice with different options: "
                        "give one of them a method of another name"
                    )
        return sorted(found.values(), key=lambda cell: order[cell.name])

    def measure_of(self, cell: Cell) -> str:
        """Return the column of results by which a cell's problem is judged."""
        if self.measure is not None:
            if self.measure not in MEASURES:
                raise PrefenvsError(
                    f"the suite {self.name!r} has no measure {self.measure!r}: choose {', '.join(MEASURES)}, or None"
                )
            return MEASURES[self.measure]
        return "success" if find_task(cell.task).success_key else "mean_return"
