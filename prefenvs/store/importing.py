"""Import of exported stores, checked line by line and in one transaction (format: docs/store.md)."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.file_sizes import check_npz, check_size
from prefenvs.preferences import query_id
from prefenvs.segments import Array, Segment
from prefenvs.store import rows
from prefenvs.store.database import writing
from prefenvs.store.events import COLUMNS, Event, check_number, check_text
from prefenvs.store.exporting import FILES, OPTIONAL
from prefenvs.store.packing import ARRAYS, pack_arrays
from prefenvs.store.schema import FORMAT, SCHEMA_VERSION, calls, events, queries, segments, true_rewards
from prefenvs.store.store import Store

_TEXTS = ("key", "run", "query", "model", "prompt", "reply", "finish")
_NUMBERS = ("tokens_in", "tokens_out", "cost", "seconds", "time")
_IDENTITY = ("key", "run", "query", "time")
"""Columns by which a call is known again."""


@dataclass(frozen=True)
class Imported:
    """How much of an import was new to the store."""

    segments: int
    queries: int
    events: int
    calls: int = 0


def import_store(store: Store, source: str | os.PathLike[str]) -> Imported:
    """Add an export to a store, in one transaction; what the store has already is left out, so stores can be merged."""
    path = Path(source).expanduser()
    with contextlib.ExitStack() as stack:
        if path.is_file():
            path = _unzip(path, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        elif not path.is_dir():
            raise PrefenvsError(f"there is no export at {path}")
        about = _read_meta(path)
        connection = stack.enter_context(writing(store.engine))
        before = _count(connection)
        tasks = _read_segments(connection, path)
        _read_rewards(connection, path, tasks)
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


def _unzip(path: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {*FILES, *OPTIONAL} & set(archive.namelist())
            check_size(sum(archive.getinfo(name).file_size for name in names), path)
            for name in names:
                archive.extract(name, folder)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        _fail(path, error)
    return folder


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    if not path.is_file():
        raise PrefenvsError("this is no export of a preference store: it has no meta.json; nothing was imported")
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


def _read_groups(path: Path) -> Iterator[dict[str, Array]]:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            names: dict[str, list[str]] = {}
            for name in archive.files:
                names.setdefault(name.partition("/")[0], []).append(name.partition("/")[2])
            for group, members in names.items():
                yield {name: archive[f"{group}/{name}"] for name in members}
    except PrefenvsError:
        raise
    except Exception as error:
        # zipfile, zlib and NumPy raise errors of a dozen types for damaged files.
        _fail(path, error)


def _read_segments(connection: sa.Connection, folder: Path) -> dict[str, str]:
    """Store the segments and return the task of each hash."""
    path, tasks = folder / "segments.npz", {}
    for group in _read_groups(path):
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
    for index, key in enumerate(group["hash"].tolist()):
        segment = Segment(
            **{name: array[index] for name, array in arrays.items()},
            task=task,
            source=str(group["source"][index]),
            episode=int(group["episode"][index]),
            start=int(group["start"][index]),
        )
        if segment.hash != key.decode():
            raise ValueError(f"the content of segment {key.decode()} does not match its hash")
        yield segment


def _read_rewards(connection: sa.Connection, folder: Path, tasks: Mapping[str, str]) -> None:
    path = folder / "true_rewards.npz"
    if not path.is_file():
        return
    for group in _read_groups(path):
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

    rows.link_queries(connection, _read_lines(folder / "queries.jsonl", read_query, counts["queries"]))
    rows.add_requests(connection, _read_lines(folder / "requests.jsonl", read_request, counts["requests"]))
    rows.add_events(connection, _read_lines(folder / "labels.jsonl", read_event, counts["events"]))


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
        return row | {name: int(row[name]) for name in ("tokens_in", "tokens_out")}

    found = _read_lines(path, read_call, expected)
    present: set[tuple[str, ...]] = set()
    identity = [calls.c[name] for name in _IDENTITY]
    for part in rows.chunks(list({row["key"] for row in found})):
        present |= {tuple(row) for row in connection.execute(sa.select(*identity).where(calls.c.key.in_(part)))}
    for part in rows.chunks([row for row in found if tuple(row[name] for name in _IDENTITY) not in present]):
        connection.execute(sa.insert(calls), part)


def _read_lines(path: Path, read: Callable[[dict[str, Any]], Any], expected: int) -> list[Any]:
    found = []
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                found.append(read(json.loads(line)))  # noqa: PERF401
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        _fail(path, f"line {len(found) + 1}: {type(error).__name__} {error}")
    if len(found) != expected:
        _fail(path, f"{len(found)} lines, expected {expected}")
    return found
