"""Export of a store: JSON lines for queries and labels, NPZ for segments (format: docs/how-to/store.md)."""

from __future__ import annotations

import json
import os
import shutil
import time as clock
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.store import rows
from prefenvs.store.database import reading
from prefenvs.store.events import COLUMNS, Event
from prefenvs.store.packing import unpack_arrays
from prefenvs.store.schema import (
    FORMAT,
    SCHEMA_VERSION,
    calls,
    queries,
    query_segments,
    requests,
    segments,
    true_rewards,
)
from prefenvs.store.store import Store

FILES = ("meta.json", "queries.jsonl", "requests.jsonl", "labels.jsonl", "segments.npz")
OPTIONAL = ("true_rewards.npz", "calls.jsonl")
_GROUP = 2048
_DEFAULTS = {"run": "", "annotator": "", "oracle": "", "reason": "", "page": "", "extra": {}}

_Row = tuple[str, Mapping[str, Any], Mapping[str, Array]]


def export_store(store: Store, out: str | os.PathLike[str], with_true_rewards: bool = True) -> dict[str, int]:
    """Write a whole store to the folder `out`, or to one file if its name ends in .zip; it appears whole or not at all.

    Returns how many segments, queries, requests, events, calls of models and true rewards were written. Without true
    rewards the export can be given to people who must not know them, and still be imported. Raises PrefenvsError for a
    target that exists, or has no folder.
    """
    target = Path(out).expanduser().absolute()
    if target.exists():
        raise PrefenvsError(f"{target} exists already: remove it or choose another name")
    if not target.parent.is_dir():
        raise PrefenvsError(f"the folder {target.parent} does not exist; make it or correct the path")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        with reading(store.engine) as connection:
            counts = _write_tables(connection, part) | _write_arrays(connection, part, with_true_rewards)
        about = {"format": FORMAT, "schema_version": SCHEMA_VERSION, "exported": clock.time(), "counts": counts}
        (part / "meta.json").write_text(json.dumps(about, indent=1) + "\n")
        finished = _zip(part) if target.suffix == ".zip" else part
        for path in (finished, *finished.glob("*")):
            _flush(path)
        finished.rename(target)
        _flush(target.parent)
        return counts
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_tables(connection: sa.Connection, folder: Path) -> dict[str, int]:
    links: dict[str, list[str]] = {}
    select = sa.select(query_segments.c.query, query_segments.c.segment)
    for query, segment in connection.execute(select.order_by(query_segments.c.query, query_segments.c.position)):
        links.setdefault(query, []).append(segment)
    asked = connection.execute(sa.select(queries).order_by(queries.c.created, queries.c.id))
    lines = ({"id": row.id, "created": row.created, "segments": links[row.id]} for row in asked)
    counts = {"queries": _write_lines(folder / "queries.jsonl", lines)}
    columns = [column for column in requests.c if column.name != "seq"]
    rows_asked = connection.execute(sa.select(*columns).order_by(requests.c.seq)).mappings()
    counts["requests"] = _write_lines(folder / "requests.jsonl", map(dict, rows_asked))
    log = (_record(event) for event in rows.select_events(connection))
    counts["events"] = _write_lines(folder / "labels.jsonl", log)
    made = connection.execute(sa.select(*(column for column in calls.c if column.name != "seq")).order_by(calls.c.seq))
    counts["calls"] = _write_lines(folder / "calls.jsonl", map(dict, made.mappings()))
    return counts


def _record(event: Event) -> dict[str, Any]:
    values = {name: getattr(event, name) for name in COLUMNS}
    return {name: value for name, value in values.items() if value is not None and value != _DEFAULTS.get(name)}


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            count += 1
    return count


def _write_arrays(connection: sa.Connection, folder: Path, with_true_rewards: bool) -> dict[str, int]:
    counts = {}
    with _Groups(folder / "segments.npz") as groups:
        for row in connection.execute(sa.select(segments).order_by(segments.c.hash).execution_options(yield_per=256)):
            about = {"source": row.source, "episode": row.episode, "start": row.start}
            groups.add(row.hash, row.task, about, unpack_arrays(row.data))
        counts["segments"] = groups.count
    if with_true_rewards:
        with _Groups(folder / "true_rewards.npz") as groups:
            select = sa.select(true_rewards).order_by(true_rewards.c.segment).execution_options(yield_per=256)
            for row in connection.execute(select):
                groups.add(row.segment, "", {}, unpack_arrays(row.data))
            counts["true_rewards"] = groups.count
    return counts


class _Groups:
    """An NPZ file being written: rows of equal task, shapes and dtypes are stacked, at most `_GROUP` at a time."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._archive = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._open: dict[tuple[str, object], list[_Row]] = {}
        self._written = 0

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is None:
            for (task, _), members in self._open.items():
                self._write(task, members)
        self._archive.close()

    def add(self, key: str, task: str, about: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Put one row into its group."""
        shapes = tuple((name, array.dtype.str, array.shape) for name, array in arrays.items())
        members = self._open.setdefault((task, shapes), [])
        members.append((key, about, arrays))
        self.count += 1
        if len(members) == _GROUP:
            self._write(task, self._open.pop((task, shapes)))

    def _write(self, task: str, members: list[_Row]) -> None:
        first_about, first_arrays = members[0][1:]
        columns: dict[str, Array] = {"hash": np.array([key.encode() for key, _, _ in members])}
        if first_about:
            columns["task"] = np.array(task)
        for name in first_about:
            columns[name] = np.array([about[name] for _, about, _ in members])
        for name, like in first_arrays.items():
            # Not np.stack, which would change a foreign byte order and with it the hash.
            columns[name] = np.empty((len(members), *like.shape), like.dtype)
            for index, (_, _, arrays) in enumerate(members):
                columns[name][index] = arrays[name]
        for name, array in columns.items():
            with self._archive.open(f"{self._written}/{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)  # type: ignore[no-untyped-call]
        self._written += 1


def _zip(folder: Path) -> Path:
    archive = folder / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in (*FILES, *OPTIONAL):
            if (folder / name).exists():
                method = zipfile.ZIP_STORED if name.endswith(".npz") else zipfile.ZIP_DEFLATED
                file.write(folder / name, name, method)
    return archive


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
