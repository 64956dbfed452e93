"""The agreement report as a web page."""

from __future__ import annotations

import datetime
from html import escape

from prefenvs.agreement import COLUMNS, Agreement, cells, summarise

LEGEND = (
    ("left", "share of answers for the clip on the left, which is there by chance"),
    ("repeats", "questions that were asked again with swapped sides"),
    ("alike", "share of repeats that were answered as before"),
    ("seconds", "median time looked at a question"),
    ("too fast", "share of answers that came before a clip could have been seen to its end"),
)


def render_report(agreement: Agreement, task: str) -> str:
    """Return the report as one HTML page without scripts; every text from outside is escaped."""
    head = "".join(f"<th scope=col>{name}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(person)) + "</tr>"
        for person in agreement.annotators
    )
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    lines = "".join(f"<p>{escape(line)}</p>" for line in summarise(agreement))
    about = escape(", ".join(filter(None, (task, now))))
    legend = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(meaning)}</dd></div>" for name, meaning in LEGEND)
    legend = f'<dl class="legend">{legend}</dl>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Agreement</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/label.css"></head>'
        f'<body class="report"><main><h1>Agreement of annotators</h1><p>{about}</p>{lines}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{legend}"
        '<p><a href="/">Back to labelling</a></p></main></body></html>'
    )
