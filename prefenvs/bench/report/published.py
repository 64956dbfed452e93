"""Published figures, with their source and what differs from ours, to be set beside a suite's own."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from prefenvs.bench.report.scores import Entry, Scores
from prefenvs.bench.report.statistics import interquartile_mean
from prefenvs.bench.report.tables import MISSING, Table


class Figure(NamedTuple):
    """A published figure: of which method (ours that corresponds, and its own name) on which task or data set.

    labels: how it was taught; spread: standard deviation over seeds, empty where none was given; differs: what keeps it
    from being compared with ours directly; checked: whether it was copied from the source, "no" for figures from
    secondary notes, which have to be looked up before they are quoted.
    """

    suite: str
    method: str
    published_as: str
    task: str
    labels: str
    measure: str
    value: str
    spread: str
    seeds: str
    source: str
    differs: str
    checked: str


@cache
def published_figures() -> tuple[Figure, ...]:
    """Return all published figures that the package knows."""
    text = files("prefenvs.bench.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(Figure(**row) for row in csv.DictReader(text.splitlines()))


def published_table(scores: Scores) -> Table:
    """Set the published figures of a suite beside ours, where both are of one task."""
    rows = []
    name = scores.suite["published"]
    for figure in published_figures():
        if figure.suite != name or figure.task not in scores.tasks:
            continue
        entries = [entry for entry in scores.entries if entry.method == figure.method]
        ours = "; ".join(_ours(scores, entry, figure.task) for entry in entries) or "not in the suite"
        value = figure.value + (f" ± {figure.spread}" if figure.spread else "")
        seeds = f"{figure.seeds} seeds" if figure.seeds else "seeds not told"
        unchecked = "" if figure.checked == "yes" else " (not checked against the paper)"
        rows.append(
            (figure.published_as, figure.task, figure.labels, f"{value} ({seeds})", ours, figure.source + unchecked)
        )
    differing = sorted({figure.differs for figure in published_figures() if figure.suite == name})
    return Table(
        "Published figures beside ours",
        ("published method", "task", "taught by", "published", "ours", "source"),
        tuple(rows),
        "Ours are measured on other simulators, tasks of other versions or other data, so that neither side is a check "
        "of the other: " + " ".join(differing),
    )


def _ours(scores: Scores, entry: Entry, task: str) -> str:
    values = scores.runs(entry, task)
    if not len(values):
        return MISSING
    scale = 100.0 if scores.suite["measures"][task] == "success" else 1.0
    each = ", ".join(f"{scale * value:.1f}" for value in values)
    if len(values) > 5:
        each = f"{scale * values.min():.1f} to {scale * values.max():.1f}"
    seeds = "a single seed" if len(values) == 1 else f"{len(values)} seeds: {each}"
    return f"{scale * interquartile_mean(values):.1f} ({seeds})"
