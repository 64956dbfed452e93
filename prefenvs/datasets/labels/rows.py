"""Rows of label files, whatever the format: CSV, JSON lines, Parquet, Label Studio's exports, segments in .npz."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prefenvs.errors import PrefenvsError, failure_told, import_extra
from prefenvs.internal.file_sizes import check_npz, check_size

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".npz")
"""Endings of files that `read_rows` reads."""
OBJECTS = 8
"""Bytes that rows take as Python's objects, for each that their file has, about."""
BATCH = 1024
"""Rows of a Parquet file that are read at a time."""
NPZ = {
    "obs_1": "observations_1",
    "obs_2": "observations_2",
    "action_1": "actions_1",
    "action_2": "actions_2",
    "label": "choice",
}
"""Arrays of the files of Hejna and Sadigh (2023, Inverse Preference Learning), and our columns of the same content."""


class Row(NamedTuple):
    """One row of a label file: where it stands ("line 7"), and its cells by column; an empty cell is not there."""

    place: str
    cells: dict[str, Any]


def is_table(path: Path) -> bool:
    """Tell whether a path is named as a label table, or is a folder of Parquet files as `datasets` has them."""
    return path.suffix in SUFFIXES or (path.is_dir() and any(_parquet_files(path)))


def read_rows(path: Path) -> list[Row]:
    """Read a label file or a folder of Parquet files.

    Raises PrefenvsError for a file that is missing, damaged, of another kind, or larger than the limit on memory.
    """
    if not path.exists():
        raise PrefenvsError(f"there is no label file {path}")
    if not is_table(path):
        raise PrefenvsError(f"{path} is no label file: give a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    if path.is_dir():
        return list(_read_parquet({f"{file.name} ": file for file in _parquet_files(path)}, path))
    if path.suffix == ".parquet":
        return list(_read_parquet({"": path}, path))
    if path.suffix == ".npz":
        return list(_read_npz(path))
    check_size(OBJECTS * path.stat().st_size, path)
    try:
        # As bytes first: line ends within quotes are part of a name.
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PrefenvsError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from None
    if path.suffix in (".csv", ".tsv"):
        return list(_read_csv(text, path))
    return list(_read_json(text, path))


def _parquet_files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])


def _filled(cells: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    return {str(name).strip(): value for name, value in cells if value is not None and value != "" and value == value}


def _read_csv(text: str, path: Path) -> Iterator[Row]:
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        names = next(reader, [])
        line = reader.line_num
        for cells in reader:
            begin, line = line + 1, reader.line_num
            if len(cells) > len(names):
                raise PrefenvsError(f"{path}, line {begin}: {len(cells)} cells, but the header has {len(names)}")
            if cells:
                yield Row(f"line {begin}", _filled(zip(names, cells, strict=False)))
    except csv.Error as error:
        raise PrefenvsError(f"{path}, line {reader.line_num}: {error}") from None


def _read_parquet(files: Mapping[str, Path], table: Path) -> Iterator[Row]:
    """Read the files of a table by what is said before the numbers of their rows; equal rows take next to no disk."""
    parquet = import_extra("pyarrow.parquet", "a Parquet file")
    size = 0
    for where, path in files.items():
        numbers = itertools.count(1)
        with failure_told(f"{path} is no Parquet file"), parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(BATCH):
                size += OBJECTS * (batch.nbytes + 8 * batch.num_rows * batch.num_columns)
                check_size(size, table)
                for record, number in zip(batch.to_pylist(), numbers, strict=False):
                    yield Row(f"{where}row {number}", _filled(record.items()))


def _read_npz(path: Path) -> Iterator[Row]:
    with failure_told(f"{path} cannot be read"):
        check_npz(path, set(NPZ))
        with np.load(path, allow_pickle=False) as file:
            arrays = {NPZ[name]: file[name] for name in NPZ if name in file.files}
    missing = [name for name, column in NPZ.items() if column not in arrays]
    if missing:
        raise PrefenvsError(f"{path} lacks the array {missing[0]!r}: labelled segments have {', '.join(NPZ)}")
    if len({len(array) for array in arrays.values() if array.ndim}) != 1:
        raise PrefenvsError(f"{path}: its arrays have {', '.join(str(array.shape) for array in arrays.values())}")
    for number in range(len(arrays["choice"])):
        cells = {name: array[number] for name, array in arrays.items()}
        yield Row(f"row {number + 1}", cells | {"choice": f"{float(cells['choice']):g}"})


def _read_json(text: str, path: Path) -> Iterator[Row]:
    if path.suffix == ".jsonl":
        lines = [(f"line {number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        records = [(place, _parse(line, path, place)) for place, line in lines]
    else:
        found = _parse(text, path, "")
        if not isinstance(found, list):
            raise PrefenvsError(f"{path} holds a {type(found).__name__}: labels in JSON are a list of objects")
        records = [(f"entry {number}", record) for number, record in enumerate(found, 1)]
    for place, record in records:
        if not isinstance(record, dict):
            raise PrefenvsError(f"{path}, {place}: expected an object, got {json.dumps(record)[:40]}")
        if "data" in record and ("annotations" in record or "completions" in record):
            yield from _read_task(record, path, place)
        else:
            yield Row(place, _filled(record.items()))


def _parse(text: str, path: Path, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PrefenvsError(f"{path}{place and ', '}{place} is no JSON: {error}") from None


def _read_task(task: Mapping[str, Any], path: Path, place: str) -> Iterator[Row]:
    """One row for each annotation of a task of Label Studio: the task's data, and the choice of its Pairwise tag.

    A cancelled annotation is a skip, and so is one in which nothing was selected.
    """
    annotations = task.get("annotations", task.get("completions"))
    if not isinstance(task["data"], dict) or not isinstance(annotations, list):
        raise PrefenvsError(f"{path}, {place}: a task of Label Studio has data and a list of annotations")
    where = f"task {task.get('id', place)}"
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise PrefenvsError(f"{path}, {where}: an annotation is an object, got {annotation!r}")
        cells = dict(task["data"])
        cells["choice"] = "skip" if annotation.get("was_cancelled") else _selection(annotation.get("result"))
        person = annotation.get("completed_by")
        if isinstance(person, dict):
            person = person.get("email") or person.get("id")
        cells["annotator"] = None if person is None else str(person)
        cells["time"], cells["seconds"] = annotation.get("created_at"), annotation.get("lead_time")
        yield Row(where, _filled(cells.items()))


def _selection(results: Any) -> str:
    """What an annotation's results select: left or right of the Pairwise tag, or else a word of a Choices tag."""
    values = [one.get("value") for one in results or () if isinstance(one, dict)]
    chosen = [
        selected(value)
        for key in ("selected", "choices")
        for value in values
        if isinstance(value, dict) and key in value
    ]
    return next((str(word) for word in chosen if word != "skip"), "skip")


def selected(value: Any) -> Any:
    """Return the word in a cell that holds a result of Label Studio, {"selected": "left"}; other cells as they are."""
    if isinstance(value, str) and value[:1] in "[{" and "selected" in value:
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        value = value.get("selected", value.get("choices"))
        return selected(value) if isinstance(value, list) else "skip" if value in (None, "none") else value
    return value
