"""Answers as the page posts them, checked, and turned into events of the store."""

from __future__ import annotations

import json
import logging
import threading
import time as clock
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, field_validator

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.people.moment import add_moment, check_moment, undo_moment
from prefenvs.oracles.people.strength import Strength, soften
from prefenvs.store import (
    GOLD,
    TUTORIAL,
    Assignment,
    Assignments,
    Event,
    Store,
    StoreUnavailable,
    Undo,
    check_annotator,
)

ORACLE = "human"
MOST_ANSWERS = 100
EXPORT_FORMAT, EXPORT_BYTES = "prefenvs.answers", 64 * 2**20
MOST_TAGS, TAG_LENGTH = 10, 60
SHORTEST_LOOK = 0.3
"""Seconds for which a question is on the screen at least before its answer counts; the page waits as long."""


_log = logging.getLogger("prefenvs.labelling")


class Refused(PrefenvsError):
    """An answer that cannot be stored; the message tells the annotator why."""


class Pace:
    """The server's own measure of the time that an annotator can have looked: a page may say any `seconds`.

    Questions are looked at one after another, each for `least` seconds from when it was handed out. Time is that of a
    clock that is never set back.
    """

    least: ClassVar[float] = SHORTEST_LOOK

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._done: dict[str, float] = {}

    @contextmanager
    def measuring(self, annotator: str) -> Iterator[None]:
        """Forget what is measured in the block where the store cannot take it: it comes again, and is measured then."""
        before = self._done.get(annotator, -float("inf"))
        try:
            yield
        except StoreUnavailable:
            with self._turn:
                self._done[annotator] = before
            raise

    def check(self, annotator: str, age: float) -> None:
        """Take an answer to a question that was handed out `age` seconds ago; raises Refused where it came too soon."""
        now = clock.monotonic()
        with self._turn:
            begun = self._done.get(annotator, -float("inf"))
            # Below 0 the clock by which it was handed out has been set back since, and tells nothing.
            begun = max(begun, now - age) if age >= 0 else begun
            if now - begun < self.least:
                raise Refused(
                    f"the question was handed out, or another one answered, {now - begun:.2f} s before this answer"
                )
            self._done[annotator] = max(begun, now - 3600.0) + self.least


Second = Annotated[float, Field(ge=0, le=1e6, strict=True)]


class Answer(BaseModel):
    """One answer, or the taking back of one; `uuid` makes posting it twice harmless."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    uuid: str
    question: str = Field(max_length=36)
    choice: StrictInt | Literal["equal", "bad", "skip"] | None = None
    strength: Strength | None = None
    rating: Annotated[StrictInt, Field(ge=1, le=5)] | None = None
    undo: str | None = None
    reason: str = Field("", max_length=2000)
    tags: list[Annotated[str, Field(max_length=TAG_LENGTH)]] = Field([], max_length=MOST_TAGS)
    seconds: float = Field(0.0, ge=0, le=1e6, strict=True)
    replays: StrictInt = Field(0, ge=0, le=10**6)
    time: float = Field(0.0, ge=0, le=1e11, strict=True)
    moment: tuple[Second, Second] | None = None

    @field_validator("uuid", "undo")
    @classmethod
    def _is_uuid(cls, value: str | None) -> str | None:
        return None if value is None else str(uuid.UUID(value))

    @field_validator("reason", mode="before")
    @classmethod
    def _make_storable(cls, value: object) -> object:
        # A browser cuts text in the middle of an emoji; the label is not lost for that.
        return value.encode("utf-8", "replace").decode().replace("\x00", "") if isinstance(value, str) else value

    @field_validator("tags", mode="before")
    @classmethod
    def _make_all_storable(cls, value: object) -> object:
        return [cls._make_storable(tag) for tag in value] if isinstance(value, list) else value


def parse_answers(body: Any) -> tuple[list[Answer], list[dict[str, str]]]:
    """Return the answers of a posted body, and what was refused as {"uuid", "reason"}.

    One malformed answer does not keep the others from being stored. Raises PrefenvsError where the body as a whole
    makes no sense, or an answer has no UUID by which to tell the page about it.
    """
    if not isinstance(body, dict) or set(body) != {"answers"} or not isinstance(body["answers"], list):
        raise PrefenvsError('the body must be {"answers": [...]}')
    if len(body["answers"]) > MOST_ANSWERS:
        raise PrefenvsError(f"{len(body['answers'])} answers were posted at once; the most is {MOST_ANSWERS}")
    answers, refused = [], []
    for item in body["answers"]:
        try:
            key = str(uuid.UUID(item["uuid"]))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise PrefenvsError("an answer has no UUID") from None
        try:
            answers.append(Answer.model_validate(item))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            refused.append({"uuid": key, "reason": f"{where}: {first['msg']}"})
    return answers, refused


def import_answers(store: Store, path: Path) -> tuple[int, list[str]]:
    """Store what a browser's page exported because it could not send it.

    Returns how many answers are in the store now, and why the others are not, a line each. Importing twice changes
    nothing. Raises PrefenvsError for a file that is no such export.
    """
    reasons: list[str] = []
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for number, entry in enumerate(_read_export(path)):
        try:
            content, annotator = entry["content"], check_annotator(entry["annotator"])
            key, order = str(uuid.UUID(content["answer"]["uuid"])), float(content["order"])
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            reasons.append(f"entry {number}: cannot be read ({type(error).__name__}: {error})")
            continue
        if entry.get("store") != store.identity:
            reasons.append(f"answer {key}: it belongs to another store")
            continue
        found.setdefault(annotator, []).append((order, content["answer"]))
    taken = 0
    for annotator, items in found.items():
        # As they were given: an answer comes before the undo that takes it back.
        items.sort(key=lambda item: item[0])
        for first in range(0, len(items), MOST_ANSWERS):
            body = {"answers": [answer for _, answer in items[first : first + MOST_ANSWERS]]}
            accepted, refused = store_answers(Assignments(store), annotator, body, "import")
            taken += len(accepted)
            reasons += [f"answer {item['uuid']}: {item['reason']}" for item in refused]
    return taken, reasons


def store_answers(
    assignments: Assignments, annotator: str, body: Any, page: str, pace: Pace | None = None
) -> tuple[list[str], list[dict[str, str]]]:
    """Store a body's answers; returns the ids of those that are on the disk, and what was refused and why."""
    answers, refused = parse_answers(body)
    given = assignments.find([answer.question for answer in answers], annotator)
    items: list[Event | Undo] = []
    seen: set[str] = set()
    for answer in answers:
        assignment = given.get(answer.question)
        try:
            item = to_event(answer, assignment, annotator, page, clock.time())
            if isinstance(item, Event):
                check_moment(assignments.store, item)
            # One that is sent again has been measured already.
            if pace and assignment and answer.undo is None and answer.uuid not in {*seen, assignment.answer}:
                pace.check(annotator, assignments.now() - assignment.created)
            seen.add(answer.uuid)
            items.append(item)
        except StoreUnavailable:
            raise
        except PrefenvsError as error:
            refused.append({"uuid": answer.uuid, "reason": str(error)})
    reasons = _record(assignments, annotator, items)
    _record_moments(assignments.store, annotator, items, reasons)
    refused += [{"uuid": key, "reason": reason} for key, reason in reasons.items()]
    keys = [item.uuid if isinstance(item, Undo) else item.id for item in items]
    return [key for key in keys if key not in reasons], refused


def _record_moments(store: Store, annotator: str, items: Sequence[Event | Undo], refused: Collection[str]) -> None:
    """Let the moments of the answers that were stored follow them."""
    for item in items:
        if isinstance(item, Undo):
            if item.uuid not in refused:
                undo_moment(store, item.target, annotator)
        elif item.id not in refused and item.kind == "comparison" and item.run not in (GOLD, TUTORIAL):
            add_moment(store, item)


def _record(assignments: Assignments, annotator: str, items: Sequence[Event | Undo]) -> dict[str, str]:
    """Store answers; where the database refuses some for what they hold, the others are stored all the same."""
    if not items:
        return {}
    try:
        return assignments.record(annotator, items)
    except StoreUnavailable:
        raise
    except PrefenvsError as error:
        if len(items) == 1:
            _log.warning("an answer of %s: %s", annotator, error)
            item = items[0]
            return {item.uuid if isinstance(item, Undo) else item.id: "the database does not take it"}
        refused = [_record(assignments, annotator, [item]) for item in items]
        return {key: reason for found in refused for key, reason in found.items()}


def _read_export(path: Path) -> list[Any]:
    """Return the entries of a page's export."""
    try:
        if path.stat().st_size > EXPORT_BYTES:
            raise PrefenvsError(
                f"{path} is larger than {EXPORT_BYTES // 2**20} MiB: it is no export of a labelling page"
            )
        export = json.loads(path.read_bytes())
    except OSError as error:
        raise PrefenvsError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise PrefenvsError(f"{path} is not JSON: {error}") from None
    entries = export.get("answers") if isinstance(export, dict) and export.get("format") == EXPORT_FORMAT else None
    if not isinstance(entries, list):
        raise PrefenvsError(f'{path} is no export of a labelling page: its "format" is not {EXPORT_FORMAT!r}')
    return entries


def to_event(answer: Answer, assignment: Assignment | None, annotator: str, page: str, now: float) -> Event | Undo:
    """Return the event that an answer is; raises Refused where it does not fit its question."""
    if answer.undo is not None:
        return Undo(answer.uuid, answer.undo, answer.reason)
    if assignment is None:
        raise Refused("question: it was never given to you")
    if answer.seconds < SHORTEST_LOOK:
        raise Refused(f"seconds: the clips were on the screen for {answer.seconds:.2f} s, too short to be seen")
    common: dict[str, Any] = {
        "id": answer.uuid,
        "query": assignment.query,
        "segment": assignment.segment,
        "run": assignment.run,
        "annotator": annotator,
        "oracle": ORACLE,
        # The page's clock may be wrong, but no answer precedes its question, or comes from the future.
        "time": min(max(answer.time, assignment.created), now),
        "seconds": answer.seconds,
        "reason": answer.reason,
        "page": page,
    }
    extra: dict[str, Any] = {"assignment": assignment.id, "replays": answer.replays, "received": now}
    if assignment.repeats is not None:
        extra["repeats"] = assignment.repeats
    # What the probabilities do not say.
    said: dict[str, Any] = {"strength": answer.strength, "bad": answer.choice == "bad", "tags": answer.tags}
    if answer.moment is not None and not isinstance(answer.choice, int):
        raise Refused("moment: only a clip that is better has a moment that decided")
    said["moment"] = answer.moment
    extra |= {name: value for name, value in said.items() if value}
    if assignment.segment is not None:
        extra["rating"] = _rating(answer)
        return Event(kind="rating" if assignment.repeats is None else "repeat", extra=extra, **common)
    probabilities = _probabilities(answer, assignment.shown)
    kind = "skip" if probabilities is None else "comparison"
    kind = kind if assignment.repeats is None else "repeat"
    return Event(kind=kind, probabilities=probabilities, shown=assignment.shown, extra=extra, **common)


def _rating(answer: Answer) -> int | None:
    if answer.choice not in (None, "skip") or answer.strength or (answer.rating is None) != (answer.choice == "skip"):
        raise Refused("rating: this question takes a rating from 1 to 5, or the choice skip")
    return answer.rating


def _probabilities(answer: Answer, shown: tuple[int, ...]) -> tuple[float, ...] | None:
    count, choice = len(shown), answer.choice
    if answer.strength is not None and not isinstance(choice, int):
        raise Refused("strength: only a clip that is better can be much better")
    if choice == "skip":
        return None
    # That all are bad says no more of which is better; that they are is kept beside it.
    if choice in ("equal", "bad"):
        return (1.0 / count,) * count
    if not isinstance(choice, int) or not 0 <= choice < count or answer.rating is not None:
        raise Refused(f"choice: this question takes 0 to {count - 1}, equal, bad or skip, and no rating")
    return soften(shown[choice], count, answer.strength)
