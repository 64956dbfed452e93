"""Assignments: which annotator is to answer what, so that two people do not answer the same question by accident."""

from __future__ import annotations

import json
import random
import threading
import time as clock
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.limits import AtLeastTwo, Fraction, Lease, NonNegativeInt, Range, check_settings
from prefenvs.store import rows
from prefenvs.store.database import reading, writing
from prefenvs.store.events import ANSWERS, GOLD, TUTORIAL, Event, check_text
from prefenvs.store.schema import assignments, events, queries, query_segments, requests
from prefenvs.store.store import Store

Kind = Literal["comparison", "rating", "ranking"]
AtMostHalf = Annotated[float, Range(0, 0.5)]
RANKING = "ranking"
"""Policy tag of the comparisons that place clips in ranked lists."""
MOST_SEGMENTS = 9
"""Largest query that is shown to people."""
LOOK_BACK = 5.0
"""Seconds after which questions that were passed over are looked at again: leases end, and urgent ones come in."""
REPEAT_AFTER = 5
"""Answers that lie at least between a question and its repetition."""


@dataclass(frozen=True)
class Assignment:
    """One question handed to one annotator.

    query or segment: what is asked about, by id or hash. shown: the order of the segments from left to right, as
    indices into the query. repeats: id of the annotator's own earlier answer, where this question is asked again to
    see whether it is answered alike; else None. answer: id of the event that answered it, None while it is open.
    """

    id: str
    annotator: str
    run: str
    query: str | None
    segment: str | None
    shown: tuple[int, ...]
    repeats: str | None
    created: float
    expires: float
    answer: str | None


@dataclass(frozen=True)
class AssignmentPlan:
    """How questions are spread over annotators.

    run: of this run only, None for all. kind: compare the segments of queries, rate each segment by itself, or compare
    what ranked lists need next.
    overlap: share of the questions that `votes` annotators answer instead of one. repeats: share of an annotator's
    questions that are earlier ones with swapped sides. lease: seconds for which a question is one annotator's alone.
    gold: share of an annotator's questions whose right answer is known (events of kind "gold"), each asked once;
    tutorial: how many such questions an annotator begins with.
    """

    run: str | None = None
    kind: Kind = "comparison"
    overlap: Fraction = 0.0
    votes: AtLeastTwo = 2
    repeats: AtMostHalf = 0.05
    lease: Lease = 300.0
    gold: AtMostHalf = 0.0
    tutorial: NonNegativeInt = 0

    def __post_init__(self) -> None:
        check_settings(self)
        if self.kind == "rating" and (self.gold or self.tutorial):
            raise PrefenvsError(
                "gold and tutorial are pairs of clips, which kind='rating' does not show: leave them out"
            )
        if self.run is not None:
            check_text("run", self.run)


class Assignments:
    """Hand out questions and take answers, for any number of threads and processes at once."""

    def __init__(
        self,
        store: Store,
        plan: AssignmentPlan = AssignmentPlan(),
        seed: int | None = None,
        now: Callable[[], float] = clock.time,
    ) -> None:
        """`seed` decides which side is shown where and which answers are asked again; `now`: seconds since 1970."""
        self.store, self.plan, self.now = store, plan, now
        self._rng = random.Random(seed)
        # The database lets waiting writers try again at random; in one process a lock serves them sooner.
        self._turn = threading.Lock()
        # By annotator where questions overlap: until when, and after which priority and number, open ones begin.
        self._front: dict[str, tuple[float, float, int]] = {}

    def lease(self, annotator: str, count: int, holding: Collection[str] = ()) -> list[Assignment]:
        """Give up to `count` questions to an annotator, and renew those in `holding`, ids the annotator still has.

        First come the annotator's own open questions that are not in `holding`: what was undone last, then what a
        reloaded page forgot; then new ones, highest priority first.
        """
        with self._turn, writing(self.store.engine) as connection:
            now = self.now()
            self._renew(connection, annotator, holding, now)
            own = (assignments.c.annotator == annotator, assignments.c.answer.is_(None), *self._of_plan())
            mine = _select(connection, *own, assignments.c.expires > now, order=assignments.c.expires.desc())
            held = set(holding)
            given = [item for item in mine if item.id not in held][:count]
            self._renew(connection, annotator, [item.id for item in given], now)
            wanted = count - len(given)
            taught = self._teach(connection, annotator, wanted, now)
            new = [
                self._make(annotator, run, subject, size, now)
                for run, subject, size in self._candidates(connection, annotator, 0 if taught else wanted, now)
            ]
            if new and self.plan.gold:
                due = sum(self._rng.random() < self.plan.gold for _ in new)
                hidden = self._pick_gold(connection, annotator, GOLD, due, now)
                for place, item in zip(self._rng.sample(range(len(new)), len(hidden)), hidden, strict=True):
                    new[place] = item
            new += taught
            if new and self.plan.repeats:
                new = self._mix_repeats(connection, annotator, new, now)
            if new:
                connection.execute(sa.insert(assignments), [_row(item) for item in new])
        return given + new

    def upcoming(self, count: int) -> list[str]:
        """Return the hashes of the segments in the `count` questions that are to be handed out next."""
        with self._turn, reading(self.store.engine) as connection:
            subjects = [subject for _, subject, _ in self._candidates(connection, "", count, self.now())]
            if self.plan.kind == "rating":
                return subjects
            found = sa.select(query_segments.c.query, query_segments.c.segment)
            hashes: dict[str, list[str]] = {subject: [] for subject in subjects}
            for query, segment in connection.execute(found.where(query_segments.c.query.in_(subjects))):
                hashes[query].append(segment)
        return [segment for subject in subjects for segment in hashes[subject]]

    def find(self, ids: Iterable[str], annotator: str) -> dict[str, Assignment]:
        """Return the assignments of an annotator by id; those that are not theirs are left out."""
        with reading(self.store.engine) as connection:
            found = _select(connection, assignments.c.id.in_(list(ids)), assignments.c.annotator == annotator)
        return {item.id: item for item in found}

    def record(self, annotator: str, items: Sequence[Event | Undo]) -> dict[str, str]:
        """Store an annotator's answers and undos in order, all in one durable transaction.

        An answer names its assignment in `extra["assignment"]`. One whose id is in the log already changes nothing,
        unless it says something else there. A question has one standing answer of each annotator.
        Returns the reasons of what was refused, by id; everything else is on the disk.
        """
        refused: dict[str, str] = {}
        with self._turn, writing(self.store.engine) as connection:
            for item in items:
                reason = self._put(connection, annotator, item)
                if reason:
                    refused[item.uuid if isinstance(item, Undo) else item.id] = reason
        return refused

    def closed(self, annotator: str, ids: Collection[str]) -> list[str]:
        """Return those of an annotator's assignments that need no answer any more.

        They were answered, here or under another assignment of the same question; or their lease ran out and somebody
        else has answered.
        """
        found = self.find(ids, annotator)
        with reading(self.store.engine) as connection:
            return [
                item.id
                for item in found.values()
                if self._has_answered(connection, annotator, item)
                # Gold questions are for everybody.
                or (
                    item.expires < self.now()
                    and item.repeats is None
                    and item.run not in (GOLD, TUTORIAL)
                    and self._has_answered(connection, None, item)
                )
            ]

    def count_asked(self) -> int:
        """Number of questions that there are, answered or not."""
        with reading(self.store.engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(_asked(self.plan))) or 0

    def count_open(self) -> int:
        """Number of questions that nobody has answered; a skip is an answer."""
        asked = _asked(self.plan)
        unanswered = ~sa.exists().where(*self._answered(asked, events.alias("answer")))
        with reading(self.store.engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(asked).where(unanswered)) or 0

    def count_leased(self, besides: str) -> int:
        """Number of questions that are open with other annotators at this moment."""
        where = (
            assignments.c.annotator != besides,
            assignments.c.answer.is_(None),
            assignments.c.expires > self.now(),
            *self._of_plan(),
        )
        with reading(self.store.engine) as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(assignments).where(*where)) or 0

    def _put(self, connection: sa.Connection, annotator: str, item: Event | Undo) -> str:
        """Store one answer or undo, and return why it is refused, or an empty text."""
        known = rows.select_events(connection, events.c.id == (item.uuid if isinstance(item, Undo) else item.id))
        if known:
            if known[0].annotator != annotator:
                return "this id is another annotator's"
            return "" if _says_the_same(item, known[0]) else "this id is that of another answer of yours"
        if isinstance(item, Undo):
            return self._undo(connection, annotator, item)
        key = item.extra["assignment"]
        given = _select(connection, assignments.c.id == key, assignments.c.annotator == annotator)
        if given and self._has_answered(connection, annotator, given[0]):
            return "you have answered this question already, perhaps in another window"
        try:
            rows.add_events(connection, [item])
        except PrefenvsError as error:
            return str(error)
        connection.execute(sa.update(assignments).where(assignments.c.id == key).values(answer=item.id))
        return ""

    def _has_answered(self, connection: sa.Connection, annotator: str | None, item: Assignment) -> bool:
        """Tell whether an answer by this annotator, or by anybody, to what an assignment asks stands."""
        if item.repeats is not None:
            where = [events.c.id == item.answer]
        else:
            subject = events.c.query == item.query if item.query else events.c.segment == item.segment
            kinds = ANSWERS if item.query else ("rating",)
            where = [subject, events.c.run == item.run, events.c.kind.in_(kinds)]
        if annotator is not None:
            where.append(events.c.annotator == annotator)
        undo = events.alias("undo")
        where.append(~sa.exists().where(undo.c.target == events.c.id, undo.c.kind == "undo"))
        return connection.scalar(sa.select(events.c.id).where(*where).limit(1)) is not None

    def _undo(self, connection: sa.Connection, annotator: str, item: Undo) -> str:
        target = next(iter(rows.select_events(connection, events.c.id == item.target)), None)
        if target is None or target.annotator != annotator:
            return "there is no answer of yours with this id to undo"
        if target.kind == "undo":
            return "an undo cannot be undone: answer the question again"
        target, undone = rows.find_undo(connection, target)
        if undone is not None:
            return ""
        undo = Event(
            kind="undo",
            id=item.uuid,
            query=target.query,
            segment=target.segment,
            target=target.id,
            run=target.run,
            annotator=annotator,
            oracle=target.oracle,
            reason=item.reason,
            time=self.now(),
            extra={"assignment": target.extra.get("assignment")}
            | ({} if target.id == item.target else {"answer": item.target}),
        )
        rows.add_events(connection, [undo])
        where = assignments.c.answer == item.target
        reopened = {"answer": None, "expires": self.now() + self.plan.lease}
        connection.execute(sa.update(assignments).where(where).values(reopened))
        return ""

    def _renew(self, connection: sa.Connection, annotator: str, ids: Collection[str], now: float) -> None:
        if ids:
            where = (assignments.c.id.in_(list(ids)), assignments.c.annotator == annotator)
            update = sa.update(assignments).where(*where, assignments.c.answer.is_(None), assignments.c.expires > now)
            connection.execute(update.values(expires=now + self.plan.lease))

    def _of_plan(self) -> list[sa.ColumnElement[bool]]:
        subject = assignments.c.query if self.plan.kind != "rating" else assignments.c.segment
        where: list[sa.ColumnElement[bool]] = [subject.is_not(None)]
        return where if self.plan.run is None else [*where, assignments.c.run.in_((self.plan.run, GOLD, TUTORIAL))]

    def _answered(self, asked: sa.Subquery, answer: sa.FromClause) -> tuple[sa.ColumnElement[bool], ...]:
        """Conditions under which `answer` is a standing answer to what is asked."""
        subject = "query" if self.plan.kind != "rating" else "segment"
        undo = events.alias("undo")
        return (
            answer.c[subject] == asked.c.subject,
            answer.c.run == asked.c.run,
            answer.c.kind.in_(ANSWERS if self.plan.kind != "rating" else ("rating",)),
            ~sa.exists().where(undo.c.target == answer.c.id, undo.c.kind == "undo"),
        )

    def _candidates(
        self, connection: sa.Connection, annotator: str, count: int, now: float
    ) -> list[tuple[str, str, int]]:
        """Return (run, query or segment, number of segments) of questions that this annotator may be given."""
        if count <= 0:
            return []
        asked = _asked(self.plan)
        answer, lease = events.alias("answer"), assignments.alias("lease")
        subject = "query" if self.plan.kind != "rating" else "segment"
        answered = self._answered(asked, answer)
        leased = (
            lease.c[subject] == asked.c.subject,
            lease.c.run == asked.c.run,
            lease.c.answer.is_(None),
            lease.c.repeats.is_(None),
            lease.c.expires > now,
        )
        free = ~sa.exists().where(*answered) & ~sa.exists().where(*leased)
        if self.plan.overlap:
            voters = sa.select(sa.func.count(answer.c.annotator.distinct())).where(*answered).scalar_subquery()
            leasers = sa.select(sa.func.count(lease.c.annotator.distinct())).where(*leased).scalar_subquery()
            mine = sa.exists().where(*answered, answer.c.annotator == annotator) | sa.exists().where(
                *leased, lease.c.annotator == annotator
            )
            free = free | ((asked.c.subject < _bound(self.plan.overlap)) & ~mine & (voters + leasers < self.plan.votes))
        search = sa.select(asked).where(free).order_by(asked.c.priority.desc(), asked.c.seq).limit(count)
        # What has been answered is passed over quickly: whoever looked a moment ago knows where the open ones begin.
        who = annotator if self.plan.overlap else ""
        until, priority, seq = self._front.get(who, (0.0, 0.0, 0))
        found: Sequence[sa.Row[tuple[str, str, int, float, int]]] = []
        if now < until:
            later = (asked.c.priority < priority) | (asked.c.seq >= seq)
            found = connection.execute(search.where(asked.c.priority <= priority, later)).all()
        if len(found) < count:
            found = connection.execute(search).all()
            until = now + LOOK_BACK
        if found:
            self._front[who] = until, found[0].priority, found[0].seq
        return [(row.run, row.subject, row.size) for row in found]

    def _make(
        self,
        annotator: str,
        run: str,
        subject: str,
        size: int,
        now: float,
        shown: Sequence[int] = (),
        repeats: str = "",
    ) -> Assignment:
        compared = self.plan.kind != "rating"
        return Assignment(
            id=str(uuid.uuid4()),
            annotator=annotator,
            run=run,
            query=subject if compared else None,
            segment=None if compared else subject,
            shown=tuple(shown) or tuple(self._rng.sample(range(size), size)),
            repeats=repeats or None,
            created=now,
            expires=now + self.plan.lease,
            answer=None,
        )

    def _teach(self, connection: sa.Connection, annotator: str, count: int, now: float) -> list[Assignment]:
        """Return the questions of the tutorial that an annotator has still to see, at most `count`."""
        if not self.plan.tutorial or self.plan.kind == "rating":
            return []
        mine = (*_had(annotator, now), assignments.c.run == TUTORIAL)
        seen = connection.scalar(sa.select(sa.func.count()).select_from(assignments).where(*mine)) or 0
        return self._pick_gold(connection, annotator, TUTORIAL, min(count, self.plan.tutorial - seen), now)

    def _pick_gold(
        self, connection: sa.Connection, annotator: str, run: str, count: int, now: float
    ) -> list[Assignment]:
        """Return up to `count` new assignments of gold questions that are new to somebody."""
        if count <= 0 or self.plan.kind == "rating":
            return []
        known = set(connection.scalars(sa.select(assignments.c.query).where(*_had(annotator, now))))
        select = sa.select(events.c.query, queries.c.size).join(queries, queries.c.id == events.c.query)
        gold = connection.execute(select.where(events.c.kind == "gold", events.c.run == GOLD).distinct())
        free = sorted((row.query, row.size) for row in gold if row.query not in known)
        return [
            self._make(annotator, run, query, size, now)
            for query, size in self._rng.sample(free, min(count, len(free)))
        ]

    def _mix_repeats(
        self, connection: sa.Connection, annotator: str, new: list[Assignment], now: float
    ) -> list[Assignment]:
        """Put repetitions in place of a share of the new questions, which stay open for the next call."""
        due = [
            i for i in range(len(new)) if new[i].run not in (GOLD, TUTORIAL) and self._rng.random() < self.plan.repeats
        ]
        if not due:
            return new
        own = _select(connection, assignments.c.annotator == annotator, *self._of_plan())
        repeated = {item.repeats for item in own}
        answered = [item for item in own if item.answer and item.repeats is None and item.run not in (GOLD, TUTORIAL)]
        answered = [item for item in answered[: max(len(answered) - REPEAT_AFTER, 0)] if item.answer not in repeated]
        mixed = list(new)
        for i, item in zip(due, self._rng.sample(answered, min(len(due), len(answered))), strict=False):
            subject = item.query or item.segment or ""
            shown = item.shown[::-1]
            mixed[i] = self._make(annotator, item.run, subject, len(shown), now, shown, item.answer or "")
        return mixed


@dataclass(frozen=True)
class Undo:
    """The wish to take back the answer `target`; `uuid` becomes the id of the undo event."""

    uuid: str
    target: str
    reason: str = field(default="")


def _says_the_same(item: Event | Undo, stored: Event) -> bool:
    """Tell whether an answer that was sent again is the stored one; when it arrived is no part of what it says."""
    if isinstance(item, Undo):
        return stored.kind == "undo" and item.target in (stored.target, stored.extra.get("answer"))

    def content(event: Event) -> dict[str, object]:
        extra = {name: value for name, value in event.extra.items() if name != "received"}
        return {**vars(event), "extra": extra, "time": None, "seq": None, "page": None}

    return content(item) == content(stored)


def _asked(plan: AssignmentPlan) -> sa.Subquery:
    """What runs ask, as rows of run, subject, size, priority and seq; a query too large for a page is left out."""
    if plan.kind != "rating":
        columns = requests.c.run, requests.c.query.label("subject"), queries.c.size, requests.c.priority, requests.c.seq
        select = sa.select(*columns).join(queries, queries.c.id == requests.c.query)
        select = select.where(queries.c.size <= MOST_SEGMENTS)
        if plan.kind == "ranking":
            select = select.where(requests.c.policy == RANKING)
    else:
        most, first = sa.func.max(requests.c.priority).label("priority"), sa.func.min(requests.c.seq).label("seq")
        subject = query_segments.c.segment.label("subject")
        select = sa.select(requests.c.run, subject, sa.literal(1).label("size"), most, first)
        select = select.join(query_segments, query_segments.c.query == requests.c.query)
        select = select.group_by(requests.c.run, query_segments.c.segment)
    if plan.run is not None:
        select = select.where(requests.c.run == plan.run)
    return select.subquery()


def _had(annotator: str, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    """Conditions under which an annotator has answered an assignment, or still has it."""
    return assignments.c.annotator == annotator, assignments.c.answer.is_not(None) | (assignments.c.expires > now)


def _bound(share: float) -> str:
    """Hashes are uniform, so this share of them sorts below the text returned."""
    return "g" if share >= 1 else f"{int(share * 2**52):013x}"


def _select(
    connection: sa.Connection, *where: sa.ColumnElement[bool], order: sa.ColumnElement[float] | None = None
) -> list[Assignment]:
    columns = [column for column in assignments.c if column.name != "seq"]
    statement = sa.select(*columns).where(*where).order_by(assignments.c.seq if order is None else order)
    return [
        Assignment(**{**row, "shown": tuple(json.loads(row["shown"]))})
        for row in connection.execute(statement).mappings()
    ]


def _row(item: Assignment) -> dict[str, object]:
    return {**vars(item), "shown": json.dumps(item.shown)}
