"""Rows to objects and back: what `Store` and the exchange of stores share inside one transaction."""

from __future__ import annotations

import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query
from prefenvs.segments import Segment
from prefenvs.store.events import COLUMNS, Event, check_text
from prefenvs.store.packing import pack_arrays, pack_segment, segment_of, unpack_arrays
from prefenvs.store.schema import events, queries, query_segments, requests, segments, tables, true_rewards

# Bounds the memory of a large insertion and the number of parameters of a statement.
CHUNK = 1000
_Item = TypeVar("_Item")


def chunks(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Yield the items in pieces of at most CHUNK."""
    return (items[first : first + CHUNK] for first in range(0, len(items), CHUNK))


def insert_new(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows in one statement; those whose key is taken are left out."""
    if rows:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(table).on_conflict_do_nothing(), rows)


def put(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    """Insert a row, or change the one that has its key."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    keys = list(table.primary_key)
    connection.execute(insert(table).values(row).on_conflict_do_update(index_elements=keys, set_=dict(row)))


def analyze(connection: sa.Connection, added: int) -> None:
    """Tell PostgreSQL how large the tables are after a large insertion.

    It finds out by itself in a minute; until then it takes them for empty and plans joins that take time n^2.
    """
    if added >= CHUNK and connection.dialect.name == "postgresql":
        for table in tables.sorted_tables:
            connection.execute(sa.text(f"ANALYZE {table.name}"))


def known(connection: sa.Connection, column: sa.Column[str], keys: Iterable[str]) -> set[str]:
    """Return those of the keys that `column` holds."""
    found: set[str] = set()
    for part in chunks(list(keys)):
        found.update(connection.scalars(sa.select(column).where(column.in_(part))))
    return found


def add_segments(connection: sa.Connection, items: Iterable[Segment]) -> None:
    """Store segments that are not there yet, and true rewards where they were unknown."""
    unique = {segment.hash: segment for segment in items}
    present = known(connection, segments.c.hash, unique)
    for part in chunks([segment for key, segment in unique.items() if key not in present]):
        insert_new(connection, segments, [_segment_row(segment) for segment in part])
    rewarded = [segment for segment in unique.values() if segment.true_rewards is not None]
    for part in chunks(rewarded):
        rows = [{"segment": s.hash, "data": pack_arrays({"true_rewards": s.true_rewards})} for s in part]  # type: ignore[dict-item]
        insert_new(connection, true_rewards, rows)


def add_queries(connection: sa.Connection, items: Iterable[Query]) -> None:
    """Store queries that are not there yet, with their segments."""
    unique = {query.id: query for query in items}
    present = known(connection, queries.c.id, unique)
    new = [query for key, query in unique.items() if key not in present]
    add_segments(connection, (segment for query in new for segment in query.segments))
    now = clock.time()
    link_queries(connection, [(query.id, now, [segment.hash for segment in query.segments]) for query in new])


def link_queries(connection: sa.Connection, items: Sequence[tuple[str, float, Sequence[str]]]) -> None:
    """Store queries, each as (id, time created, hashes of its segments), whose segments are there already."""
    for part in chunks(items):
        rows = [{"id": key, "size": len(hashes), "created": created} for key, created, hashes in part]
        insert_new(connection, queries, rows)
        links = [
            {"query": key, "position": position, "segment": segment}
            for key, _, hashes in part
            for position, segment in enumerate(hashes)
        ]
        insert_new(connection, query_segments, links)


def add_requests(connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Note that runs ask queries; what a run has already asked is left out."""
    for part in chunks(rows):
        insert_new(connection, requests, part)


def add_events(connection: sa.Connection, items: Iterable[Event]) -> None:
    """Append events in the order given; one that is there already, by its id, is left out if nothing else differs.

    Raises PrefenvsError for two different events of one id.
    """
    unique: dict[str, Event] = {}
    for event in items:
        if unique.setdefault(event.id, event) != event:
            raise PrefenvsError(f"two different events have the id {event.id}; give each its own UUID")
    for part in chunks(list(unique)):
        for row in connection.execute(sa.select(events).where(events.c.id.in_(part))).mappings():
            if Event.of_row(dict(row)) != unique.pop(row["id"]):
                raise PrefenvsError(
                    f"the store holds another event with the id {row['id']}: labels are never overwritten"
                )
    _check_references(connection, unique)
    for rows in chunks([event.row() for event in unique.values()]):
        connection.execute(sa.insert(events), rows)


def _check_references(connection: sa.Connection, new: Mapping[str, Event]) -> None:
    sizes: dict[str, int] = {}
    for part in chunks(list({event.query for event in new.values() if event.query})):
        rows = connection.execute(sa.select(queries.c.id, queries.c.size).where(queries.c.id.in_(part)))
        sizes.update((row.id, row.size) for row in rows)
    targets = {event.target for event in new.values() if event.target}
    rated = {event.segment for event in new.values() if event.segment}
    there = known(connection, events.c.id, targets) | known(connection, segments.c.hash, rated)
    for event in new.values():
        if event.query is not None and event.query not in sizes:
            raise PrefenvsError(f"event {event.id} refers to query {event.query}, which the store does not hold")
        for kind, reference in (("event", event.target), ("segment", event.segment)):
            if reference is not None and reference not in there:
                raise PrefenvsError(f"event {event.id} refers to {kind} {reference}, which the store does not hold")
        there.add(event.id)
        if event.query is None:
            continue
        size = sizes[event.query]
        if event.probabilities is not None and len(event.probabilities) != size:
            raise PrefenvsError(f"event {event.id} has {len(event.probabilities)} probabilities for {size} segments")
        if event.shown is not None and sorted(event.shown) != list(range(size)):
            raise PrefenvsError(
                f"event {event.id} was shown in order {list(event.shown)}: not an order of {size} segments"
            )


def select_events(connection: sa.Connection, *where: sa.ColumnElement[bool], limit: int | None = None) -> list[Event]:
    """Return events in the order of the log."""
    statement = sa.select(events.c.seq, *(events.c[name] for name in COLUMNS)).where(*where).order_by(events.c.seq)
    return [Event.of_row(dict(row)) for row in connection.execute(statement.limit(limit)).mappings()]


def find_undo(connection: sa.Connection, event: Event) -> tuple[Event, Event | None]:
    """Return an answer and the undo that took it back, None while it stands.

    An answer that was given again as it was, `extra["restores"]`, stands in the place of the one taken back.
    """
    while True:
        undo = next(iter(select_events(connection, events.c.target == event.id, limit=1)), None)
        if undo is None:
            return event, None
        same = [events.c[name] == getattr(event, name) for name in ("run", "query", "segment", "annotator")]
        again = [copy for copy in select_events(connection, *same) if copy.extra.get("restores") == event.id]
        if not again:
            return event, undo
        event = again[0]


def load_segments(connection: sa.Connection, hashes: Iterable[str], with_true_rewards: bool) -> dict[str, Segment]:
    """Return the segments by hash; without true rewards unless they are asked for."""
    found: dict[str, Segment] = {}
    for part in chunks(list(hashes)):
        rewards: dict[str, Any] = {}
        if with_true_rewards:
            select = sa.select(true_rewards).where(true_rewards.c.segment.in_(part))
            rewards = {row.segment: unpack_arrays(row.data)["true_rewards"] for row in connection.execute(select)}
        for row in connection.execute(sa.select(segments).where(segments.c.hash.in_(part))):
            segment = segment_of(
                unpack_arrays(row.data),
                true_rewards=rewards.get(row.hash),
                task=row.task,
                source=row.source,
                episode=row.episode,
                start=row.start,
            )
            # The key is the hash of the content, so it need not be computed again.
            segment.__dict__["hash"] = row.hash
            found[row.hash] = segment
    return found


def load_queries(connection: sa.Connection, ids: Iterable[str], with_true_rewards: bool) -> dict[str, Query]:
    """Return the queries by id; those that share a segment share the object."""
    hashes: dict[str, list[str]] = {}
    for part in chunks(list(dict.fromkeys(ids))):
        links = sa.select(query_segments.c.query, query_segments.c.segment).where(query_segments.c.query.in_(part))
        order = links.order_by(query_segments.c.query, query_segments.c.position)
        for query, segment in connection.execute(order):
            hashes.setdefault(query, []).append(segment)
    pieces = load_segments(connection, {key for keys in hashes.values() for key in keys}, with_true_rewards)
    found = {}
    for query_id, keys in hashes.items():
        query = Query(tuple(pieces[key] for key in keys))
        query.__dict__["id"] = query_id
        found[query_id] = query
    return found


def _segment_row(segment: Segment) -> dict[str, Any]:
    return {
        "hash": segment.hash,
        "task": check_text("segment task", segment.task),
        "source": check_text("segment source", segment.source),
        "episode": int(segment.episode),
        "start": int(segment.start),
        "steps": len(segment),
        "data": pack_segment(segment),
    }
