"""Pages for people, in the language that their browser asks for; texts/ holds one file for each language."""

from __future__ import annotations

import datetime
import json
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse

from prefenvs.agreement import COLUMNS, Agreement, cells
from prefenvs.internal.templates import render

LANGUAGES = ("en", "de", "fr")
"""The first one is for whoever reads none of them."""

Texts = dict[str, Any]


@cache
def read_texts(language: str, page: str) -> Texts:
    """Return a page's texts by name, with those that all pages share; where a number decides, one for each form."""
    found = json.loads(files(__name__).joinpath("texts", f"{language}.json").read_text(encoding="utf-8"))
    return {**found["common"], **found[page]}


def choose_language(accepted: str) -> str:
    """Return the language that a header Accept-Language likes best among those there are."""
    wishes = []
    for place, part in enumerate(accepted.lower().split(",")):
        name, *parameters = (item.strip() for item in part.split(";"))
        quality = next((item.removeprefix("q=") for item in parameters if item.startswith("q=")), "1")
        weight = float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0
        wishes.append((-weight, place, name.split("-")[0]))
    return next((name for weight, _, name in sorted(wishes) if name in LANGUAGES and weight < 0), LANGUAGES[0])


def show_page(
    request: Request, page: str, status: int = 200, headers: dict[str, str] | None = None, **values: Any
) -> HTMLResponse:
    """Answer with a page in the language of whoever asks; scripts find its texts in the page itself."""
    language = choose_language(request.headers.get("accept-language", ""))
    texts = read_texts(language, page)
    about = {"language": language, "texts": texts, "status": str(status), **values}
    body = render("prefenvs.oracles.labelling", f"pages/{page}.html", **about)
    kept = {"Cache-Control": "no-cache", "Content-Language": language, "Vary": "Accept-Language"}
    return HTMLResponse(body, status, {**kept, **(headers or {})})


def say(texts: Texts, name: str, **values: Any) -> str:
    """Return a text with its values; `count` chooses between singular and plural."""
    found = texts[name]
    text: str = found if isinstance(found, str) else found["one" if values["count"] == 1 else "other"]
    return text.format(**values)


def show_report(request: Request, agreement: Agreement, task: str) -> HTMLResponse:
    """Answer with the page that tells how far people agree."""
    texts = read_texts(choose_language(request.headers.get("accept-language", "")), "report")
    now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    rows = [
        [*cells(person)[:-1], "; ".join(texts[f"sign_{sign}"] for sign in person.signs)]
        for person in agreement.annotators
    ]
    return show_page(
        request,
        "report",
        about=", ".join(filter(None, (task, now))),
        lines=_describe(agreement, texts),
        columns=[name.replace(" ", "_") for name in COLUMNS],
        rows=rows,
        legend=("left", "repeats", "alike", "seconds", "too_fast"),
    )


def _describe(agreement: Agreement, texts: Texts) -> list[str]:
    """Return the overall figures as sentences."""

    def around(value: float | None, interval: tuple[float, float] | None, form: str) -> str:
        if value is None:
            return "–"
        shown = format(value, form)
        return (
            shown
            if interval is None
            else say(texts, "between", value=shown, low=format(interval[0], form), high=format(interval[1], form))
        )

    lines = []
    if len(agreement.oracles) > 1:
        names = ", ".join(f"{name} {count:,}" for name, count in agreement.oracles.items())
        lines.append(say(texts, "raters", names=names))
    if agreement.shared:
        alpha = around(agreement.alpha, agreement.alpha_interval, ".2f")
        share = around(agreement.percent, agreement.percent_interval, ".0%")
        lines.append(say(texts, "agreement", count=agreement.shared, alpha=alpha, share=share))
    if agreement.rated:
        alpha = around(agreement.rating_alpha, None, ".2f")
        lines.append(say(texts, "rated", count=agreement.rated, alpha=alpha))
    return lines or [texts["no_agreement"]]
