"""`prefenvs labels import | export`: labels of other tools into a store, and a store's labels into their formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional

from prefenvs.cli.data.store import filling, learning, tell_known
from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveFloat, PositiveInt

if TYPE_CHECKING:
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.preferences import Preference

TABLE = ("columns", "choices", "segments", "segment_length", "task")
"""Options that concern tables alone."""
PUBLISHED = ("rows", "crossing")
"""Options that concern published label files alone."""


@dataclass(frozen=True)
class LabelsImport:
    """Put labels from elsewhere into a preference store, a label file, or both, with a report.

    Read are tables with a row for each answer (.csv, .jsonl, .parquet, a Hugging Face folder of those), Label Studio's
    exports (.json), labelled segments (.npz), and the folders of Preference Transformer and Uni-RLHF.
    """

    source: Annotated[Path, Positional]
    """The label file or folder."""
    dataset: str | None = None
    """The data that the labels are about, by name or path; tables that hold their segments need none."""
    store: str | None = None
    """Store that the labels go into: a SQLite file, which is made if there is none, or postgresql:// URL."""
    out: Path | None = None
    """Table that the labels are written to: .csv, .jsonl, .parquet, or a new Hugging Face folder."""
    dry_run: bool = False
    """Print the report, and write nothing."""
    columns: tuple[str, ...] = ()
    """Names of a table's columns where they are not ours: choice=winner episode_1=left_episode ..."""
    choices: tuple[str, ...] = ()
    """What the words or numbers of a table's choices mean: 1=first 2=second 0=tie x=skip."""
    segments: Path | None = None
    """Table of id, episode and start, for labels that name their segments by ids, in segment_1 and segment_2."""
    segment_length: PositiveInt | None = None
    """Steps in a segment, where no column tells it; the task's own by default."""
    annotator: str = ""
    """Who answered, where the file does not tell it."""
    task: str = ""
    """Task of the data or segments, where they do not tell it."""
    rows: Literal["qlearning", "raw"] = "qlearning"
    """What row numbers of published labels count: the steps of D4RL's q-learning form, or of the file."""
    crossing: Literal["drop", "refuse"] = "drop"
    """What to do where a published pair has a segment across an episode's end: leave it out, or import nothing."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take, and so may a table; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""

    def run(self) -> None:
        """Print the report and write the labels; raises PrefenvsError where there is none, or nowhere to write to."""
        from prefenvs.datasets.labels.rows import is_table
        from prefenvs.datasets.load import load_dataset

        if self.store is None and self.out is None and not self.dry_run:
            raise PrefenvsError("say where the labels go: --store FILE, --out FILE, or --dry-run for the report alone")
        table = is_table(self.source)
        self._check_options(PUBLISHED if table else TABLE, "a label table" if table else "published label files")
        data = (
            None
            if self.dataset is None
            else load_dataset(self.dataset, self.task or None, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        )
        labels = self._read_table(data) if table else self._read_published(data)
        if self.dry_run:
            print("dry run: nothing was written")
            return
        if self.out is not None:
            from prefenvs.datasets.labels.writing import write_label_table

            write_label_table(labels, self.out, arrays=data is None and self.out.suffix != ".csv")
            print(f"wrote {self.out}: {len(labels)} labels")
        if self.store is not None:
            put(labels, self.store)
            print(f"{len(labels)} labels are in {self.store}")
            if self.dataset is not None:
                print(f"learn from them: {learning(self.dataset, self.task, self.store)}")

    def _check_options(self, others: Sequence[str], what: str) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        for name in others:
            # A task may be of the data, too.
            if getattr(self, name) != defaults[name] and not (name == "task" and self.dataset):
                raise PrefenvsError(f"--{name.replace('_', '-')} does not go with {what}: leave it out")

    def _read_table(self, data: OfflineDataset | None) -> list[tuple[str, Preference]]:
        from prefenvs.datasets.labels.table import read_label_table

        table = read_label_table(
            self.source,
            data,
            columns=_pairs(self.columns, "--columns"),
            choices=_pairs(self.choices, "--choices"),
            segments=self.segments,
            length=self.segment_length,
            annotator=self.annotator,
            task=self.task,
            max_gib=self.max_gib,
        )
        print("\n".join(table.report()))
        if not table.preferences:
            raise PrefenvsError(f"{self.source}: all {table.rows} rows were refused, so nothing was imported")
        return list(zip(table.runs, table.preferences, strict=True))

    def _read_published(self, data: OfflineDataset | None) -> list[tuple[str, Preference]]:
        from prefenvs.datasets.labels.files import label_preferences, read_labels

        labels = read_labels(self.source)
        if data is None:
            raise PrefenvsError(f"the labels of {labels.name} are numbers of rows: name their data by --dataset")
        preferences = label_preferences(labels, data, self.rows, self.crossing, self.annotator)
        left_out = len(labels) - len(preferences)
        crossing = f"; {left_out} of {len(labels)} left out: across an episode's end" if left_out else ""
        print(f"{len(preferences)} labels of {labels.name}{crossing}")
        return [(labels.name, preference) for preference in preferences]


@dataclass(frozen=True)
class LabelsExport:
    """Write the labels of a store as a table: CSV, JSON lines, Parquet, or a folder of Hugging Face `datasets`."""

    store: Annotated[str, Positional]
    """Path of the SQLite file, or postgresql:// URL."""
    out: Annotated[Path, Positional]
    """File to make, by its ending .csv, .jsonl or .parquet, or folder to make; it must not exist yet."""
    task_run: str | None = None
    """Only the labels given to this run; gold and tutorial, questions whose right answer is known, if named alone."""
    arrays: bool = False
    """Write observations and actions too, so that the table can be read without its data set; not into CSV."""

    def run(self) -> None:
        """Write the answers that stand, and say how many; raises PrefenvsError where there is none."""
        from prefenvs.datasets.labels.writing import write_label_table
        from prefenvs.store import GOLD, TUTORIAL, Store

        with Store(self.store, create=False) as store:
            if self.task_run is None:
                tell_known(store)
                runs = {*store.stats().by_run} - {GOLD, TUTORIAL}
            else:
                runs = {self.task_run}
            labels = [(run, label) for run in sorted(runs) for label in store.preferences(run=run)]
            ratings = sum(event.kind == "rating" for event in store.events_after(run=self.task_run))
        if not labels:
            raise PrefenvsError(f"{self.store} holds no label{f' of run {self.task_run!r}' if self.task_run else ''}")
        written, left_out = write_label_table(labels, self.out, arrays=self.arrays)
        print(f"wrote {self.out}: {written} labels")
        if left_out:
            print(f"left out: {left_out} about more than two segments, which `prefenvs store export` keeps")
        if ratings:
            print(f"left out: {ratings} ratings of single clips, which `prefenvs store export` keeps")


def put(labels: Sequence[tuple[str, Preference]], location: str) -> None:
    """Add labels, each with the name of its run, to a store."""
    by_run: dict[str, list[Preference]] = {}
    for run, label in labels:
        by_run.setdefault(run, []).append(label)
    with filling(location) as store:
        for run, given in by_run.items():
            store.add_preferences(given, run=run)


def _pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    """Read words such as choice=winner."""
    for word in words:
        name, mark, value = word.partition("=")
        if not (name and mark and value):
            raise PrefenvsError(f"{flag} {word!r} is no pair: write NAME=VALUE")
    return dict(word.split("=", 1) for word in words)
