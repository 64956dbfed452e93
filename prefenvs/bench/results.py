"""Results with their provenance: every evaluation of every cell of a benchmark, in one Parquet file."""

from __future__ import annotations

import csv
import json
import math
import re
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefenvs.bench.cells import Cell
from prefenvs.bench.folder import BenchFolder, Outcome, read_json, read_suite
from prefenvs.bench.runner.process import last_lines
from prefenvs.datasets.d4rl.entries import find_d4rl
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    import pandas as pd

KEY = b"prefenvs"
"""Where the Parquet file keeps the suite's description."""
MEASURED = (
    "steps",
    "labels",
    "mean_return",
    "std_return",
    "success",
    "seconds",
    "learned_return",
    "learned_return_min",
    "normalised_score",
)
"""Columns of a run's evaluations.csv."""
JUDGED = ("accuracy", "correlation", "starc")
"""What `prefenvs bench measure` says of a reward model."""
TEXTS = [
    "cell", "method", "task", "environment", "oracle", "status", "reason", "version", "commit", "python", "machine",
    "processor", "gpu", "finished", "versions", "config", "command",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Results:
    """A benchmark's results.

    frame: one row for each evaluation of a finished cell, and one for each cell that failed or is missing. Columns: the
    cell (cell, method, oracle, budget, seed; task: the data set where that has a name; environment), status and reason,
    what was measured (MEASURED, NaN where there is nothing), JUDGED, cost (wall_seconds, cpu_seconds, peak_gb,
    attempts) and provenance (version, commit, python, machine, processor, processors, threads, gpu, finished; versions,
    config and command as JSON and text).
    suite: its name, sentence, reduced, published, measures by task, and methods with title, upper, upper_bound,
    controls, bound, asks and offline; data: what was printed when its data sets were made.
    """

    frame: pd.DataFrame
    suite: dict[str, Any]
    folder: Path | None = None

    def write(self, path: Path | None = None) -> Path:
        """Write one Parquet file, results.parquet in the benchmark's folder by default; read by `read_results`.

        Raises PrefenvsError where it cannot be written.
        """
        import pyarrow
        from pyarrow import parquet

        if path is None:
            assert self.folder is not None
            path = self.folder / "results.parquet"
        table = pyarrow.Table.from_pandas(self.frame, preserve_index=False)
        table = table.replace_schema_metadata({KEY: json.dumps(self.suite).encode()})
        new = path.with_name(path.name + ".new")
        try:
            parquet.write_table(table, new)
            new.replace(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise PrefenvsError(
                f"{path} cannot be written ({error.strerror or error}): finished cells are kept; make room, and "
                "`prefenvs bench table` writes it"
            ) from None
        return path

    @property
    def finished(self) -> pd.DataFrame:
        """The rows of finished cells."""
        return self.frame[self.frame["status"] == "finished"]

    def versions(self) -> dict[str, list[str]]:
        """Return what differs among finished cells: version, commit or a package, and how many cells had which."""
        cells = self.finished.drop_duplicates("cell")
        seen = {"prefenvs": Counter(cells["version"]), "commit": Counter(cells["commit"])}
        records = [json.loads(text) for text in cells["versions"]]
        for package in sorted({name for record in records for name in record} - {"prefenvs"}):
            seen[package] = Counter(record.get(package, "unknown") for record in records)
        return {
            name: [f"{value or 'unknown'} ({count} cells)" for value, count in counts.most_common()]
            for name, counts in seen.items()
            if len(counts) > 1
        }

    def check_versions(self, mixed: bool = False) -> None:
        """Raise a PrefenvsError if finished cells come from several versions, unless that is accepted."""
        differing = self.versions()
        if differing and not mixed:
            listed = "; ".join(f"{name} {' and '.join(values)}" for name, values in differing.items())
            raise PrefenvsError(
                f"the results mix versions: {listed}. Run the older cells again in a fresh folder, or accept the "
                "mixture with --mixed, and the report will say so"
            )


def collect(folder: Path) -> Results:
    """Read all that a benchmark's cells have written so far."""
    import pandas as pd

    suite, cells = read_suite(folder)
    place = BenchFolder(folder)
    rows = [row for cell in cells for row in _rows(place, cell)]
    frame = pd.DataFrame(rows)
    for name in frame.columns.difference(TEXTS):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("float64")
    logs = {path.stem: portable(last_lines(path), place) for path in sorted((folder / "data").glob("*.txt"))}
    return Results(frame, suite | ({"data": logs} if logs else {}), folder)


def read_results(path: Path) -> Results:
    """Read what `Results.write` wrote; raises PrefenvsError for anything else."""
    from pyarrow import parquet

    if not path.is_file():
        raise PrefenvsError(f"there is no {path}; `prefenvs bench run` writes one into its folder")
    with failure_told(f"{path} holds no results of `prefenvs bench run`"):
        table = parquet.read_table(path)
        suite = json.loads(table.schema.metadata[KEY])
    return Results(table.to_pandas(), suite)


def portable(text: str, place: BenchFolder) -> str:
    """Return text without the places of this machine: paths from the benchmark's folder on, and our command's name."""
    text = text.replace(f"{place.folder.absolute()}/", "")
    return re.sub(r"\S*/python\S* -P -m prefenvs", "prefenvs", text).replace(sys.executable, "python")


def _rows(place: BenchFolder, cell: Cell) -> list[dict[str, Any]]:
    """Return a cell's rows; one with a damaged file has failed, and hides no other."""
    try:
        return _read_rows(place, cell, place.outcome(cell))
    except (PrefenvsError, ValueError, KeyError, TypeError, OSError, csv.Error) as error:
        reason = str(error) if isinstance(error, PrefenvsError) else f"damaged files ({type(error).__name__}: {error})"
        return [_describe(place, cell, Outcome("failed", reason), {}, dict(cell.options))]


def _read_rows(place: BenchFolder, cell: Cell, outcome: Outcome) -> list[dict[str, Any]]:
    run = place.run(cell)
    judged = _read_json(run / "reward.json")
    config = _read_json(run / "run.json").get("config", dict(cell.options))
    base = _describe(place, cell, outcome, judged, config)
    if outcome.status != "finished":
        return [base]
    if not (run / "evaluations.csv").exists():
        raise PrefenvsError(f"{run / 'evaluations.csv'} is missing: remove {place.cell(cell)} and run the cell again")
    with (run / "evaluations.csv").open(newline="") as file:
        evaluations = list(csv.DictReader(file))
    if not evaluations:
        raise PrefenvsError(f"{run / 'evaluations.csv'} holds no row: remove {place.cell(cell)} and run the cell again")
    if not {"steps", "mean_return"} <= set(evaluations[0]):
        raise PrefenvsError(f"{run / 'evaluations.csv'} is damaged: it lacks steps or mean_return")
    rows = [base | {name: float(row[name]) for name in MEASURED if row.get(name)} for row in evaluations]
    steps = _read_json(run / "summary.json").get("evaluation_horizon", find_task(cell.task).horizon)
    return [row | {"normalised_score": _d4rl_score(cell, row["mean_return"], steps)} for row in rows]


def _describe(
    place: BenchFolder, cell: Cell, outcome: Outcome, judged: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    """Return what all rows of a cell have in common."""
    code = outcome.provenance
    versions = code.get("versions", {})
    return {
        "cell": cell.name,
        "method": cell.method,
        "task": cell.problem,
        "environment": cell.task,
        "oracle": cell.oracle,
        "budget": cell.labels,
        "seed": cell.seed,
        "status": outcome.status,
        "reason": outcome.error,
        **dict.fromkeys(MEASURED, math.nan),
        **{name: _number(judged.get(name)) for name in JUDGED},
        "wall_seconds": outcome.seconds,
        "cpu_seconds": outcome.cpu_seconds,
        "peak_gb": outcome.peak_gb,
        "attempts": outcome.attempts,
        "version": versions.get("prefenvs", ""),
        **{name: str(code.get(name, "")) for name in ("commit", "python", "machine", "processor", "gpu", "finished")},
        "processors": code.get("processors", math.nan),
        "threads": code.get("threads", math.nan),
        "versions": json.dumps(versions, sort_keys=True),
        "config": portable(json.dumps(config, sort_keys=True), place),
        "command": portable("\n".join(outcome.lines), place),
    }


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _d4rl_score(cell: Cell, mean_return: float, steps: int) -> float:
    """D4RL's normalised score of episodes of so many steps, NaN where D4RL knows none of such episodes."""
    if not cell.dataset.startswith("d4rl/"):
        return math.nan
    entry = find_d4rl(cell.dataset)
    scores = entry.scores if entry.horizon == steps else None
    return math.nan if scores is None else 100.0 * (mean_return - scores[0]) / (scores[1] - scores[0])


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
