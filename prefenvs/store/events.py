"""Label events: the append-only log from which every preference is read."""

from __future__ import annotations

import json
import math
import re
import time as clock
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query

ANSWERS = ("comparison", "skip")
GOLD, TUTORIAL = "gold", "tutorial"
"""Runs of questions whose right answer is known: hidden among the others, and at the beginning with the answer told."""
_NAMESPACE = uuid.UUID("0f9d5c2e-7f0b-5d0c-9a60-3d1a3c1e6b57")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
LATEST = 253_402_300_799.0
"""The end of the year 9999 in seconds since 1970: no date is later, and no answer took longer."""
_JSON_COLUMNS = ("probabilities", "shown", "extra")


@dataclass(frozen=True)
class Event:
    """One line of the log: an answer, or something that happened to one.

    kind: "comparison" and "skip" answer `query`; "undo" takes back event `target`; any other lower-case word is kept
    for whoever reads it (a "rating" names its `segment`). id: a UUID chosen by the writer, which makes a repeated
    write harmless. probabilities: [K] floats as in `Preference`. time: seconds since the epoch; seconds: how long the
    answer took; shown: order of display; reason: free text; page: version of the labelling page; extra: any JSON
    object. seq: place in the log of the store it was read from, None until then and no part of equality.
    """

    kind: str
    query: str | None = None
    segment: str | None = None
    target: str | None = None
    run: str = ""
    probabilities: tuple[float, ...] | None = None
    annotator: str = ""
    oracle: str = ""
    time: float = field(default_factory=clock.time)
    seconds: float | None = None
    shown: tuple[int, ...] | None = None
    reason: str = ""
    page: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    seq: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("probabilities", "shown"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_types()
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.kind):
            raise PrefenvsError(f"event kind {self.kind!r} is not a lower-case word")
        if (self.kind in ANSWERS) and self.query is None:
            raise PrefenvsError(f"event {self.id} of kind {self.kind!r} names no query")
        if (self.kind == "undo") != (self.target is not None):
            raise PrefenvsError(
                f"event {self.id} of kind {self.kind!r}: an undo, and nothing else, names a target event"
            )
        if self.kind in ANSWERS and (self.kind == "comparison") != (self.probabilities is not None):
            raise PrefenvsError(f"event {self.id}: a comparison has probabilities and a skip has none")

    def _check_types(self) -> None:
        for name in ("kind", "run", "annotator", "oracle", "reason", "page", "id"):
            check_text(f"event {name}", getattr(self, name))
        for name in ("query", "segment", "target"):
            if getattr(self, name) is not None:
                check_text(f"event {name}", getattr(self, name))
        for name in ("time", "seconds"):
            value = getattr(self, name)
            if value is not None or name == "time":
                number = check_number(f"event {name}", value)
                if not 0 <= number <= LATEST:
                    raise PrefenvsError(f"event {name} must be a number of seconds from 0 to {LATEST:g}, got {value!r}")
                object.__setattr__(self, name, number)
        if self.probabilities is not None:
            numbers = tuple(check_number("event probabilities", value) for value in self.probabilities)
            object.__setattr__(self, "probabilities", numbers)
            if min(numbers, default=-1.0) < 0 or abs(sum(numbers) - 1.0) > 1e-6:
                raise PrefenvsError(
                    f"event {self.id}: probabilities {list(numbers)} are not numbers >= 0 that sum to 1"
                )
        if self.shown is not None:
            if not all(isinstance(index, int | np.integer) and not isinstance(index, bool) for index in self.shown):
                raise PrefenvsError(f"event {self.id}: shown {self.shown!r} is not a list of segment indices")
            object.__setattr__(self, "shown", tuple(int(index) for index in self.shown))
        try:
            object.__setattr__(self, "id", str(uuid.UUID(self.id)))
            # A round trip through JSON now, so that what is compared later is what is stored.
            object.__setattr__(self, "extra", json.loads(_dump(dict(self.extra))))
        except (TypeError, ValueError) as error:
            raise PrefenvsError(
                f"event {self.id!r}: its id must be a UUID and its extra a JSON object ({error})"
            ) from None

    @property
    def tie(self) -> bool:
        """True for a comparison whose highest probability is shared."""
        top = max(self.probabilities) - 1e-9 if self.probabilities else 0.0
        return self.probabilities is not None and sum(value >= top for value in self.probabilities) > 1

    @classmethod
    def of(cls, preference: Preference, run: str = "") -> Event:
        """The event for a preference; its id is made from the content, so that the same answer is the same event."""
        probabilities = preference.probabilities
        content: dict[str, Any] = {
            "query": preference.query.id,
            "run": run,
            "probabilities": None if probabilities is None else tuple(probabilities.tolist()),
            "annotator": preference.annotator,
            "oracle": preference.oracle,
            "time": check_number("event time", preference.time),
            "seconds": None if preference.seconds is None else check_number("event seconds", preference.seconds),
            "shown": None if preference.shown is None else tuple(int(index) for index in preference.shown),
        }
        name = json.dumps(content, sort_keys=True)
        kind = "skip" if probabilities is None else "comparison"
        return cls(kind=kind, id=str(uuid.uuid5(_NAMESPACE, name)), **content)

    def undone(self, annotator: str | None = None, reason: str = "") -> Event:
        """A new event that takes this one back, by the same annotator unless another is named."""
        return Event(
            kind="undo",
            query=self.query,
            target=self.id,
            run=self.run,
            annotator=self.annotator if annotator is None else annotator,
            oracle=self.oracle,
            reason=reason,
        )

    def preference(self, query: Query) -> Preference:
        """The preference that this answer expresses about `query`."""
        probabilities = None if self.probabilities is None else np.array(self.probabilities, np.float64)
        return Preference(query, probabilities, self.annotator, self.oracle, self.time, self.seconds, self.shown)

    def row(self) -> dict[str, Any]:
        """The event as a row of table `events`, without its place in the log."""
        row = {name: getattr(self, name) for name in COLUMNS}
        for name in _JSON_COLUMNS:
            row[name] = None if row[name] is None or row[name] == {} else _dump(row[name])
        return row

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Event:
        """The event in a row of table `events`; the log is trusted, so nothing is checked again."""
        event = object.__new__(cls)
        values = dict(row)
        for name in _JSON_COLUMNS:
            values[name] = None if values[name] is None else json.loads(values[name])
        for name in ("probabilities", "shown"):
            values[name] = None if values[name] is None else tuple(values[name])
        values["extra"] = values["extra"] or {}
        event.__dict__.update(values)
        return event


COLUMNS = tuple(item.name for item in fields(Event) if item.name != "seq")


def standing(log: Iterable[Event]) -> list[Event]:
    """Return the events of a log that none of its undos has taken back, without the undos."""
    log = list(log)
    undone = {event.target for event in log if event.kind == "undo"}
    return [event for event in log if event.kind != "undo" and event.id not in undone]


def check_text(name: str, value: object) -> str:
    """Return `value` if it is a string that both databases can hold; raises PrefenvsError for anything else."""
    if not isinstance(value, str):
        raise PrefenvsError(f"{name} must be a string, got {value!r}")
    if UNSTORABLE.search(value):
        raise PrefenvsError(f"{name} {value!r} holds a NUL or half a surrogate pair, which no database stores")
    return value


def check_number(name: str, value: object) -> float:
    """Return `value` as a float if it is a finite number; raises PrefenvsError for anything else."""
    try:
        # A whole number of JSON may be too large for a float.
        number = float(value) if isinstance(value, int | float | np.number) else math.nan
    except (OverflowError, TypeError):
        number = math.inf
    if isinstance(value, bool) or not math.isfinite(number):
        raise PrefenvsError(f"{name} must be a finite number, got {value!r}")
    return number


def _dump(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))
