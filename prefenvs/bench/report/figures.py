"""Figures of a report: learning curves by steps and by labels, performance profiles, true against learned return."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.bench.report.lift import Lift, lift_of
from prefenvs.bench.report.scores import FLOOR, Entry, Scores
from prefenvs.bench.report.statistics import FEWEST, performance_profile
from prefenvs.segments import Array

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f", "#bcbd22", "#332288")
"""Okabe and Ito's, which the colour-blind tell apart, and some more."""


def learning_curves(scores: Scores, by: str = "steps") -> Figure | None:
    """Draw each task's measure over training, by "steps" or by "labels": mean over seeds, and each seed thinly.

    Upper bounds learn from no labels: in curves by labels their last score is a horizontal line. So is, in both, the
    score of a method that was measured once, which may be after many times the steps of the others.
    """
    frame = scores.results.finished
    tasks = [task for task in scores.tasks if (frame["task"] == task).any()]
    if by == "labels":
        # Learners from fixed data have all their labels from the beginning.
        asking = [
            entry for entry in scores.entries if scores.method(entry)["asks"] and not scores.method(entry)["offline"]
        ]
        tasks = [task for task in tasks if any(_runs(scores, frame, entry, task) for entry in asking)]

    def draw(axes: Axes, task: str) -> None:
        measure = scores.suite["measures"][task]
        for entry in scores.entries:
            # A program of one's own may not tell the labels that it asked for.
            runs = [run[run[by].notna()] for run in _runs(scores, frame, entry, task) if run[by].notna().any()]
            if not runs:
                continue
            colour = _colour(scores, entry)
            level = float(np.mean([run[measure].iloc[-1] for run in runs]))
            once = all(len(run) < 2 for run in runs)
            if once or entry.method == FLOOR or (by == "labels" and not scores.method(entry)["asks"]):
                axes.axhline(level, color=colour, linestyle=":", linewidth=1.2, label=scores.label(entry))
                continue
            for run in runs:
                axes.plot(run[by], run[measure], color=colour, linewidth=0.6, alpha=0.4)
            x, mean = _mean_curve(runs, by, measure)
            dashed = "--" if scores.method(entry)["upper_bound"] else "-"
            axes.plot(x, mean, color=colour, linestyle=dashed, linewidth=1.8, label=scores.label(entry))
        unit = "environment steps" if by == "steps" else "labels"
        offline = any(scores.method(entry)["offline"] for entry in scores.entries if _runs(scores, frame, entry, task))
        axes.set_xlabel("gradient steps" if offline and by == "steps" else unit)
        axes.set_ylabel("success" if measure == "success" else measure.replace("mean_return", "true return"))

    return _small_multiples(tasks, draw)


def performance_profiles(scores: Scores, resamples: int = 500) -> Figure | None:
    """Draw for each method the share of runs that score above a threshold of normalised score, bands from 10 on."""
    matrices = {
        entry: scores.matrix(entry, scores.scored_tasks(entry)) for entry in scores.entries if entry.method != FLOOR
    }
    matrices = {entry: matrix for entry, matrix in matrices.items() if matrix.size}
    if not matrices:
        return None
    highest = max(float(matrix.max()) for matrix in matrices.values())
    thresholds = np.linspace(0.0, max(1.1, min(highest, 2.0) * 1.05), 101)
    figure, axes = _figure(1, 1, (11.6, 5.5))
    for entry, matrix in matrices.items():
        tasks, runs = scores.scored_tasks(entry), len(matrix)
        share, low, high = performance_profile(matrix, thresholds, resamples)
        short = "" if len(tasks) == len(scores.tasks) else f", {len(tasks)} of {len(scores.tasks)} tasks"
        colour = _colour(scores, entry)
        label = f"{scores.label(entry)}, {runs} run{'s' * (runs > 1)}{short}"
        axes[0].plot(thresholds, share, color=colour, label=label)
        if runs >= FEWEST:
            axes[0].fill_between(thresholds, low, high, color=colour, alpha=0.15, linewidth=0)
    axes[0].set(xlabel="normalised score", ylabel="share of runs above", ylim=(-0.02, 1.02))
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=2)
    return figure


def hacking_curves(scores: Scores) -> Figure | None:
    """Draw the true and the learned return of the same evaluation episodes over training, one panel for each entry.

    Each on an axis of its own, since a learned reward has no scale; they should rise together, seed by seed. A learned
    return that rises while the true one falls is a hacked reward.
    """
    frame = scores.results.finished
    frame = frame[frame["learned_return"].notna()]
    groups = {
        f"{task}\n{scores.label(entry)}": _runs(scores, frame, entry, task)
        for task in scores.tasks
        for entry in scores.entries
    }
    panels = {name: runs for name, runs in groups.items() if any(len(run) > 1 for run in runs)}

    def draw(axes: Axes, name: str) -> None:
        other = axes.twinx()
        for number, run in enumerate(panels[name]):
            # The first seed of each is in the legend.
            labels = ("true return", "learned return, mean of the ensemble", "its worst member")
            shown = labels if number == 0 else ("", "", "")
            axes.plot(run["steps"], run["mean_return"], color=COLOURS[0], linewidth=0.9, label=shown[0])
            for column, style, label in (("learned_return", "-", shown[1]), ("learned_return_min", ":", shown[2])):
                other.plot(run["steps"], run[column], color=COLOURS[1], linewidth=0.9, linestyle=style)
                axes.plot([], [], color=COLOURS[1], linestyle=style, label=label)
        axes.tick_params(axis="y", labelcolor=COLOURS[0])
        other.tick_params(axis="y", labelcolor=COLOURS[1], labelsize=7)
        axes.set_xlabel("environment steps")

    return _small_multiples(list(panels), draw)


def lift_by_rater(scores: Scores) -> Figure | None:
    """Draw each method's label lift on each task by its rater, where three raters or more taught it with a budget."""
    panels: dict[str, dict[str, Lift]] = {}
    for task in scores.tasks:
        for entry in scores.entries:
            lift = lift_of(scores, entry, task)
            if lift is not None and lift.bounds:
                title = f"{task}\n{scores.method(entry)['title']}" + (
                    f", budget {entry.level + 1}" if entry.level else ""
                )
                panels.setdefault(title, {})[entry.oracle.partition(":{data}")[0]] = lift
    panels = {title: lifts for title, lifts in panels.items() if len(lifts) > 2}

    def draw(axes: Axes, title: str) -> None:
        lifts = panels[title]
        for place, lift in enumerate(lifts.values()):
            each = list(lift.each.values())
            axes.plot([place] * len(each), each, "o", color=COLOURS[0], markersize=3, alpha=0.5)
        axes.plot(range(len(lifts)), [lift.mean for lift in lifts.values()], "_", color=COLOURS[1], markersize=14)
        for level in (0.0, 1.0):
            axes.axhline(level, color="#999999", linestyle=":", linewidth=1)
        axes.set_ylabel("label lift")
        axes.set_xticks(range(len(lifts)), [_rater(name) for name in lifts], rotation=60, ha="right", fontsize=6)

    return _small_multiples(list(panels), draw, ticks=False)


def _rater(name: str) -> str:
    """How an axis calls a rater: one of `mistake` by the share of its answers that are right."""
    wrong = re.fullmatch(r"mistake:mistake=([\d.]+)", name)
    return f"{1 - float(wrong[1]):.0%} right" if wrong else name.replace(",", "\n")


def svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "prefenvs", "svg.fonttype": "none"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _small_multiples(names: list[str], draw: Callable[[Axes, str], None], ticks: bool = True) -> Figure | None:
    """Draw one panel for each name and one legend for all of them; ticks: let numbers choose those of the x-axis."""
    if not names:
        return None
    columns = min(3, len(names))
    lines = math.ceil(len(names) / columns)
    figure, axes = _figure(lines, columns, (3.7 * columns + 0.5, 2.7 * lines + 0.9))
    shown: dict[str, Any] = {}
    for axis, name in zip(axes, names, strict=False):
        draw(axis, name)
        axis.set_title("\n".join(line for part in name.split("\n") for line in wrap(part, 46)), fontsize=8)
        axis.grid(alpha=0.25)
        if ticks:
            axis.tick_params(labelsize=7)
            axis.xaxis.set_major_locator(_few_ticks())
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            shown.setdefault(label, handle)
    for axis in axes[len(names) :]:
        axis.axis("off")
    if shown:
        figure.legend(
            list(shown.values()),
            list(shown),
            loc="outside lower center",
            ncols=min(2, columns),
            frameon=False,
            fontsize=8,
        )
    return figure


def _figure(lines: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.ravel(figure.subplots(lines, columns, squeeze=False)))


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _colour(scores: Scores, entry: Entry) -> str:
    return COLOURS[scores.entries.index(entry) % len(COLOURS)]


def _runs(scores: Scores, frame: pd.DataFrame, entry: Entry, task: str) -> list[pd.DataFrame]:
    cells = scores.of(entry, task).index
    chosen = frame[frame["cell"].isin(cells)]
    return [run.sort_values("steps") for _, run in chosen.groupby("seed")]


def _mean_curve(runs: list[pd.DataFrame], by: str, measure: str) -> tuple[Array, Array]:
    """Average runs that were measured at different times, from the latest first point to the earliest last one."""
    begin = max(run[by].iloc[0] for run in runs)
    end = min(run[by].iloc[-1] for run in runs)
    points = np.unique(np.concatenate([run[by].to_numpy(float) for run in runs]))
    points = points[(points >= begin) & (points <= end)]
    curves = []
    for run in runs:
        # Several evaluations at one number of labels: the last of them counts.
        last = run.groupby(by)[measure].last()
        curves.append(np.interp(points, last.index.to_numpy(float), last.to_numpy(float)))
    return points, np.mean(curves, axis=0)
