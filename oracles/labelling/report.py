"""The agreement report as a web page."""

from __future__ import annotations

import datetime
from html import escape

from prefenvs.agreement import COLUMNS, Agreement, cells, summarise


def render_report(agreement: Agreement, task: str) -> str:
    """Return the report as one HTML page without scripts; every text from outside is escaped."""
    head = "".join(f"<th scope=col>{name}</th>" for name in COLUMNS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells(person)) + "</tr>"
        for person in agreement.annotators
    )
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    lines = "".join(f"<p>{escape(line)}</p>" for line in summarise(agreement))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Agreement</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/label.css"></head>'
        f'<body class="report"><main><h1>Agreement of annotators</h1><p>{escape(task)}, {escape(now)}</p>{lines}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        '<p><a href="/">Back to labelling</a></p></main></body></html>'
    )
