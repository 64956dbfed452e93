"""From results to scores: the last evaluation of every cell, placed between random actions and the true reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.bench.results import Results
from prefenvs.segments import Array

if TYPE_CHECKING:
    import pandas as pd

FLOOR = "random"
"""The method that stands for 0."""


@dataclass(frozen=True, order=True)
class Entry:
    """A row of a table: a method with a rater and a budget.

    level: 0 for a task's smallest budget, 1 for the next one, ..., since tasks differ in how many labels they need.
    """

    method: str
    oracle: str
    level: int


@dataclass(frozen=True, eq=False)
class Scores:
    """What tables are made of, derived from results."""

    results: Results

    @property
    def suite(self) -> dict[str, Any]:
        """The suite's description."""
        return self.results.suite

    @cached_property
    def suite_tasks(self) -> list[str]:
        """The suite's tasks in its order."""
        return list(dict.fromkeys(self.results.frame["task"]))

    @cached_property
    def tasks(self) -> list[str]:
        """Those of them on which a run has finished."""
        begun = set(self.results.finished["task"])
        return [task for task in self.suite_tasks if task in begun]

    @cached_property
    def entries(self) -> list[Entry]:
        """Methods, with rater and budget, in the suite's order; upper bounds and random actions last."""
        frame = self.results.frame
        triples = zip(frame["method"], frame["oracle"], self.levels, strict=True)
        found = dict.fromkeys(Entry(method, oracle, int(level)) for method, oracle, level in triples)
        return sorted(found, key=lambda entry: (entry.method == FLOOR, self.method(entry)["upper_bound"]))

    @cached_property
    def levels(self) -> pd.Series[int]:
        """Each row's budget as its rank among those of the same task, method and rater."""
        budgets = self.results.frame.groupby(["task", "method", "oracle"], sort=False)["budget"]
        return budgets.rank(method="dense").astype(int) - 1

    def method(self, entry: Entry) -> dict[str, Any]:
        """Title, upper, upper_bound, asks and offline of an entry's method."""
        described: dict[str, Any] = self.suite["methods"][entry.method]
        return described

    def label(self, entry: Entry) -> str:
        """How tables call an entry: its rater is named where there are several."""
        title = str(self.method(entry)["title"])
        if not self.method(entry)["asks"]:
            return title
        oracles = {other.oracle for other in self.entries if self.method(other)["asks"]}
        # Where the rater is an expert made with the data, its folder tells nothing.
        teacher = f", {entry.oracle.partition(':{data}')[0]}" if len(oracles) > 1 else ""
        cells = self.of(entry)
        shown = cells[cells["task"].isin(self.tasks)]
        budgets = sorted({int(budget) for budget in (shown if len(shown) else cells)["budget"]})
        labels = " to ".join(f"{budget:,}" for budget in dict.fromkeys((budgets[0], budgets[-1])))
        return f"{title} ({labels} labels{teacher})"

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row for each cell: `final`, the last evaluation by the task's measure, `best`, the greatest, and more.

        Beside the columns of the results: measure; curve, the mean of the whole learning curve over its steps, which
        are those from begin to end;
        unlabelled, the last evaluation before any label, NaN where there is none; normalised and normalised_best, 0 for
        random actions and 1 for the agent of the same stack on the true reward (NaN where one of these is missing or
        the second is not above the first, or where a row that it should bound is above it); all but measure are NaN for
        cells that have not finished.
        """
        frame = self.results.frame
        last = frame.assign(level=self.levels).groupby("cell", sort=False).tail(1).set_index("cell")
        last["measure"] = [self.suite["measures"][task] for task in last["task"]]
        values = np.array(
            [frame[measure].to_numpy()[i] for i, measure in enumerate(frame["task"].map(self.suite["measures"]))]
        )
        measured = frame.assign(value=values)
        last["final"] = [row[row["measure"]] for _, row in last.iterrows()]
        last["best"] = measured.groupby("cell", sort=False)["value"].max().reindex(last.index)
        curves = {name: _curve_mean(run) for name, run in measured.groupby("cell", sort=False)}
        last["curve"] = [curves[name] for name in last.index]
        steps = measured[measured["value"].notna()].groupby("cell", sort=False)["steps"]
        last["begin"], last["end"] = steps.min().reindex(last.index), steps.max().reindex(last.index)
        before = measured[measured["labels"] == 0].groupby("cell", sort=False)["value"].last()
        last["unlabelled"] = before.reindex(last.index)
        finished = last["status"] == "finished"
        last.loc[~finished, ["final", "best", "curve", "unlabelled"]] = math.nan
        scale = [self.ends(row["task"], row["method"], last) for _, row in last.iterrows()]
        for name, source in (("normalised", "final"), ("normalised_best", "best")):
            last[name] = [_place(value, *ends) for value, ends in zip(last[source].to_numpy(float), scale, strict=True)]
        return last

    def ends(self, task: str, method: str, cells: pd.DataFrame | None = None) -> tuple[float, float]:
        """Return what 0 and 1 stand for: mean final scores of random actions, and of the method's upper bound.

        The second is NaN where it does not bound: where another method that it should bound does better.
        """
        cells = self.cells if cells is None else cells
        here = cells[cells["task"] == task]
        upper = self._upper(method, task)
        floor = float(here.loc[here["method"] == FLOOR, "final"].mean())
        top = float(here.loc[here["method"] == upper, "final"].mean())
        return floor, math.nan if self._beating(task, upper, cells) else top

    def _upper(self, method: str, task: str) -> str:
        """Return the method on the true reward by which a method is normalised on a task.

        Where its own has not been run there, this is the one that bounds label lift, after the same exploration.
        """
        methods = self.suite["methods"]
        upper: str = methods[method]["upper"]
        frame = self.results.frame
        if ((frame["method"] == upper) & (frame["task"] == task)).any():
            return upper
        explored = {one["upper"]: str(one["bound"]) for one in methods.values() if one.get("bound")}
        return explored.get(upper, upper)

    def _beating(self, task: str, upper: str, cells: pd.DataFrame) -> dict[Entry, float]:
        """Return the mean final scores of entries, of those measured by an upper bound, that are above its own."""
        here = cells[cells["task"] == task]
        top = float(here.loc[here["method"] == upper, "final"].mean())
        ours = here[[bool(upper) and self._upper(name, task) == upper for name in here["method"]]]
        means = ours.groupby(["method", "oracle", "level"], sort=False)["final"].mean().reset_index()
        found = {Entry(row["method"], row["oracle"], int(row["level"])): row["final"] for _, row in means.iterrows()}
        return {entry: float(mean) for entry, mean in found.items() if entry.method != upper and mean > top}

    @cached_property
    def beaten_bounds(self) -> dict[tuple[str, str], str]:
        """A sentence for each task and upper bound that another row beats, so that nothing is normalised by it."""
        found = {}
        for task in self.tasks:
            for name, described in self.suite["methods"].items():
                beating = self._beating(task, name, self.cells) if described["upper_bound"] else {}
                if beating:
                    best = max(beating, key=lambda entry: beating[entry])
                    here = self.cells[(self.cells["task"] == task) & (self.cells["method"] == name)]
                    found[task, name] = (
                        f"{described['title']} does worse on {task} (mean {here['final'].mean():.4g}) than "
                        f"{self.label(best)} ({beating[best]:.4g}): it bounds nothing, and nothing there is normalised "
                        "by it."
                    )
        return found

    def of(self, entry: Entry, task: str | None = None) -> pd.DataFrame:
        """Return the cells of an entry, on one task or all."""
        cells = self.cells
        chosen = (cells["method"] == entry.method) & (cells["oracle"] == entry.oracle)
        chosen &= cells["level"] == entry.level
        return cells[chosen if task is None else chosen & (cells["task"] == task)]

    def by_seed(self, entry: Entry, task: str, column: str = "final") -> dict[int, float]:
        """Return one figure of an entry's finished cells on a task by their seeds, without NaN."""
        cells = self.of(entry, task)
        figures = zip(cells["seed"], cells[column].to_numpy(float), strict=True)
        return {int(seed): float(value) for seed, value in figures if not math.isnan(value)}

    def runs(self, entry: Entry, task: str, column: str = "final") -> Array:
        """Return one figure of an entry's finished cells on a task, [runs], without NaN."""
        values: Array = self.of(entry, task)[column].to_numpy(float)
        kept: Array = values[~np.isnan(values)]
        return kept

    def matrix(self, entry: Entry, tasks: list[str]) -> Array:
        """Return normalised scores [runs, tasks] of the seeds that all these tasks have."""
        columns = [self.by_seed(entry, task, "normalised") for task in tasks]
        seeds = [seed for seed in columns[0] if all(seed in scores for scores in columns)] if columns else []
        return np.array([[scores[seed] for scores in columns] for seed in seeds]).reshape(len(seeds), len(tasks))

    def scored_tasks(self, entry: Entry) -> list[str]:
        """Tasks on which an entry has at least one normalised score."""
        return [task for task in self.tasks if len(self.runs(entry, task, "normalised"))]


def _curve_mean(run: pd.DataFrame) -> float:
    """Return the mean of `value` over `steps`, linear between evaluations; of a single evaluation its value."""
    known = run[run["value"].notna()].sort_values("steps")
    steps, values = known["steps"].to_numpy(float), known["value"].to_numpy(float)
    if len(values) < 2 or steps[-1] == steps[0]:
        return float(values[-1]) if len(values) else math.nan
    return float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))


def _place(value: float, floor: float, upper: float) -> float:
    return (value - floor) / (upper - floor) if upper > floor else math.nan
