"""The agreement report as a web page."""

from __future__ import annotations

import datetime
from html import escape

from prefenvs.agreement import Agreement, Annotator

COLUMNS = (
    "annotator",
    "labels",
    "skipped",
    "ties",
    "left side",
    "repeats",
    "consistent",
    "median seconds",
    "too fast",
    "remarks",
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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Agreement</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/static/label.css"></head>'
        f'<body class="report"><main><h1>Agreement of annotators</h1><p>{escape(task)}, {escape(now)}</p>{lines}'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        '<p><a href="/">Back to labelling</a></p></main></body></html>'
    )


def summarise(agreement: Agreement) -> list[str]:
    """Return the overall figures as sentences."""
    lines = [
        f"Krippendorff's alpha {_number(agreement.alpha)} over {agreement.shared} questions that several people "
        f"answered; {_percent(agreement.percent)} of their answers are the same."
    ]
    if agreement.rated or any(person.ratings for person in agreement.annotators):
        lines.append(f"Alpha of ratings {_number(agreement.rating_alpha)} over {agreement.rated} clips.")
    return lines


def cells(person: Annotator) -> list[str]:
    """Return one annotator's row as text, in the order of COLUMNS."""
    return [
        person.name,
        f"{person.labels + person.ratings:,}",
        _percent(person.skip_rate),
        _percent(person.ties),
        _percent(person.left_share),
        str(person.repeats),
        _percent(person.consistency),
        _number(person.median_seconds),
        _percent(person.too_fast),
        "; ".join(person.flags),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
