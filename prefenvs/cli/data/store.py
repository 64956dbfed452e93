"""`prefenvs store stats | agreement | export | import`: look into a preference store, and carry it elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveFloat
from prefenvs.runs import to_json

if TYPE_CHECKING:
    from prefenvs.agreement import Agreement
    from prefenvs.store import Store


@dataclass(frozen=True)
class StoreStats:
    """Count the queries, labels, annotators and segments of a store."""

    store: Annotated[str, Positional]
    """Path of the SQLite file, or postgresql:// URL."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print the counts as a table."""
        from prefenvs.agreement import measure_agreement
        from prefenvs.store import Store

        with Store(self.store, create=False) as store:
            stats = store.stats()
            agreement = measure_agreement(store) if stats.by_oracle else None
        if self.json:
            figures = None if agreement is None else dataclasses.asdict(agreement)
            print(to_json(dataclasses.asdict(stats) | {"agreement": figures}))
            return
        table = Table(title=f"{stats.location}, schema version {stats.schema_version}", title_justify="left")
        table.add_column("what")
        table.add_column("count", justify="right")
        table.add_column("remarks")
        table.add_row("queries", f"{stats.queries:,}", f"{stats.pending:,} waiting for an answer")
        about = f"{stats.comparisons:,} comparisons, {stats.ties:,} of them ties; {stats.skips:,} skips"
        table.add_row("labels", f"{stats.labels:,}", about)
        table.add_row("undone", f"{stats.undone:,}", "kept in the log")
        table.add_row("events", f"{stats.events:,}", f"{_moment(stats.first_time)} to {_moment(stats.last_time)}")
        rewarded = f"{decimal(stats.segment_bytes)}; {stats.with_true_rewards:,} with true rewards"
        table.add_row("segments", f"{stats.segments:,}", rewarded)
        table.add_row("on disk", decimal(stats.file_bytes), "")
        for title, counts in (("annotator", stats.by_annotator), ("oracle", stats.by_oracle), ("run", stats.by_run)):
            table.add_section()
            for name, count in counts.items():
                table.add_row(
                    f"{title} {escape(name) or '(no name)'}", f"{count:,}", f"{count / stats.labels:.1%} of labels"
                )
        Console(emoji=False).print(table)
        if agreement is not None:
            _print_agreement(agreement)


@dataclass(frozen=True)
class StoreAgreement:
    """Measure how far annotators agree, with each other and with themselves, and who may not look.

    This is the report of the labelling page, for the answers of people, models and simulated raters alike.
    """

    store: Annotated[str, Positional]
    """Path of the SQLite file, or postgresql:// URL."""
    task_run: str | None = None
    """Only the answers given to this run."""
    oracle: str | None = None
    """Only the answers of this rater, such as human or vlm."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print the report; raises PrefenvsError for a store without named answers."""
        from prefenvs.agreement import measure_agreement
        from prefenvs.store import Store

        with Store(self.store, create=False) as store:
            agreement = measure_agreement(store, self.task_run, self.oracle)
        if not agreement.annotators:
            of_run = f" of run {self.task_run!r}" if self.task_run is not None else ""
            raise PrefenvsError(f"{self.store} holds no answer{of_run} of a named annotator, so nobody can agree")
        if self.json:
            print(to_json(agreement))
        else:
            _print_agreement(agreement)


@dataclass(frozen=True)
class StoreExport:
    """Write a store to a folder or a .zip file: JSON lines and NPZ, documented in docs/how-to/store.md."""

    store: Annotated[str, Positional]
    """Path of the SQLite file, or postgresql:// URL."""
    out: Annotated[Path, Positional]
    """Folder to make, or file if the name ends in .zip; it must not exist yet."""
    true_rewards: bool = True
    """Include the hidden rewards; leave them out of an export for people or methods that must not know them."""

    def run(self) -> None:
        """Export, and say what was written; raises PrefenvsError for a path that is no folder or zip."""
        from prefenvs.store import Store, export_store

        if re.fullmatch(r"\.[A-Za-z][A-Za-z0-9]{0,7}", self.out.suffix) and self.out.suffix != ".zip":
            raise PrefenvsError(
                f"an export is a folder or a .zip file, not a {self.out.suffix} file: give {self.out.with_suffix('')} "
                f"or {self.out.with_suffix('.zip')} (docs/how-to/store.md describes the files in it)"
            )
        with Store(self.store, create=False) as store:
            counts = export_store(store, self.out, self.true_rewards)
        about = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
        Console(soft_wrap=True).print(f"wrote {self.out}: {about}", markup=False)


@dataclass(frozen=True)
class StoreImport:
    """Add an export to a store, which is made if there is none; importing twice changes nothing.

    A .json file that the labelling page exported, with answers that it could not send, goes into the store to which the
    page belonged.
    """

    store: Annotated[str, Positional]
    """Path of the SQLite file, or postgresql:// URL."""
    source: Annotated[Path, Positional]
    """Folder or .zip file that `prefenvs store export` wrote, or .json file of the labelling page."""
    max_gib: PositiveFloat = 16.0
    """An export that is larger than this when unpacked is refused."""

    def run(self) -> None:
        """Import, and say how much was new."""
        from prefenvs.store import import_store

        if self.source.suffix == ".json":
            self._import_answers()
            return
        with filling(self.store) as store:
            new = import_store(store, self.source, int(self.max_gib * 2**30))
        about = f"{new.segments:,} segments, {new.queries:,} queries and {new.events:,} events were new"
        if new.calls:
            about += f"; {new.calls:,} calls of models as well"
        Console(soft_wrap=True).print(f"imported {self.source}: {about}", markup=False)

    def _import_answers(self) -> None:
        from prefenvs.oracles.labelling.answers import import_answers
        from prefenvs.store import Store

        with Store(self.store, create=False) as store:
            before = store.stats().events
            taken, reasons = import_answers(store, self.source)
            new = store.stats().events - before
        for reason in reasons:
            print(f"not taken: {reason}")
        about = f"{taken:,} answers are in the store, {new:,} of them new; {len(reasons):,} not taken"
        print(f"imported {self.source}: {about}")


@contextmanager
def filling(location: str) -> Iterator[Store]:
    """Open a store, or make one, which is removed again where a PrefenvsError leaves nothing to put into it."""
    from prefenvs.store import Store

    new_file = "://" not in location and not Path(location).expanduser().exists()
    try:
        with Store(location) as store:
            yield store
    except PrefenvsError:
        if new_file:
            for suffix in ("", "-wal", "-shm"):
                Path(f"{location}{suffix}").expanduser().unlink(missing_ok=True)
        raise


def tell_known(store: Store) -> None:
    """Say how many answers to gold questions a store's labels come without."""
    if known := store.count_known():
        print(f"left out: {known} answers to gold questions, whose right answer was known", file=sys.stderr)


def learning(dataset: str, task: str | None, store: str, *, acts: bool = True) -> str:
    """Return the command line that learns from a store's answers about a data set: a policy, or else a reward."""
    words = ["train", "iql", "--preset", "small", "--dataset", dataset] if acts else ["reward", dataset]
    return shlex.join(["prefenvs", *words, *(["--task", task] if task else []), "--preferences", store])


def _print_agreement(agreement: Agreement) -> None:
    """Print what the labelling page's report shows."""
    from prefenvs.agreement import COLUMNS, cells, summarise

    console = Console()
    for line in summarise(agreement):
        console.print(line)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in COLUMNS[:-1]:
        table.add_column(column, justify="left" if column == "annotator" else "right", overflow="fold")
    for person in agreement.annotators:
        table.add_row(*(escape(cell) for cell in cells(person)[:-1]))
    console.print(table)
    for person in agreement.annotators:
        for flag in person.flags:
            console.print(f"{person.name}: {flag}", markup=False)


def _moment(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(sep=" ", timespec="seconds")
