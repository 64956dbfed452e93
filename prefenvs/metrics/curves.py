"""Learning curves as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def draw_learning_curve(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    path: Path,
    title: str,
    measure: str = "mean_return",
    baselines: Mapping[str, float] | None = None,
    unit: str = "environment steps",
) -> Path:
    """Draw one line for each named run: `measure` by steps, from evaluation rows with `steps` in them.

    A row's "std_return" is drawn as a band of one standard deviation over episodes; baselines are dashed lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, rows in curves.items():
        steps = np.asarray([row["steps"] for row in rows])
        values = np.asarray([row[measure] for row in rows])
        axes.plot(steps, values, marker="o", markersize=3, label=name)
        if measure == "mean_return" and all("std_return" in row for row in rows):
            spread = np.asarray([row["std_return"] for row in rows])
            axes.fill_between(steps, values - spread, values + spread, alpha=0.2)
    for i, (name, value) in enumerate((baselines or {}).items()):
        axes.axhline(value, linestyle="--", linewidth=1, color=("grey", "black")[i % 2], label=name)
    axes.set(xlabel=unit, ylabel=measure.replace("mean_return", "true return").replace("_", " "), title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    return path
