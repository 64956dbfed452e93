"""Accuracies on held-out folds of labels, in a .csv file of one row a fold, and their table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import Share

COLUMNS = ("labels", "model", "crossing", "seed", "fold", "training", "held_out", "hits", "commit")
TITLES = {
    "return": "true return",
    "ensemble": "reward ensemble",
    "transformer": "Preference Transformer",
    "gaussian": "PEARL's robust reward",
    "segment": "DPPO's score of segments",
}


def fold_table(rows: Sequence[Sequence[str]], names: Mapping[str, str] | None = None) -> str:
    """Return accuracies over all folds as a Markdown table; names: of the labels to show, all by default.

    Raises PrefenvsError for labels that have no row.
    """
    lines = [
        "| labels | model | seeds | trained on | held out | predicted | 95% |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    about = list(dict.fromkeys(row[0] for row in rows))
    for name in names or ():
        if name not in about:
            raise PrefenvsError(f"there is no accuracy on the labels {name!r}: there is one on {', '.join(about)}")
    for key in sorted(dict.fromkeys(tuple(row[:3]) for row in rows), key=lambda key: about.index(key[0])):
        labels, model, crossing = key
        mine = [row for row in rows if tuple(row[:3]) == key]
        if names and labels not in names:
            continue
        seeds = len({row[3] for row in mine})
        trained, count, hits = (sum(float(row[at]) for row in mine) for at in (5, 6, 7))
        # Seeds hold out the same answers in other folds: an interval is of one seed's number of them.
        low, high = Share(hits / seeds, math.ceil(count / seeds)).interval
        title = TITLES.get(model, model) + (", crossing pairs too" if crossing == "straight" else "")
        share = f"{count / seeds:.0f} | {hits / count:.1%}"
        told = names[labels] if names and names[labels] else labels
        lines.append(f"| {told} | {title} | {seeds} | {trained / len(mine):.0f} | {share} | {low:.0%} to {high:.0%} |")
    return "\n".join(lines)
