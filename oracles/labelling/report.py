"""The agreement report as a web page."""

from __future__ import annotations

import datetime

from prefenvs.agreement import COLUMNS, Agreement, cells, summarise
from prefenvs.internal.templates import render

LEGEND = (
    ("left", "share of answers for the clip on the left, which is there by chance"),
    ("repeats", "questions that were asked again with swapped sides"),
    ("alike", "share of repeats that were answered as before"),
    ("seconds", "median time looked at a question"),
    ("too fast", "share of answers that came before a clip could have been seen to its end"),
)


def render_report(agreement: Agreement, task: str) -> str:
    """Return the report as one HTML page without scripts; every text from outside is escaped."""
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return render(
        "prefenvs.oracles.labelling",
        "pages/report.html",
        about=", ".join(filter(None, (task, now))),
        lines=summarise(agreement),
        columns=COLUMNS,
        rows=[cells(person) for person in agreement.annotators],
        legend=LEGEND,
    )
