"""The preference store: every query asked and every answer given, in one SQLite file or one PostgreSQL database."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time as clock
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.limits import check_list
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import rows
from prefenvs.store.database import bytes_on_disk, claimed, describe, open_engine, parse_location, reading, writing
from prefenvs.store.events import ANSWERS, GOLD, TUTORIAL, Event, check_number, check_text
from prefenvs.store.schema import SCHEMA_VERSION, events, meta, queries, requests, segments, true_rewards

MOST_VALUES = 30_000
"""Of one statement; SQLite takes 32,766 since 3.32, PostgreSQL 65,535."""


@dataclass(frozen=True)
class Stats:
    """What a store holds.

    labels: answers that stand (neither undone nor replaced), made up of comparisons and skips; ties: comparisons
    without a single best segment; undone: answers taken back; events: length of the log. pending: queries asked by a
    run that has no answer to them. The by_... counts are of labels. segment_bytes: packed size; file_bytes: size of the
    database on disk. first_time, last_time: of all labels, seconds since the epoch; None if there are none.
    """

    location: str
    schema_version: int
    queries: int
    pending: int
    labels: int
    comparisons: int
    ties: int
    skips: int
    undone: int
    events: int
    by_annotator: dict[str, int]
    by_oracle: dict[str, int]
    by_run: dict[str, int]
    segments: int
    with_true_rewards: int
    segment_bytes: int
    file_bytes: int
    first_time: float | None
    last_time: float | None


class Store(Closing):
    """Queries, segments and an append-only log of label events; any number of processes may read and write at once.

    Whatever `add_queries`, `add_preferences`, `add_events` and `undo` have returned from is on the disk and survives a
    killed process and a power cut. All of them may be repeated without effect, so a writer that is unsure sends again.
    Reading takes nothing away: each reader remembers the number of the last event it saw.
    """

    def __init__(self, location: str | os.PathLike[str], create: bool = True) -> None:
        """Open a store, or make it unless `create` is False.

        location: a path or `sqlite:///path` for a SQLite file, whose folder must exist, or `postgresql://...`.
        Raises PrefenvsError for anything that is no store, or one of another schema version.
        """
        self._url = parse_location(location)
        self._engine = open_engine(self._url, create)

    def __repr__(self) -> str:
        return f"<{describe(self._url)}>"

    def close(self) -> None:
        """Close the connections; the store opens new ones if it is used again."""
        self._engine.dispose()

    @property
    def location(self) -> str:
        """Its path, or its URL without the password."""
        return describe(self._url).removeprefix("the store ")

    @cached_property
    def identity(self) -> str:
        """Eight hex digits that tell this store from others, whatever its path."""
        with reading(self._engine) as connection:
            created = connection.scalar(sa.select(meta.c.value).where(meta.c.key == "created"))
        return hashlib.sha256(str(created).encode()).hexdigest()[:8]

    @property
    def engine(self) -> sa.Engine:
        """SQLAlchemy's engine, for queries of your own; write through the methods, which take turns with others."""
        return self._engine

    def claim(self, what: str) -> AbstractContextManager[None]:
        """Keep other processes from doing the same with this store until the `with` block, or this process, ends.

        Raises PrefenvsError where another process is at it. what: told to whoever comes second.
        """
        return claimed(self._engine, what)

    def add_queries(
        self, items: Iterable[Query], run: str = "", priority: float | Sequence[float] = 0.0, policy: str = ""
    ) -> None:
        """Note that `run` asks these queries; one that it has already asked stays as it is.

        priority: one number, or one per query; `pending_queries` returns the highest first. policy: a tag of the
        policy whose segments these are, so that stale queries can be told from fresh ones. Raises PrefenvsError for
        priorities that are not one a query.
        """
        items = list(items)
        check_text("run", run)
        check_text("policy", policy)
        priorities = [priority] * len(items) if isinstance(priority, int | float | np.number) else list(priority)
        if len(priorities) != len(items):
            raise PrefenvsError(f"{len(priorities)} priorities were given for {len(items)} queries")
        now = clock.time()
        asked = [
            {"run": run, "query": query.id, "time": now, "priority": check_number("priority", value), "policy": policy}
            for query, value in zip(items, priorities, strict=True)
        ]
        if not items:
            return
        with writing(self._engine) as connection:
            rows.add_queries(connection, items)
            rows.add_requests(connection, asked)
            rows.analyze(connection, len(asked))

    def add_preferences(self, preferences: Iterable[Preference], run: str = "") -> None:
        """Append answers given to `run`, all or none; their queries are stored too where they are new.

        Answers of one call that are alike in all, time included, are several: who has no name may be several people.
        """
        preferences = list(preferences)
        if not preferences:
            return
        # Made before the transaction: hashing must not keep other writers waiting.
        answers, told = [], Counter[str]()
        for preference in preferences:
            event = Event.of(preference, run)
            copies, told[event.id] = told[event.id], told[event.id] + 1
            if copies:
                # By its place among its like, so that the same answers sent again are the same.
                event = replace(event, id=str(uuid.uuid5(uuid.UUID(event.id), str(copies))))
            answers.append(event)
        with writing(self._engine) as connection:
            rows.add_queries(connection, (preference.query for preference in preferences))
            rows.add_events(connection, answers)
            rows.analyze(connection, len(answers))

    def add_events(self, items: Iterable[Event]) -> None:
        """Append events, all or none; one that the log holds is left out, a different one of that id is an error."""
        items = list(items)
        if not items:
            return
        with writing(self._engine) as connection:
            rows.add_events(connection, items)
            rows.analyze(connection, len(items))

    def undo(self, event: Event | str, annotator: str | None = None, reason: str = "") -> Event:
        """Take back an answer, given as its event or id, and return the undo event; a second undo returns the first.

        The answer stays in the log. One that a manager discarded and restored is taken back as it stands now.
        `annotator` is who takes it back, by default whoever gave it. Raises PrefenvsError for an unknown event, and an
        undo.
        """
        key = event.id if isinstance(event, Event) else event
        with writing(self._engine) as connection:
            found = rows.select_events(connection, events.c.id == key)
            if not found:
                raise PrefenvsError(f"there is no event {key} in {describe(self._url)}")
            if found[0].kind == "undo":
                raise PrefenvsError(f"event {key} is an undo, which cannot be taken back: answer the query again")
            event, undone = rows.find_undo(connection, found[0])
            if undone is not None:
                return undone
            undo = event.undone(annotator, reason)
            rows.add_events(connection, [undo])
            return rows.select_events(connection, events.c.id == undo.id)[0]

    def preferences(
        self,
        run: str | None = None,
        annotators: Collection[str] | None = None,
        since: float | None = None,
        with_true_rewards: bool = False,
        queries: Collection[str] | None = None,
    ) -> list[Preference]:
        """Return the answers that stand, skips included, in the order in which they were stored.

        An answer stands until it is undone, or until the same named annotator answers the same query of the same run
        and oracle again. run: of this run only; annotators: by these only; since: given at or after this time, in
        seconds since the epoch; queries: to these only, by id. Segments come without their true rewards unless
        `with_true_rewards` is set. Answers to gold questions and in practice tell of people, not of behaviour: they
        come only where their run, `gold` or `tutorial`, is named.
        """
        with reading(self._engine) as connection:
            answers = self._standing(connection, run, annotators, queries)
            if run is None:
                answers = [event for event in answers if event.run not in (GOLD, TUTORIAL)]
            if since is not None:
                answers = [event for event in answers if event.time >= since]
            return _preferences_of(connection, answers, with_true_rewards)

    def count_known(self) -> int:
        """Number of answers that stand to gold questions and in practice, which `preferences` leaves out."""
        with reading(self._engine) as connection:
            return sum(len(self._standing(connection, run)) for run in (GOLD, TUTORIAL))

    def events_after(self, seq: int = 0, run: str | None = None, limit: int | None = None) -> list[Event]:
        """Return the events numbered above `seq`, oldest first; the last one's `seq` is the reader's next cursor."""
        where = [events.c.seq > seq]
        if run is not None:
            where.append(events.c.run == run)
        with reading(self._engine) as connection:
            return rows.select_events(connection, *where, limit=limit)

    def find_events(self, ids: Iterable[str]) -> dict[str, Event]:
        """Return events by id; ids that the log does not hold are left out."""
        with reading(self._engine) as connection:
            found = [
                e for part in rows.chunks(list(ids)) for e in rows.select_events(connection, events.c.id.in_(part))
            ]
        return {event.id: event for event in found}

    def pending_queries(
        self,
        run: str | None = None,
        annotator: str | None = None,
        limit: int | None = None,
        with_true_rewards: bool = False,
    ) -> list[Query]:
        """Return queries asked that nobody has answered in that run, or that `annotator` has not.

        Highest priority first, then longest waiting. A skip is an answer; an undone answer is none.
        """
        with reading(self._engine) as connection:
            select = sa.select(requests.c.query).where(_unanswered(annotator)).group_by(requests.c.query)
            if run is not None:
                select = select.where(requests.c.run == run)
            order = select.order_by(sa.func.max(requests.c.priority).desc(), sa.func.min(requests.c.seq)).limit(limit)
            ids = list(connection.scalars(order))
            found = rows.load_queries(connection, ids, with_true_rewards)
        return [found[key] for key in ids]

    def tasks(self) -> list[str]:
        """Return the ids of the tasks that the segments are of, in alphabetical order."""
        with reading(self._engine) as connection:
            return sorted(connection.scalars(sa.select(segments.c.task).distinct()))

    def count_pending(self, run: str | None = None, annotator: str | None = None) -> int:
        """Number of queries that `pending_queries` would return."""
        select = sa.select(sa.func.count(requests.c.query.distinct())).where(_unanswered(annotator))
        with reading(self._engine) as connection:
            return connection.scalar(select if run is None else select.where(requests.c.run == run)) or 0

    def runs(self) -> list[str]:
        """Return the names of the runs that have asked anything, in alphabetical order."""
        with reading(self._engine) as connection:
            return sorted(connection.scalars(sa.select(requests.c.run).distinct()))

    def pending_runs(self) -> list[str]:
        """Return the names of the runs that have pending queries, the one that asked first first."""
        select = sa.select(requests.c.run).where(_unanswered(None)).group_by(requests.c.run)
        with reading(self._engine) as connection:
            return list(connection.scalars(select.order_by(sa.func.min(requests.c.seq))))

    def find_queries(self, ids: Iterable[str], with_true_rewards: bool = False) -> dict[str, Query]:
        """Return queries by id; ids that the store does not hold are left out."""
        with reading(self._engine) as connection:
            return rows.load_queries(connection, ids, with_true_rewards)

    def find_segments(self, hashes: Iterable[str], with_true_rewards: bool = False) -> dict[str, Segment]:
        """Return segments by hash; hashes that the store does not hold are left out."""
        with reading(self._engine) as connection:
            return rows.load_segments(connection, hashes, with_true_rewards)

    def report_learner(self, run: str, status: Mapping[str, float | None]) -> None:
        """Leave a note on how far the learner of `run` has come, in place of its last one, for whoever labels for it.

        status: numbers by name, such as steps, labels, budget and held_out_accuracy; NaN and infinity become None.
        """
        finite = {name: value if value is None or math.isfinite(value) else None for name, value in status.items()}
        row = {"key": f"learner:{run}", "value": json.dumps({**finite, "run": run, "updated": clock.time()})}
        with writing(self._engine) as connection:
            rows.put(connection, meta, row)

    def learner_status(self, run: str | None = None) -> dict[str, Any] | None:
        """Return the last note of the learner of `run`, or of whichever wrote last; None if there is none.

        It holds what `report_learner` was given, `run`, and `updated` in seconds since the epoch.
        """
        key = meta.c.key.startswith("learner:", autoescape=True) if run is None else meta.c.key == f"learner:{run}"
        with reading(self._engine) as connection:
            notes = [json.loads(value) for value in connection.scalars(sa.select(meta.c.value).where(key))]
        return max(notes, key=lambda note: float(note["updated"]), default=None)

    def stats(self) -> Stats:
        """Count what the store holds."""
        with reading(self._engine) as connection:
            answers = self._standing(connection)
            given = connection.execute(
                sa.select(sa.func.count(), sa.func.min(events.c.time), sa.func.max(events.c.time)).where(
                    events.c.kind.in_(ANSWERS)
                )
            ).one()
            size = sa.func.coalesce(sa.func.sum(sa.func.length(segments.c.data)), 0)
            pieces, piece_bytes = connection.execute(sa.select(sa.func.count(), size).select_from(segments)).one()

            def count(table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
                return connection.scalar(sa.select(sa.func.count()).select_from(table).where(*where)) or 0

            target = sa.select(events.c.target).where(events.c.kind == "undo")
            return Stats(
                location=self.location,
                schema_version=SCHEMA_VERSION,
                queries=count(queries),
                pending=count(requests, _unanswered(None)),
                labels=len(answers),
                comparisons=sum(event.kind == "comparison" for event in answers),
                ties=sum(event.tie for event in answers),
                skips=sum(event.kind == "skip" for event in answers),
                undone=count(events, events.c.id.in_(target), events.c.kind.in_(ANSWERS)),
                events=count(events),
                by_annotator=dict(Counter(event.annotator for event in answers).most_common()),
                by_oracle=dict(Counter(event.oracle for event in answers).most_common()),
                by_run=dict(Counter(event.run for event in answers).most_common()),
                segments=pieces,
                with_true_rewards=count(true_rewards),
                segment_bytes=int(piece_bytes),
                file_bytes=bytes_on_disk(connection),
                first_time=given[1],
                last_time=given[2],
            )

    def _standing(
        self,
        connection: sa.Connection,
        run: str | None = None,
        annotators: Collection[str] | None = None,
        asked: Collection[str] | None = None,
    ) -> list[Event]:
        check_list("annotators", annotators)
        check_list("queries", asked)
        where = [events.c.kind.in_(ANSWERS), _not_undone(events)]
        if run is not None:
            where.append(events.c.run == run)
        if annotators is not None:
            where.append(events.c.annotator.in_(list(annotators)))
        # A statement takes a limited number of values; beyond it all are read.
        wanted = None if asked is None else frozenset(asked)
        if wanted is not None and len(wanted) <= MOST_VALUES:
            where.append(events.c.query.in_(wanted))
        last: dict[object, Event] = {}
        for event in rows.select_events(connection, *where):
            if wanted is not None and event.query not in wanted:
                continue
            # Nobody knows whether two answers without a name are one person's, so both stand.
            key = (event.run, event.query, event.annotator, event.oracle) if event.annotator else event.id
            last.pop(key, None)
            last[key] = event
        return list(last.values())


def _not_undone(answers: sa.FromClause) -> sa.ColumnElement[bool]:
    undo = events.alias("undo")
    return ~sa.exists().where(undo.c.target == answers.c.id, undo.c.kind == "undo")


def _unanswered(annotator: str | None) -> sa.ColumnElement[bool]:
    """Condition on table `requests`: no answer of its run stands, or none by this annotator."""
    answer = events.alias("answer")
    by = [] if annotator is None else [answer.c.annotator == annotator]
    same = (answer.c.query == requests.c.query, answer.c.run == requests.c.run, answer.c.kind.in_(ANSWERS))
    return ~sa.exists().where(*same, _not_undone(answer), *by)


def _preferences_of(connection: sa.Connection, answers: Sequence[Event], with_true_rewards: bool) -> list[Preference]:
    found = rows.load_queries(connection, (event.query for event in answers if event.query), with_true_rewards)
    return [event.preference(found[event.query]) for event in answers if event.query]
