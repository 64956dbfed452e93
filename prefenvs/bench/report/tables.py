"""Tables in words: what stands in a report, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.bench.report.scores import FLOOR, Entry, Scores
from prefenvs.bench.report.statistics import (
    FEWEST,
    Estimate,
    interquartile_mean,
    interquartile_means,
    mean_difference,
    probability_of_improvement,
)
from prefenvs.bench.runner.progress import duration
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

if TYPE_CHECKING:
    import pandas as pd

MISSING = "missing"
NOT_ASKED = "–"
"""Stands where the suite has no such cell."""
HOW = f"(each seed's value, or of more than five their range) [95% bootstrap interval, from {FEWEST} seeds on]"
"""How a table writes what several seeds gave."""


@dataclass(frozen=True)
class Table:
    """Rows of texts under named columns, with a title and a note on how to read them."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Write as GitHub's Markdown."""
        lines = [f"### {self.title}", ""] + ([self.note, ""] if self.note else [])
        rows = (self.columns, ("---",) * len(self.columns), *self.rows)
        lines += ["| " + " | ".join(text.replace("|", "\\|") for text in row) + " |" for row in rows]
        return "\n".join(lines) + "\n"

    @property
    def anchor(self) -> str:
        """The title as a place to link to."""
        return _anchor(self.title)

    def latex(self, suite: str = "") -> str:
        """Write as a LaTeX table that fits a column, or both columns from five on; needs booktabs and tabularx."""
        kind = "table*" if len(self.columns) > 4 else "table"
        first, *others = self.columns
        shares = rf"*{{{len(others)}}}{{>{{\raggedleft\arraybackslash}}X}}" if others else ""
        caption = f"{self.title}. {self.note}" if self.note else self.title
        body = [" & ".join(map(_latex, row)) + r" \\" for row in self.rows]
        return "\n".join(
            [
                rf"\begin{{{kind}}}",
                rf"\caption{{{_latex(caption)}}}",
                rf"\label{{tab:{'-'.join(filter(None, (_anchor(suite), self.anchor)))}}}",
                r"\scriptsize\setlength{\tabcolsep}{3pt}",
                rf"\begin{{tabularx}}{{\linewidth}}{{>{{\raggedright\arraybackslash}}X{shares}}}",
                r"\toprule",
                " & ".join(map(_latex, (first, *others))) + r" \\",
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabularx}",
                rf"\end{{{kind}}}",
                "",
            ]
        )


def score_table(scores: Scores, resamples: int = 2_000) -> Table:
    """Every method on every task by the task's own measure, and the aggregate of normalised scores."""
    rows = []
    # Without random actions in the suite nothing is normalised.
    normalised = any(entry.method == FLOOR for entry in scores.entries)
    for entry in scores.entries:
        texts = [_score(scores, entry, task, resamples) for task in scores.tasks]
        rows.append((scores.label(entry), *texts, *([_aggregate(scores, entry, resamples)] if normalised else [])))
    names = [
        f"{task} ({'success' if scores.suite['measures'][task] == 'success' else 'return'})" for task in scores.tasks
    ]
    return Table(
        "Scores at the end of training",
        ("method", *names, *(["normalised, all tasks"] if normalised else [])),
        tuple(rows),
        f"The last evaluation of each run, never the best. Interquartile mean over seeds {HOW}. Normalised: 0 is "
        "random actions, 1 the agent of the same stack on the true reward, unless a row beats it there. An aggregate "
        "takes the seeds that all its tasks have, and names the number of tasks where it has not all of them. A "
        "dash: no such cell in the suite." + "".join(f" {sentence}" for sentence in scores.beaten_bounds.values()),
    )


def return_table(scores: Scores, against: str | None = None, resamples: int = 2_000) -> Table:
    """Mean true return of every method on every task; with `against`, what it is above that method's.

    Raises PrefenvsError if the results have no method `against`.
    """
    base: Entry | None = None
    if against is not None:
        base = next((entry for entry in scores.entries if entry.method == against), None)
        if base is None:
            known = ", ".join(dict.fromkeys(entry.method for entry in scores.entries))
            raise PrefenvsError(f"the results have no method {against!r} to compare with: there are {known}")
    rows = []
    for entry in scores.entries:
        if entry != base:
            texts = [_return(scores, entry, base, task, resamples) for task in scores.tasks]
            rows.append((scores.label(entry), *texts))
    above = "" if base is None else f", above {scores.label(base)}"
    return Table(
        f"True return at the end of training{above}",
        ("method", *scores.tasks),
        tuple(row for row in rows if base is None or set(row[1:]) != {NOT_ASKED}),
        f"The last evaluation of each run. Mean over seeds {HOW}."
        + (" The figures are differences: of means, and of all pairs of seeds." if base is not None else ""),
    )


def seeds_table(scores: Scores) -> Table:
    """The last score of every run: a row for each method and task, a column for each seed."""
    seeds = sorted(int(seed) for seed in scores.cells["seed"].unique())
    rows = []
    for task in scores.tasks:
        measure = scores.suite["measures"][task]
        for entry in scores.entries:
            values, asked = scores.by_seed(entry, task), {int(seed) for seed in scores.of(entry, task)["seed"]}
            texts = [
                show(values[seed], measure) if seed in values else MISSING if seed in asked else NOT_ASKED
                for seed in seeds
            ]
            if asked:
                mean = sum(values.values()) / len(values) if values else math.nan
                rows.append((scores.label(entry), task, *texts, show(mean, measure)))
    return Table(
        "Every seed",
        ("method", "task", *map(str, seeds), "mean"),
        tuple(rows),
        "The last evaluation of each run by the task's own measure, by seed.",
    )


def best_table(scores: Scores) -> Table:
    """The best evaluation of each run beside the last one: how much a choice by the true return would flatter."""
    rows = []
    for entry in scores.entries:
        for task in scores.tasks:
            last, best = scores.runs(entry, task), scores.runs(entry, task, "best")
            if len(last):
                measure = scores.suite["measures"][task]
                texts = [_spread(show(interquartile_mean(values), measure), values, measure) for values in (last, best)]
                rows.append((scores.label(entry), task, *texts))
    return Table(
        "Last and best evaluation",
        ("method", "task", "last", "best"),
        tuple(rows),
        "Interquartile means over seeds. Choosing the best evaluation needs the true return, which a learner from "
        "preferences does not have; it is shown because papers report it.",
    )


def improvement_table(scores: Scores, resamples: int = 500) -> Table:
    """Probability that the row's method beats the column's, on the tasks that both have."""
    entries = [entry for entry in scores.entries if entry.method != FLOOR and scores.scored_tasks(entry)]
    rows = []
    for first in entries:
        texts = [scores.label(first)]
        for second in entries:
            common = [task for task in scores.scored_tasks(first) if task in scores.scored_tasks(second)]
            if first == second or not common:
                texts.append("" if first == second else NOT_ASKED)
                continue
            ours, theirs = (scores.matrix(entry, common) for entry in (first, second))
            if not (len(ours) and len(theirs)):
                texts.append(MISSING)
                continue
            estimate = probability_of_improvement(ours, theirs, resamples)
            few = min(len(ours), len(theirs)) < FEWEST
            text = show(estimate.value, "share") if few else _interval(estimate, "share")
            texts.append(f"{text} ({len(ours)} against {len(theirs)} seeds)")
        rows.append(tuple(texts))
    return Table(
        "Probability of improvement",
        ("row beats column", *(scores.label(entry) for entry in entries)),
        tuple(rows),
        "Over the tasks that both have, by normalised score [95% bootstrap interval, from "
        f"{FEWEST} seeds of each on]; ties count one half; dash: no common task.",
    )


def reward_table(scores: Scores) -> Table:
    """How good the learned rewards are, and whether policies earned by them what they did not truly earn."""
    rows = []
    for entry in scores.entries:
        for task in scores.tasks:
            cells = scores.of(entry, task)
            if not cells["accuracy"].notna().any():
                continue
            formats = {"accuracy": "percent", "correlation": "share", "starc": "share", "normalised": "share"}
            texts = [
                _spread(show(_mean(cells[name]), measure), cells[name].dropna().to_numpy(float), measure)
                for name, measure in formats.items()
            ]
            rows.append((scores.label(entry), task, *texts, str(int(cells["accuracy"].notna().sum()))))
    return Table(
        "Learned rewards",
        ("method", "task", "held-out accuracy", "rank correlation", "STARC distance", "normalised true score", "runs"),
        tuple(rows),
        "On new episodes, half by the trained policy and half at random. Accuracy: share of pairs of segments ordered "
        "as the true return orders them. STARC: 0 is an equivalent reward, 0.5 a constant one, 0.71 an "
        "unrelated one, 1 the opposite.",
    )


def cost_table(scores: Scores) -> Table:
    """What a run costs."""
    rows = []
    for entry in scores.entries:
        for task in scores.tasks:
            cells = scores.of(entry, task)
            cells = cells[cells["status"] == "finished"]
            if not len(cells):
                continue
            rows.append(
                (
                    scores.label(entry),
                    task,
                    f"{_mean(cells['steps']):,.0f}",
                    f"{_mean(cells['labels']):,.0f}" if cells["labels"].notna().any() else MISSING,
                    duration(_mean(cells["wall_seconds"])),
                    duration(_mean(cells["cpu_seconds"])),
                    f"{cells['peak_gb'].max():.2f}",
                    str(len(cells)),
                )
            )
    return Table(
        "Cost of one run",
        ("method", "task", "steps", "labels", "wall-clock", "CPU time", "memory (GB)", "runs"),
        tuple(rows),
        "Means over finished runs, evaluations and the judging of the reward model included. Steps are environment "
        "steps online and gradient steps offline. Wall-clock times of runs side by side disturb each other.",
    )


def missing_table(scores: Scores) -> Table:
    """Cells that failed or were not measured, and the seeds that were not run yet of each method on each task."""
    cells = scores.cells[scores.cells["status"] != "finished"]
    failed = cells[cells["reason"] != ""]
    rows = [(str(name), "", f"{row['status']}: {row['reason'].splitlines()[0]}") for name, row in failed.iterrows()]
    silent = scores.cells[(scores.cells["status"] == "finished") & scores.cells["final"].isna()]
    rows += [
        (str(name), "", f"finished, but its last evaluation tells no {row['measure'].replace('_', ' ')}")
        for name, row in silent.iterrows()
    ]
    for entry in scores.entries:
        for task in scores.suite_tasks:
            waiting = scores.of(entry, task).index.intersection(cells[cells["reason"] == ""].index)
            seeds = ", ".join(str(int(seed)) for seed in sorted(cells.loc[waiting, "seed"]))
            if seeds:
                rows.append((scores.label(entry), task, f"not run yet: {seeds}"))
    return Table("Runs without a result", ("run or method", "task", "seeds, or why"), tuple(rows))


def long_csv(scores: Scores, resamples: int = 2_000) -> str:
    """One line for each method and task, with plain numbers, for other programs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ("method", "title", "oracle", "labels", "task", "measure", "seeds", "expected", "iqm", "low", "high")
    writer.writerow((*names, "min", "max", "mean", "std", "best_iqm", "normalised_iqm", "wall_seconds", "cpu_seconds"))
    for entry in scores.entries:
        for task in scores.tasks:
            cells, values = scores.of(entry, task), scores.runs(entry, task)
            if not len(cells):
                continue
            estimate = _estimate(values, resamples)
            if len(values) < FEWEST:
                estimate = Estimate(estimate.value, math.nan, math.nan)
            row = (entry.method, scores.method(entry)["title"], entry.oracle, int(cells["budget"].iloc[0]), task)
            figures = (
                *estimate,
                values.min() if len(values) else math.nan,
                values.max() if len(values) else math.nan,
                values.mean() if len(values) else math.nan,
                values.std(ddof=1) if len(values) > 1 else math.nan,
                interquartile_mean(scores.runs(entry, task, "best")),
                interquartile_mean(scores.runs(entry, task, "normalised")),
                _mean(cells["wall_seconds"]),
                _mean(cells["cpu_seconds"]),
            )
            measure = scores.suite["measures"][task]
            texts = ["" if math.isnan(figure) else f"{figure:.6g}" for figure in figures]
            writer.writerow((*row, measure, len(values), len(cells), *texts))
    return out.getvalue()


def show(value: float, measure: str) -> str:
    """Write one figure: success and accuracy in percent, shares with two digits, returns with three or more."""
    if math.isnan(value):
        return MISSING
    if measure in ("success", "percent"):
        return f"{value:.0%}"
    if measure == "share":
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.1f}"


def _score(scores: Scores, entry: Entry, task: str, resamples: int) -> str:
    cells, values = scores.of(entry, task), scores.runs(entry, task)
    if not len(cells):
        return NOT_ASKED
    if not len(values):
        return MISSING
    text = _with_seeds(_estimate(values, resamples), values, scores.suite["measures"][task])
    if len(values) == 1 and scores.method(entry)["upper"]:
        text += " (a single seed)"
    elif len(values) < len(cells):
        text += f" ({len(values)} of {len(cells)} seeds)"
    beaten = (task, entry.method) in scores.beaten_bounds
    return f"{text}, beaten: no upper bound" if beaten else text


def _return(scores: Scores, entry: Entry, base: Entry | None, task: str, resamples: int) -> str:
    values = scores.runs(entry, task, "mean_return")
    others = None if base is None else scores.runs(base, task, "mean_return")
    if not len(values) or (others is not None and not len(others)):
        asked = len(scores.of(entry, task)) and (base is None or len(scores.of(base, task)))
        return MISSING if asked else NOT_ASKED
    estimate = mean_difference(values, others, resamples)
    if others is None:
        return _with_seeds(estimate, values, "return")
    pairs = np.subtract.outer(values, others).ravel()
    few = min(len(values), len(others)) < FEWEST
    text = show(estimate.value, "return") if few else _interval(estimate, "return")
    ends = f": {show(pairs.min(), 'return')} to {show(pairs.max(), 'return')}" if len(pairs) > 1 else ""
    return f"{text} ({len(values)} against {len(others)} seeds{ends})"


def _aggregate(scores: Scores, entry: Entry, resamples: int) -> str:
    if entry.method == FLOOR:
        return "0.00 by definition"
    tasks = scores.scored_tasks(entry)
    matrix = scores.matrix(entry, tasks)
    if not matrix.size:
        return MISSING
    text = _with_seeds(_estimate(matrix, resamples), np.array([interquartile_mean(run) for run in matrix]), "share")
    single = ", a single seed" if len(matrix) == 1 else ""
    return text + (
        f" ({len(tasks)} of {len(scores.tasks)} tasks{single})" if len(tasks) < len(scores.tasks) else single
    )


def _estimate(values: Array, resamples: int) -> Estimate:
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    matrix = values[:, None] if values.ndim == 1 else values
    return interquartile_means({"one": matrix}, resamples)["one"]


def _interval(estimate: Estimate, measure: str) -> str:
    value = show(estimate.value, measure)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{show(estimate.low, measure)}, {show(estimate.high, measure)}]"


def _with_seeds(estimate: Estimate, values: Array, measure: str) -> str:
    """Write a figure of seeds' values [N], its interval if there are enough of them, and the values or their range."""
    few = len(values) < FEWEST
    return _spread(show(estimate.value, measure) if few else _interval(estimate, measure), values, measure)


def _spread(text: str, values: Array, measure: str) -> str:
    """Add to a figure the seeds' values that it is made of, or of more than five their number and range."""
    if len(values) < 2:
        return text
    each = ", ".join(show(value, measure) for value in values)
    if len(values) > 5:
        each = f"{show(values.min(), measure)} to {show(values.max(), measure)}"
    return f"{text} ({len(values)} seeds: {each})"


def _mean(values: pd.Series[Any]) -> float:
    array = np.asarray(values, float)
    array = array[~np.isnan(array)]
    return float(array.mean()) if len(array) else math.nan


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _latex(text: str) -> str:
    escaped = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
    # LaTeX's default fonts have other signs in these places.
    escaped |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
    return "".join(escaped.get(letter, f"\\{letter}" if letter in "&%_#{}$" else letter) for letter in text)
