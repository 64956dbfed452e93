"""`prefenvs labels report`: look into published label files before learning from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, PositiveFloat
from prefenvs.runs import to_json

if TYPE_CHECKING:
    from prefenvs.datasets.labels.report import LabelReport

SHORT = {
    "preference-transformer": "PT",
    "uni-rlhf": "Uni-RLHF",
    "uni-rlhf-script": "script",
}
"""Who published labels, as the table has it."""


@dataclass(frozen=True)
class LabelsReport:
    """Check label files of Preference Transformer or Uni-RLHF; the exit status is 1 if one is unfit to learn from."""

    folders: Annotated[tuple[Path, ...], Positional]
    """Folders that each hold the label and index files of one data set, or the label files in them."""
    dataset: str | None = None
    """The data that the labels are about, a D4RL name or file, to check rows and agreement with the true return."""
    script: Path | None = None
    """Scripted labels of the same pairs, to check agreement without the data."""
    rows: Literal["qlearning", "raw"] = "qlearning"
    """What row numbers count: the steps of D4RL's q-learning form, as both publications do, or of the file."""
    tie_below: NonNegativeFloat = 0.0
    """True returns that differ by no more count as a tie; Uni-RLHF's scripts take 10 on MuJoCo tasks."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    json: bool = False
    """Print one JSON object for each file."""

    def run(self) -> None:
        """Print a table, then faults and remarks; raises PrefenvsError if no folder is named."""
        from prefenvs.datasets.labels.files import read_labels
        from prefenvs.datasets.labels.report import report_labels
        from prefenvs.datasets.load import load_dataset

        if not self.folders:
            raise PrefenvsError("name at least one folder of label files: prefenvs labels report FOLDER...")
        dataset = (
            None
            if self.dataset is None
            else load_dataset(self.dataset, max_gib=self.max_gib, skip_damaged=self.skip_damaged)
        )
        script = None if self.script is None else read_labels(self.script)
        reports = [
            report_labels(read_labels(folder), dataset, script, self.rows, self.tie_below) for folder in self.folders
        ]
        if self.json:
            for report in reports:
                print(to_json(report))
        else:
            _print(reports)
        if any(report.faults for report in reports):
            raise SystemExit(1)


def _print(reports: list[LabelReport]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("labels of", no_wrap=True)
    table.add_column("by", no_wrap=True)
    for column in ("pairs", "T", "1st/2nd", "ties", "cross", "agree"):
        table.add_column(column, justify="right", no_wrap=True)
    for report in reports:
        table.add_row(
            escape(report.name),
            SHORT[report.layout],
            f"{report.pairs:,}",
            str(report.length),
            f"{report.first}/{report.second}",
            f"{report.ties / report.pairs:.1%}",
            "-" if report.crossing is None else f"{report.crossing:.1%}",
            "-" if report.agreement is None else f"{report.agreement:.1%}",
        )
    Console(emoji=False).print(table)
    for report in reports:
        for kind, lines in (("FAULT", report.faults), ("remark", report.remarks)):
            for line in lines:
                print(f"{kind}: {report.name}: {line}")
        if report.agreement is not None:
            print(f"{report.name}: {report.compared} pairs decided by both; the return ties {report.script_ties:.1%}")
