"""A benchmark's folder: one run folder for each cell, what came of it, and the suite that they belong to."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from prefenvs.bench.cells import Cell, Data, Limits
from prefenvs.bench.methods import find_method
from prefenvs.bench.suite import Suite
from prefenvs.errors import PrefenvsError
from prefenvs.runs import to_json

Status = Literal["missing", "stopped", "failed", "finished"]


class DiskFull(PrefenvsError):
    """No cell can go on; those that have finished are kept."""


@dataclass(frozen=True)
class Outcome:
    """What came of a cell: written when it has finished, failed for good, or been stopped by Ctrl-C.

    error: why it failed, and the end of its output; attempts: how often it was started; seconds, cpu_seconds: of all of
    them together; peak_gb: the largest; provenance: code, versions and machine; lines: the command lines.
    """

    status: Status
    error: str = ""
    attempts: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_gb: float = 0.0
    provenance: dict[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()


class Damaged(PrefenvsError):
    """A file of a benchmark's folder cannot be read."""


class BenchFolder:
    """Layout: suite.json, data/<name>/, cells/<cell>/run/ (the method's own), outcome.json, cell.json and log.txt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cell(self, cell: Cell) -> Path:
        """Folder of a cell."""
        return self.folder / "cells" / cell.name

    def run(self, cell: Cell) -> Path:
        """Run folder of a cell, which its method writes."""
        return self.cell(cell) / "run"

    def data(self, data: Data) -> Path:
        """Folder of a shared data set."""
        return self.folder / "data" / data.name

    def outcome(self, cell: Cell) -> Outcome:
        """What came of a cell so far; one whose outcome cannot be read has failed."""
        path = self.cell(cell) / "outcome.json"
        if not path.exists():
            return Outcome("missing")
        try:
            record = read_json(path)
            outcome = Outcome(**record | {"lines": tuple(record["lines"])})
            if outcome.status not in get_args(Status) or not isinstance(outcome.provenance, dict):
                raise TypeError("unknown status")
        except (Damaged, TypeError, KeyError) as error:
            return Outcome("failed", f"{path} is damaged ({error}): the same command runs the cell again")
        return outcome

    def begin(self, cell: Cell) -> None:
        """Make a cell's folder and note what is to run there."""
        self.cell(cell).mkdir(parents=True, exist_ok=True)
        write_json(self.cell(cell) / "cell.json", asked_of(cell))

    def end(self, cell: Cell, outcome: Outcome) -> None:
        """Note what came of a cell."""
        write_json(self.cell(cell) / "outcome.json", dataclasses.asdict(outcome))

    def forget(self, cell: Cell) -> None:
        """Remove what an attempt left, so that the next one starts afresh."""
        shutil.rmtree(self.run(cell), ignore_errors=True)
        (self.cell(cell) / "outcome.json").unlink(missing_ok=True)

    def save_suite(self, suite: Suite) -> None:
        """Note the whole suite; raises a PrefenvsError if the folder holds another, or cells defined otherwise."""
        path = self.folder / "suite.json"
        held = suite.name
        # A damaged file is written anew; what the cells are is told by their own.
        with suppress(Damaged):
            held = str(read_json(path).get("name")) if path.exists() else held
        if held != suite.name:
            raise PrefenvsError(f"{self.folder} holds the suite {held!r}; choose another --folder for {suite.name!r}")
        for cell in suite.cells():
            written = self.cell(cell) / "cell.json"
            if not written.exists():
                continue
            kept, asked = read_json(written), json.loads(to_json(asked_of(cell)))
            # Older folders do not tell their methods' options.
            if any(kept.get(name, value) != value for name, value in asked.items()):
                raise PrefenvsError(
                    f"{self.cell(cell)} was run with other options than suite {suite.name!r} has now: "
                    "choose another --folder, or remove that one to run it again"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, describe(suite))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runners out of the folder meanwhile; raises PrefenvsError if one is at work there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise PrefenvsError(f"another `prefenvs bench run` is at work in {self.folder}") from None
            yield

    def check_space(self, needed_gb: float) -> None:
        """Raise DiskFull if the disk has less space left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free / 1e9
        if free < needed_gb:
            raise DiskFull(
                f"the disk of {self.folder} has {free:.1f} GB left, less than {needed_gb:g}: make room and run the "
                "same command again, finished cells are kept (--min-free-gb sets the threshold)"
            )


def asked_of(cell: Cell) -> dict[str, Any]:
    """Return all that decides a cell's result: its definition, and what its method is, wherever Python lies."""
    method = find_method(cell.method)
    program = ["python" if word == sys.executable else word for word in (*method.program, *method.command)]
    return cell.definition | {"program": program, "method_options": dict(method.options)}


def describe(suite: Suite) -> dict[str, Any]:
    """Return a suite as JSON holds it, its cells written out."""
    plain = {name: getattr(suite, name) for name in ("name", "sentence", "reduced", "measure", "published")}
    cells = suite.cells()
    methods = {name: find_method(name) for name in dict.fromkeys(cell.method for cell in cells)}
    shown = {
        name: {
            key: getattr(method, key)
            for key in ("title", "upper", "upper_bound", "controls", "bound", "asks", "offline")
        }
        for name, method in methods.items()
    }
    measures = {cell.problem: suite.measure_of(cell) for cell in cells}
    return plain | {"methods": shown, "measures": measures, "cells": [cell.definition for cell in cells]}


def read_suite(folder: Path) -> tuple[dict[str, Any], list[Cell]]:
    """Read what `save_suite` wrote: the suite's description and all its cells.

    Raises PrefenvsError where there is nothing, and Damaged for what cannot be read.
    """
    path = folder / "suite.json"
    if not path.is_file():
        raise PrefenvsError(f"{folder} holds no benchmark: there is no suite.json; `prefenvs bench run` writes one")
    record = read_json(path)
    try:
        cells = [cell_from(definition) for definition in record.pop("cells")]
        missing = {"name", "sentence", "reduced", "measure", "published", "methods", "measures"} - set(record)
        if missing:
            raise KeyError(", ".join(sorted(missing)))
    except (TypeError, KeyError, ValueError) as error:
        raise Damaged(
            f"{path} is damaged ({type(error).__name__}: {error}): `prefenvs bench run` with the same suite and folder "
            "writes it anew, and keeps what has finished"
        ) from None
    return record, cells


def cell_from(definition: dict[str, Any]) -> Cell:
    """Return the cell of which this is the definition."""
    data = definition["data"]
    made = None if data is None else Data(data["name"], tuple(tuple(line) for line in data["commands"]))
    return Cell(**definition | {"data": made}, limits=Limits())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises Damaged for anything else."""
    try:
        record = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise Damaged(
            f"{path} is damaged ({type(error).__name__}): remove it, and run the same command again"
        ) from None
    if not isinstance(record, dict):
        raise Damaged(f"{path} is damaged (no JSON object): remove it, and run the same command again")
    return record


def write_json(path: Path, content: Any) -> None:
    """Write a file that is either the old or the new one, whatever happens meanwhile."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    new.write_text(to_json(content, indent=1) + "\n")
    new.replace(path)


def select(cells: Sequence[Cell], **wanted: Sequence[Any]) -> list[Cell]:
    """Return the cells whose attributes are among those named; an empty choice keeps all.

    Raises a PrefenvsError for a value that no cell has, and for choices that no cell meets together.
    """
    chosen = list(cells)
    for name, values in wanted.items():
        known = sorted({getattr(cell, name) for cell in cells})
        for value in values:
            if value not in known:
                raise PrefenvsError(
                    f"no cell of the suite has {name} {value!r}: there are {', '.join(map(str, known))}"
                )
        chosen = [cell for cell in chosen if not values or getattr(cell, name) in values]
    if cells and not chosen:
        given = ", ".join(f"{name} {' or '.join(map(str, values))}" for name, values in wanted.items() if values)
        raise PrefenvsError(f"no cell of the suite has {given} together: leave one of them out")
    return chosen
