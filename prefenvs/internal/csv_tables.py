"""Tables in .csv files, written whole or not at all."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefenvs.errors import PrefenvsError


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    with new.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])
    new.replace(path)


def read_table(path: Path, head: Sequence[str]) -> list[list[str]]:
    """Return the rows below this head, none if there is no file; raises PrefenvsError for another table."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            found, *rows = [*csv.reader(file)] or [[]]
    except (ValueError, csv.Error) as error:
        raise PrefenvsError(f"{path} is no table in .csv ({error}): choose another --out") from None
    if found != [*head] or any(len(row) != len(head) for row in rows):
        raise PrefenvsError(f"{path} has other columns than {', '.join(head)}: choose another --out")
    return rows
