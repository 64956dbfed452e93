"""Labels as tables for other tools: CSV, JSON lines, Parquet, and a folder that Hugging Face `datasets` reads."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefenvs.datasets.labels.table import checksum
from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.preferences import Preference

if TYPE_CHECKING:
    import pyarrow

TYPES: dict[str, Literal["text", "whole", "number"]] = {
    "run": "text",
    "task": "text",
    "source": "text",
    **{f"{name}_{side}": "whole" for side in (1, 2) for name in ("episode", "start", "length")},
    "choice": "text",
    "probability_1": "number",
    "probability_2": "number",
    "annotator": "text",
    "oracle": "text",
    "time": "number",
    "seconds": "number",
    "shown": "text",
    "checksum_1": "text",
    "checksum_2": "text",
}
"""Columns of a written table, and what they hold."""
ARRAYS = tuple(f"{name}_{side}" for side in (1, 2) for name in ("observations", "actions"))
"""Further columns, nested lists of float32, where the segments themselves are written."""


def write_label_table(
    labels: Iterable[tuple[str, Preference]], path: str | Path, *, arrays: bool = False
) -> tuple[int, int]:
    """Write labels, each with the name of its run, and return how many were written and how many left out.

    path: a .csv, .jsonl or .parquet file, or a folder with the layout of Hugging Face `datasets`; it appears whole or
    not at all. arrays: write observations and actions too, so that the file can be read without its data set.
    Labels about more than two segments fit no pair of columns and are left out. Raises PrefenvsError for a path that
    exists or has another ending, and for arrays in a CSV file.
    """
    path = Path(path)
    labels = list(labels)
    pairs = [(run, one) for run, one in labels if len(one.query.segments) == 2]
    if path.exists():
        raise PrefenvsError(f"{path} exists already: remove it or choose another name")
    if not path.absolute().parent.is_dir():
        raise PrefenvsError(f"the folder {path.parent} does not exist; make it or correct the path")
    if path.suffix not in (".csv", ".jsonl", ".parquet", ""):
        raise PrefenvsError(
            f"{path} is to be written as {path.suffix}: give .csv, .jsonl, .parquet, or a folder's name"
        )
    if arrays and path.suffix == ".csv":
        raise PrefenvsError(f"{path} has no cells for arrays: write .jsonl, .parquet or a folder")
    records = [_record(run, one, arrays) for run, one in pairs]
    new = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix == ".csv":
            with new.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(TYPES))
                writer.writeheader()
                writer.writerows(records)
        elif path.suffix == ".jsonl":
            lines = (json.dumps(record, allow_nan=False) + "\n" for record in records)
            with new.open("w", encoding="utf-8") as file:
                file.writelines(lines)
        elif path.suffix == ".parquet":
            _write_parquet(records, new, arrays)
        else:
            _write_folder(records, new, path.name, arrays)
        new.rename(path)
    finally:
        if new.is_dir():
            shutil.rmtree(new)
        new.unlink(missing_ok=True)
    return len(pairs), len(labels) - len(pairs)


def _record(run: str, label: Preference, arrays: bool) -> dict[str, Any]:
    first, second = label.query.segments
    share = label.probabilities
    choice = "skip" if share is None else "tie" if label.best is None else ("first", "second")[label.best]
    record: dict[str, Any] = dict.fromkeys(TYPES) | {
        "run": run,
        "task": first.task,
        "source": first.source,
        "choice": choice,
        "annotator": label.annotator,
        "oracle": label.oracle,
        "time": float(label.time),
        "seconds": None if label.seconds is None else float(label.seconds),
        "shown": None if label.shown is None else " ".join(str(index + 1) for index in label.shown),
    }
    for side, segment in enumerate((first, second), 1):
        record[f"episode_{side}"], record[f"start_{side}"] = int(segment.episode), int(segment.start)
        record[f"length_{side}"], record[f"checksum_{side}"] = len(segment), checksum(segment)
        record[f"probability_{side}"] = None if share is None else float(share[side - 1])
        if arrays:
            record[f"observations_{side}"] = segment.observations.astype("float32").tolist()
            record[f"actions_{side}"] = segment.actions.astype("float32").tolist()
    return record


def _arrow_table(records: Sequence[dict[str, Any]], arrays: bool) -> pyarrow.Table:
    pyarrow = import_extra("pyarrow", "a Parquet file")
    kinds = {"text": pyarrow.string(), "whole": pyarrow.int64(), "number": pyarrow.float64()}
    columns = [(name, kinds[kind]) for name, kind in TYPES.items()]
    for name in ARRAYS if arrays else ():
        kind = pyarrow.float32()
        cell = records[0][name] if records else [[]]
        while isinstance(cell, list):
            cell, kind = cell[0] if cell else None, pyarrow.list_(kind)
        columns.append((name, kind))
    return pyarrow.Table.from_pylist(list(records), schema=pyarrow.schema(columns))


def _write_parquet(records: Sequence[dict[str, Any]], path: Path, arrays: bool) -> pyarrow.Table:
    table = _arrow_table(records, arrays)
    from pyarrow import parquet

    parquet.write_table(table, path)
    return table


def _write_folder(records: Sequence[dict[str, Any]], folder: Path, name: str, arrays: bool) -> None:
    """Write data/train-00000-of-00001.parquet, and README.md, whose header tells `datasets` columns and split."""
    (folder / "data").mkdir(parents=True)
    part = folder / "data" / "train-00000-of-00001.parquet"
    table = _write_parquet(records, part, arrays)
    tasks = sorted({record["task"] for record in records if record["task"]})
    answers = [record["choice"] for record in records]
    size = part.stat().st_size
    features = "".join(f"  - name: {column.name}\n{_feature(str(column.type))}" for column in table.schema)
    header = f"""---
task_categories:
- reinforcement-learning
tags:
- preferences
- prefenvs
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
dataset_info:
  features:
{features}  splits:
  - name: train
    num_bytes: {table.nbytes}
    num_examples: {len(records)}
  download_size: {size}
  dataset_size: {table.nbytes}
---
"""
    counts = ", ".join(f"{answers.count(kind)} {kind}" for kind in ("first", "second", "tie", "skip"))
    people = len({record["annotator"] for record in records})
    about = f"""
# {name}

{len(records)} comparisons of two segments of {", ".join(tasks) or "behaviour"} by {people} annotators: {counts}.

A row is one answer. `episode_1`, `start_1` and `length_1` tell where the first segment lies in the data set that it was
cut from (`source`), counted from 0; `checksum_1` are 16 hex digits of the SHA-256 of its observations and actions as
float32. `probability_1` is the probability that it is the better one (0.5 for a tie, empty for a skip). `shown` is the
order on the screen from left to right, `time` seconds since 1970 (UTC), `seconds` how long the answer took.
"""
    (folder / "README.md").write_text(header + about, encoding="utf-8")


def _feature(kind: str) -> str:
    """The type of a column in the header, in the words of `datasets`."""
    inner, depth = kind, 0
    while inner.startswith("list<"):
        inner, depth = inner.partition(": ")[2].removesuffix(">"), depth + 1
    name = {"string": "string", "int64": "int64", "double": "float64", "float": "float32"}[inner]
    if not depth:
        return f"    dtype: {name}\n"
    nested = "".join(f"{'  ' * (level + 2)}sequence:\n" for level in range(depth - 1))
    return f"{nested}{'  ' * (depth + 1)}sequence: {name}\n"
