"""Import of exported stores, checked line by line and in one transaction (format: docs/how-to/store.md)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import query_id
from prefenvs.segments import Array, Segment
from prefenvs.store import rows
from prefenvs.store.database import writing
from prefenvs.store.events import COLUMNS, Event, check_number, check_text
from prefenvs.store.exchange.exporting import FILES, OPTIONAL
from prefenvs.store.packing import ARRAYS, pack_arrays, segment_of
from prefenvs.store.schema import FORMAT, SCHEMA_VERSION, calls, events, queries, segments, true_rewards
from prefenvs.store.store import Store

_TEXTS = ("key", "run", "query", "model", "prompt", "reply", "finish")
_NUMBERS = ("tokens_in", "tokens_out", "cost", "seconds", "time")
_IDENTITY = ("key", "run", "query", "time")
"""Columns by which a call is known again."""
MAX_BYTES = 16 * 2**30
"""Default of how large an export may be once it is unpacked."""
_ROW_BYTES, _CHUNK_BYTES, _LINE, _META_BYTES = 64 * 2**20, 8 * 2**20, 8 * 2**20, 2**20
_DAMAGED = (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error)


@dataclass(frozen=True)
class Imported:
    """How much of an import was new to the store."""

    segments: int
    queries: int
    events: int
    calls: int = 0


def import_store(store: Store, source: str | os.PathLike[str], max_bytes: int = MAX_BYTES) -> Imported:
    """Add an export to a store, in one transaction; what the store has already is left out, so stores can be merged.

    It is read piece by piece, in constant memory. max_bytes: an export that would be larger once unpacked is refused.
    Raises PrefenvsError for a path without an export, and for one that is damaged.
    """
    path = Path(source).expanduser()
    with contextlib.ExitStack() as stack:
        if path.is_file():
            path = _unzip(path, Path(stack.enter_context(tempfile.TemporaryDirectory())), max_bytes)
        elif not path.is_dir():
            raise PrefenvsError(f"there is no export at {path}")
        about = _read_meta(path)
        connection = stack.enter_context(writing(store.engine))
        before = _count(connection)
        tasks = _read_segments(connection, path, max_bytes)
        _read_rewards(connection, path, tasks, max_bytes)
        _read_tables(connection, path, tasks, about["counts"])
        _read_calls(connection, path / "calls.jsonl", about["counts"].get("calls", 0))
        after = _count(connection)
        rows.analyze(connection, sum(after.values()) - sum(before.values()))
    return Imported(*(after[table] - before[table] for table in ("segments", "queries", "events", "calls")))


def _count(connection: sa.Connection) -> dict[str, int]:
    tables = (segments, queries, events, calls)
    return {table.name: connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for table in tables}


def _fail(path: Path, why: object) -> NoReturn:
    raise PrefenvsError(
        f"{path.name} of the export is malformed: {' '.join(str(why).split())}; nothing was imported"
    ) from None


def _check_size(archive: zipfile.ZipFile, names: set[str], max_bytes: int) -> None:
    """Refuse an archive by what it says of itself; a member never yields more than that."""
    size = sum(archive.getinfo(name).file_size for name in names)
    if size > max_bytes:
        raise PrefenvsError(
            f"{Path(archive.filename or '').name} of the export takes {size / 2**30:,.1f} GiB unpacked, more than "
            f"{max_bytes / 2**30:,.1f}: allow it by --max-gib (max_bytes=) if you trust it; nothing was imported"
        )


def _unzip(path: Path, folder: Path, max_bytes: int) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {*FILES, *OPTIONAL} & set(archive.namelist())
            _check_size(archive, names, max_bytes)
            for name in names:
                archive.extract(name, folder)
    except _DAMAGED as error:
        _fail(path, error)
    return folder


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.is_file():
        raise PrefenvsError("this is no export of a preference store: it has no meta.json; nothing was imported")
    if path.stat().st_size > _META_BYTES:
        _fail(path, f"{path.stat().st_size:,} bytes, expected at most {_META_BYTES:,}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        kind, version, counts = about["format"], about["schema_version"], about["counts"]
        numbers = [counts[name] for name in ("segments", "queries", "requests", "events")]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        _fail(path, f"{type(error).__name__} {error}")
    if kind != FORMAT or not all(isinstance(number, int) for number in numbers):
        _fail(path, f"format {kind!r} with counts {numbers}, expected {FORMAT!r} with numbers")
    if version != SCHEMA_VERSION:
        raise PrefenvsError(
            f"the export has schema version {version}, this prefenvs reads version {SCHEMA_VERSION}: "
            "import it with the prefenvs that wrote it; nothing was imported"
        )
    for name in FILES:
        if not (folder / name).is_file():
            raise PrefenvsError(f"the export has no {name}; nothing was imported")
    return dict(about)


@dataclass(frozen=True)
class _Column:
    """An array of an archive that is read row by row; `rows` is None for a single value."""

    file: IO[bytes]
    dtype: np.dtype[Any]
    rows: int | None
    shape: tuple[int, ...]

    @classmethod
    def open(cls, file: IO[bytes], size: int) -> _Column:
        """Read the header of an array whose file has `size` bytes; raises ValueError where the two do not fit."""
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"an array of NumPy's format {version}, expected 1.0 or 2.0")
        shape, fortran, dtype = read(file)  # type: ignore[no-untyped-call]
        if dtype.hasobject or (fortran and len(shape) > 1):
            raise ValueError(f"an array of {dtype} in {'columns' if fortran else 'rows'}, expected numbers in rows")
        column = cls(file, dtype, shape[0] if shape else None, tuple(shape[1:]))
        expected = column.row_bytes * math.prod(shape[:1])
        if file.tell() + expected != size:
            raise ValueError(f"an array of {size - file.tell():,} bytes, its header says {expected:,}")
        if column.row_bytes > _ROW_BYTES:
            raise ValueError(f"a row of {column.row_bytes:,} bytes, expected at most {_ROW_BYTES:,}")
        return column

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def read(self, count: int) -> Array:
        """Return the next `count` rows."""
        size = count * self.row_bytes
        data = self.file.read(size)
        if len(data) != size:
            raise ValueError("an array ends early")
        shape = (() if self.rows is None else (count,)) + self.shape
        return np.frombuffer(bytearray(data), self.dtype).reshape(shape) if size else np.zeros(shape, self.dtype)


def _read_groups(path: Path, max_bytes: int) -> Iterator[dict[str, Array]]:
    """Yield the rows of each group of arrays, some megabytes at a time; single values come with every piece."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check_size(archive, set(archive.namelist()), max_bytes)
            names: dict[str, list[str]] = {}
            for name in archive.namelist():
                names.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
            for group, members in names.items():
                with contextlib.ExitStack() as stack:
                    columns = {}
                    for member in members:
                        info = archive.getinfo(f"{group}/{member}")
                        file = stack.enter_context(archive.open(info))
                        columns[member.removesuffix(".npy")] = _Column.open(file, info.file_size)
                    yield from _read_rows(columns)
    except _DAMAGED as error:
        _fail(path, error)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, PrefenvsError):
            raise
        _fail(path, error)


def _read_rows(columns: Mapping[str, _Column]) -> Iterator[dict[str, Array]]:
    if columns["hash"].dtype != np.dtype("S64"):
        raise ValueError(f"hashes of {columns['hash'].dtype}, expected 64 digits each")
    counts = {column.rows for column in columns.values() if column.rows is not None}
    if len(counts) != 1:
        raise ValueError(f"arrays of {sorted(counts)} rows in one group")
    single = {name: column.read(1) for name, column in columns.items() if column.rows is None}
    several = {name: column for name, column in columns.items() if column.rows is not None}
    step = max(1, min(rows.CHUNK, _CHUNK_BYTES // sum(column.row_bytes for column in several.values())))
    for first in range(0, counts.pop(), step):
        count = min(step, (several["hash"].rows or 0) - first)
        yield single | {name: column.read(count) for name, column in several.items()}


def _read_segments(connection: sa.Connection, folder: Path, max_bytes: int) -> dict[str, str]:
    """Store the segments and return the task of each hash."""
    path, tasks = folder / "segments.npz", {}
    for group in _read_groups(path, max_bytes):
        try:
            pieces = list(_unstack(group))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            _fail(path, f"{type(error).__name__} {error}")
        rows.add_segments(connection, pieces)
        tasks.update({piece.hash: piece.task for piece in pieces})
    return tasks


def _unstack(group: dict[str, Array]) -> Iterator[Segment]:
    arrays = {name: group[name] for name in ARRAYS if name in group}
    task = str(group["task"])
    episodes, starts = (group[name].astype(np.int64, casting="safe").tolist() for name in ("episode", "start"))
    for index, key in enumerate(group["hash"].tolist()):
        segment = segment_of(
            {name: array[index] for name, array in arrays.items()},
            task=task,
            source=str(group["source"][index]),
            episode=episodes[index],
            start=starts[index],
        )
        if segment.hash != key.decode():
            raise ValueError(f"the content of segment {key.decode()} does not match its hash")
        yield segment


def _read_rewards(connection: sa.Connection, folder: Path, tasks: Mapping[str, str], max_bytes: int) -> None:
    path = folder / "true_rewards.npz"
    if not path.is_file():
        return
    for group in _read_groups(path, max_bytes):
        try:
            keys = [key.decode() for key in group["hash"].tolist()]
            rewards = zip(keys, group["true_rewards"], strict=True)
            data = [{"segment": key, "data": pack_arrays({"true_rewards": values})} for key, values in rewards]
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            _fail(path, f"{type(error).__name__} {error}")
        unknown = set(keys) - set(tasks)
        if unknown:
            _fail(path, f"segment {min(unknown)} is not in segments.npz")
        rows.insert_new(connection, true_rewards, data)


def _read_tables(connection: sa.Connection, folder: Path, tasks: Mapping[str, str], counts: Mapping[str, int]) -> None:
    if len(tasks) != counts["segments"]:
        _fail(folder / "segments.npz", f"{len(tasks)} segments, expected {counts['segments']}")
    ids: set[str] = set()

    def read_query(record: dict[str, Any]) -> tuple[str, float, list[str]]:
        hashes = record["segments"]
        if len(hashes) < 2 or len({tasks[key] for key in hashes}) != 1 or record["id"] != query_id(hashes):
            raise ValueError(f"query {record['id']} does not match its segments")
        ids.add(record["id"])
        return record["id"], check_number("created", record["created"]), hashes

    def read_request(record: dict[str, Any]) -> dict[str, Any]:
        if record["query"] not in ids:
            raise ValueError(f"query {record['query']} is not in queries.jsonl")
        row: dict[str, Any] = {name: check_number(name, record[name]) for name in ("time", "priority")}
        return row | {name: check_text(name, record[name]) for name in ("run", "query", "policy")}

    def read_event(record: dict[str, Any]) -> Event:
        if not {"id", "kind", "time"} <= set(record) <= set(COLUMNS):
            raise ValueError(
                f"fields {sorted(record)}: id, kind and time are needed, and only documented ones may follow"
            )
        return Event(**record)

    for part in _read_lines(folder / "queries.jsonl", read_query, counts["queries"]):
        rows.link_queries(connection, part)
    for part in _read_lines(folder / "requests.jsonl", read_request, counts["requests"]):
        rows.add_requests(connection, part)
    for part in _read_lines(folder / "labels.jsonl", read_event, counts["events"]):
        rows.add_events(connection, part)


def _read_calls(connection: sa.Connection, path: Path, expected: int) -> None:
    """Store the calls that are new; exports from before there were any have none."""
    if not path.is_file() and not expected:
        return

    def read_call(record: dict[str, Any]) -> dict[str, Any]:
        texts = [name for name in _TEXTS if name != "reply" or record[name] is not None]
        if set(record) != {*_TEXTS, *_NUMBERS}:
            raise ValueError(f"fields {sorted(record)}, expected {sorted((*_TEXTS, *_NUMBERS))}")
        row: dict[str, Any] = {"reply": None} | {name: check_text(name, record[name]) for name in texts}
        row |= {name: check_number(name, record[name]) for name in _NUMBERS}
        for name in ("tokens_in", "tokens_out"):
            if not 0 <= row[name] < 2**63:
                raise ValueError(f"{name} {row[name]} is no number of tokens")
            row[name] = int(row[name])
        return row

    added: set[tuple[Any, ...]] = set()
    for part in _read_lines(path, read_call, expected):
        there = sa.select(*(calls.c[name] for name in _IDENTITY)).where(calls.c.key.in_({row["key"] for row in part}))
        # What this import has added itself is no reason to leave anything out.
        present = {tuple(row) for row in connection.execute(there)} - added
        new = [row for row in part if tuple(row[name] for name in _IDENTITY) not in present]
        added |= {tuple(row[name] for name in _IDENTITY) for row in new}
        if new:
            connection.execute(sa.insert(calls), new)


def _read_lines(path: Path, read: Callable[[dict[str, Any]], Any], expected: int) -> Iterator[list[Any]]:
    """Yield what `read` makes of the lines, some at a time."""
    count = 0
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            found = []
            # Line by line, so that one without an end is refused before more of it is read.
            for line in iter(lambda: file.readline(_LINE + 1), ""):
                count += 1
                if len(line) > _LINE:
                    raise ValueError(f"more than {_LINE:,} characters")
                found.append(read(json.loads(line)))
                if len(found) == rows.CHUNK:
                    yield found
                    found = []
            if found:
                yield found
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        _fail(path, f"line {count}: {type(error).__name__} {error}")
    if count != expected:
        _fail(path, f"{count} lines, expected {expected}")
