"""Figures in sentences, with a unit, are rows of docs/results/measured/prose.csv, which names what measured each."""

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from .test_quote import PAGES, ROOT

FILE = ROOT / "docs" / "results" / "measured" / "prose.csv"
HIDDEN = re.compile(
    r"<!-- results: .*?<!-- end of results -->|<!--.*?-->|^ *```.*?^ *```|`[^`]*`|\]\([^)]*\)|^ *\|.*?$",
    re.DOTALL | re.MULTILINE,
)
"""What is no sentence: blocks filled from results, comments, code, targets of links, tables."""
NUMBER = r"\d[\d,]*(?:\.\d+)?"
UNIT = (
    r"(?:%|x\b| ?(?:ms|µs|s|MB|GB|MiB|GiB|GFLOP/s)\b|"
    r" (?:seconds?|minutes?|hours?|times|labels an hour|\w+ a second)\b)"
)
FIGURE = re.compile(rf"(?<![\w.,-]){NUMBER}(?: (?:to|and|or) {NUMBER})?{UNIT}")


def figures(text: str) -> list[str]:
    """The figures with a unit in the sentences of a page."""
    return [re.sub(r"\s+", " ", found[0]) for found in FIGURE.finditer(HIDDEN.sub(" ", text))]


def read() -> list[list[str]]:
    with FILE.open(newline="") as file:
        return [*csv.reader(file)][1:]


def test_sentences_are_searched_and_nothing_else() -> None:
    text = (
        "It takes 1.5 s, 3 to 5 ms, 2.1x and 40%; 7 boards.\n```\n9 ms\n```\n| 8 s |\n`6 s` [a](b 4 s) <!-- 3 s -->\n"
        "<!-- results: demo seeds -->\n2 s\n<!-- end of results -->\n12 times as many clips a second"
    )
    assert figures(text) == ["1.5 s", "3 to 5 ms", "2.1x", "40%", "12 times"]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "tables.md"], ids=lambda p: p.name)
def test_a_figure_in_a_sentence_has_a_row_that_says_what_measured_it(page: Path) -> None:
    name = page.relative_to(ROOT).as_posix()
    told, known = Counter(figures(page.read_text())), Counter({row[1]: int(row[2]) for row in read() if row[0] == name})
    new, gone = ([f"{name},{figure}" for figure in one] for one in (told - known, known - told))
    assert not new, f"{FILE.name} has no row, or too few, of {new}: measure, and say by what"
    assert not gone, f"{FILE.name} has rows that no sentence tells: {gone}"


def test_what_measured_a_figure_is_a_command_or_a_file_here() -> None:
    for page, figure, count, by in read():
        where = f"{FILE.name}: {page}, {figure}: "
        assert int(count) > 0, where
        assert by == "settings" or by.startswith("prefenvs ") or (ROOT / by).is_file(), f"{where}there is no {by}"
