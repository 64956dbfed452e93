"""Results in prose: marked blocks of Markdown files are filled from committed results, so that no figure is copied.

A block begins with `<!-- results: SOURCE VIEW ... -->` and ends with `<!-- end of results -->`. SOURCE is a folder with
a results.parquet, or a .csv or .md file, by its path from the folder of results. Views of a folder take METHOD=TITLE,
METHOD@RATER=TITLE where a method had several raters, and `on=TASK`, each more than once, and `at=STEPS`, where every
run is cut:

seeds     a row for each method of one task: every seed's last score, and the mean;
each      a row for each method, a column for each task: every seed's last return, and success where it is known;
scores    the same with interquartile means and, in brackets, the lowest and highest seed;
returns   the same with mean returns, and success where it is known;
above     the same with mean returns above those of the first method, and bootstrap intervals;
lift      a sentence on the label lift of each method.

Of a .csv file, or the first table of a .md file, `table` shows the cells as they are: all, or the columns COLUMN=TITLE,
and the rows where a cell begins with one of `on=TEXT`. `accuracy` shows those of `prefenvs labels accuracy` over folds.
"""

from __future__ import annotations

import csv
import math
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from prefenvs.bench.report.lift import lift_of
from prefenvs.bench.report.scores import Entry, Scores
from prefenvs.bench.report.statistics import interquartile_mean, mean_difference
from prefenvs.bench.report.tables import MISSING, NOT_ASKED
from prefenvs.bench.report.tables import show as show_exactly
from prefenvs.bench.results import read_results
from prefenvs.errors import PrefenvsError
from prefenvs.internal.csv_tables import read_table
from prefenvs.metrics.folds import COLUMNS, fold_table

BLOCK = re.compile(r"(<!-- results: (.*?) -->\n)(.*?)(<!-- end of results -->)", re.DOTALL)
FENCED = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)
BEGIN = "<!-- results:"


class Shown(NamedTuple):
    """What a block shows: entries with their titles, on these tasks."""

    scores: Scores
    entries: dict[Entry, str]
    tasks: list[str]


def fill_blocks(text: str, folder: Path) -> str:
    """Return Markdown with its blocks filled from the results below `folder`.

    Raises PrefenvsError for a block that is not closed, names no result, or asks for what a result does not hold.
    """
    parts = FENCED.split(text)
    for number in range(0, len(parts), 2):  # the others are code
        if parts[number].count(BEGIN) != len(BLOCK.findall(parts[number])):
            raise PrefenvsError("a block of results is not closed: end it with <!-- end of results -->")
        parts[number] = BLOCK.sub(lambda found: f"{found[1]}\n{_show(found[2], folder)}\n\n{found[4]}", parts[number])
    return "".join(parts)


def _show(words: str, folder: Path) -> str:
    try:
        source, view, *rest = [*shlex.split(words), "", ""]
    except ValueError as error:
        raise PrefenvsError(f"results: {words}: these words cannot be told apart ({error})") from None
    rest = [word for word in rest if word]
    path = folder / source
    if path.suffix == ".csv" and view == "accuracy" and path.is_file():
        return fold_table(read_table(path, COLUMNS), dict(word.partition("=")[::2] for word in rest))
    if path.suffix in (".csv", ".md") and view == "table" and path.is_file():
        return _cut(path, rest)
    if view not in VIEWS or not (path / "results.parquet").is_file():
        raise PrefenvsError(
            f"results: {words}: name a folder with a results.parquet below {folder}, and one of {', '.join(VIEWS)}; or "
            "a .csv file, and table or accuracy; or a .md file, and table"
        )
    cuts = [word.removeprefix("at=") for word in rest if word.startswith("at=")]
    if not all(cut.isdigit() for cut in cuts):
        raise PrefenvsError(f"results: {words}: at= takes one number of steps, as in at=12000")
    scores = _read(path / "results.parquet", int(cuts[-1]) if cuts else None)
    return VIEWS[view](_choose(scores, [word for word in rest if not word.startswith("at=")]))


def _cut(path: Path, words: Sequence[str]) -> str:
    """Return columns and rows of a file; raises PrefenvsError for those that it lacks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        lines = (re.search(r"(?:^\|.*\n?)+", text, re.MULTILINE) or [""])[0].splitlines()
        head, *rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines] or [[]]
        rows = rows[1:]
    else:
        head, *rows = [*csv.reader(text.splitlines())] or [[]]
    pairs = [word.partition("=")[::2] for word in words]
    begins = tuple(value for name, value in pairs if name == "on")
    titles = [(name, title or name) for name, title in pairs if name != "on"]
    unknown = [name for name, _ in titles if name not in head]
    unknown += [begin for begin in begins if not any(cell.startswith(begin) for row in rows for cell in row)]
    if unknown or not rows:
        raise PrefenvsError(
            f"results: {path.name} has no {(unknown or ['rows'])[0]}: its columns are {', '.join(head)}"
        )
    for row in rows:
        if len(row) != len(head):
            raise PrefenvsError(f"results: {path.name} has a row of {len(row)} cells, not {len(head)}: {row}")
    chosen = [(head.index(name), title) for name, title in titles] or [*enumerate(head)]
    kept = [row for row in rows if not begins or any(cell.startswith(begins) for cell in row)]
    return _table([title for _, title in chosen], [[row[place] for place, _ in chosen] for row in kept])


def show(value: float, measure: str) -> str:
    """Write one figure as tables do, returns from 100 on without decimals."""
    return (
        f"{value:,.0f}" if measure not in ("success", "share") and abs(value) >= 100 else show_exactly(value, measure)
    )


@cache
def _read(path: Path, steps: int | None) -> Scores:
    results = read_results(path)
    frame = results.frame
    return Scores(results if steps is None else replace(results, frame=frame[~(frame["steps"] > steps)]))


def _choose(scores: Scores, words: Sequence[str]) -> Shown:
    """Return the entries and tasks that a block names; raises PrefenvsError for those that the results lack."""
    pairs = [_split(word) for word in words]
    tasks = [value for name, value in pairs if name == "on"] or scores.tasks
    entries = {}
    for name, title in pairs:
        if name == "on":
            continue
        method, _, rater = name.partition("@")
        found = [one for one in scores.entries if one.method == method and one.oracle.startswith(rater)]
        if len(found) != 1:
            known = ", ".join(f"{one.method}@{one.oracle}" for one in scores.entries)
            raise PrefenvsError(f"results: {name} names {len(found)} rows of {scores.suite['name']}: there are {known}")
        entries[found[0]] = title or scores.label(found[0])
    unknown = [task for task in tasks if task not in scores.tasks]
    if unknown:
        raise PrefenvsError(f"results: {scores.suite['name']} has no task {unknown[0]}: {', '.join(scores.tasks)}")
    return Shown(scores, entries or {entry: scores.label(entry) for entry in scores.entries}, tasks)


def _split(word: str) -> tuple[str, str]:
    """Split METHOD=TITLE, or METHOD@RATER=TITLE, where a rater's options have equals signs of their own."""
    last = "@" in word.partition("=")[0] and "=" in word
    name, _, title = word.rpartition("=") if last else word.partition("=")
    return name, title


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    figures = (any(re.match(r"\W*\d", row[column]) for row in rows) for column in range(1, len(head)))
    lines = [head, ["---", *("---:" if numbers else "---" for numbers in figures)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _seeds(shown: Shown) -> str:
    if len(shown.tasks) != 1:
        raise PrefenvsError(f"results: seeds are of one task: say on={shown.tasks[0]}")
    scores, task = shown.scores, shown.tasks[0]
    measure = scores.suite["measures"][task]
    seeds = sorted({seed for entry in shown.entries for seed in scores.by_seed(entry, task)})
    rows = []
    for entry, title in shown.entries.items():
        values, before = scores.by_seed(entry, task), scores.runs(entry, task, "unlabelled")
        each = [show(values[seed], measure) if seed in values else NOT_ASKED for seed in seeds]
        asks = len(before) and scores.method(entry)["asks"] and not scores.method(entry)["offline"]
        untaught = show(float(before.mean()), measure) if asks else NOT_ASKED
        mean = show(sum(values.values()) / len(values), measure) if values else MISSING
        rows.append((title, untaught, *each, f"**{mean}**"))
    return _table(("learned from", "before any label, mean", *map(str, seeds), "mean"), rows)


def _cells(shown: Shown, write: Callable[[Entry, str], str]) -> str:
    rows = [
        (title, *(write(entry, task) if len(shown.scores.runs(entry, task)) else NOT_ASKED for task in shown.tasks))
        for entry, title in shown.entries.items()
    ]
    names = [task.removeprefix("metaworld-").removesuffix("-v3") for task in shown.tasks]
    return _table(("learner", *names), rows)


def _each(shown: Shown) -> str:
    def write(entry: Entry, task: str) -> str:
        returns, success = (shown.scores.by_seed(entry, task, name) for name in ("mean_return", "success"))
        parts = [(returns, "return"), (success, "success")]
        texts = [[show(value, measure).replace(",", "") for value in values.values()] for values, measure in parts]
        return "; ".join(", ".join(each) for each in texts if each)

    return _cells(shown, write)


def _scores(shown: Shown) -> str:
    def write(entry: Entry, task: str) -> str:
        values, measure = shown.scores.runs(entry, task), shown.scores.suite["measures"][task]
        ends = f" [{show(values.min(), measure)}, {show(values.max(), measure)}]" if len(values) > 1 else ""
        return f"{show(interquartile_mean(values), measure)}{ends}"

    return _cells(shown, write)


def _returns(shown: Shown) -> str:
    def write(entry: Entry, task: str) -> str:
        parts = [(shown.scores.runs(entry, task, name), name) for name in ("mean_return", "success")]
        return ", ".join(show(float(values.mean()), measure) for values, measure in parts if len(values))

    return _cells(shown, write)


def _above(shown: Shown) -> str:
    base, *others = shown.entries

    def write(entry: Entry, task: str) -> str:
        ours, theirs = (shown.scores.runs(one, task, "mean_return") for one in (entry, base))
        if not len(theirs):
            return NOT_ASKED
        found = mean_difference(ours, theirs)
        return f"{show(found.value, 'return')} [{show(found.low, 'return')}, {show(found.high, 'return')}]"

    return _cells(shown._replace(entries={entry: shown.entries[entry] for entry in others}), write)


def _lift(shown: Shown) -> str:
    lines = []
    for entry, title in shown.entries.items():
        for task in shown.tasks:
            final, curve = (lift_of(shown.scores, entry, task, column) for column in ("final", "curve"))
            if final is None or curve is None or not final.differences:
                continue
            above = sum(value > 0 for value in final.differences.values())
            told = f"{title} on {task}: above the control on {above} of {len(final.differences)} seeds"
            for lift, where in ((final, "at the end"), (curve, "over the whole curve")):
                # A dash, as in tables: on this seed the true reward is not above the control.
                each = ["-" if math.isnan(value) else show(value, "share") for _, value in sorted(lift.each.items())]
                told += f"; label lift {where} {show(lift.mean, 'share')} ({', '.join(each)})" if lift.bounds else ""
            lines.append(f"{told}.")
    return "\n\n".join(lines)


VIEWS: dict[str, Callable[[Shown], str]] = {
    "seeds": _seeds,
    "each": _each,
    "scores": _scores,
    "returns": _returns,
    "above": _above,
    "lift": _lift,
}
