"""What whoever manages the labelling sees and does: people, progress, discarding answers, pausing, overlap, links."""

from __future__ import annotations

import dataclasses
import time as clock
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefenvs.agreement import Annotator, measure_agreement, repeat_consistency
from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles.labelling.status import labels_per_hour
from prefenvs.oracles.people.gold import RECENT, credit, list_gold
from prefenvs.oracles.people.moment import is_moment
from prefenvs.store import (
    GOLD,
    Event,
    Store,
    change_note,
    check_annotator,
    count_tokens,
    issue_token,
    read_note,
    revoke_tokens,
)
from prefenvs.store.database import reading
from prefenvs.store.events import standing
from prefenvs.store.schema import assignments

if TYPE_CHECKING:
    from prefenvs.oracles.labelling.server import Desk

CONTROLS = "labelling"
"""Name of the store's note that holds what a manager has set."""
ANSWERS = ("comparison", "skip", "rating", "repeat")
ON = 90.0
"""Seconds since the page's last request for which a person counts as being there."""
TEN, MOST_TENS = 10, 12
_NAMESPACE = uuid.UUID("5f9c1c0e-6f4e-5d26-8a3f-2c7a0f6b9d11")


@dataclasses.dataclass(frozen=True)
class Controls:
    """What a manager has set, for every server of the store.

    paused: nothing is handed out. overlap: share of questions that several people answer; None: as the server was
    started.
    """

    paused: bool = False
    overlap: float | None = None


class Action(BaseModel):
    """What a manager wants done."""

    model_config = ConfigDict(extra="forbid")

    pause: bool | None = None
    overlap: float | None = Field(None, ge=0, le=1)
    discard: str | None = None
    restore: str | None = None
    revoke: str | None = None
    renew: str | None = None


def read_controls(store: Store) -> Controls:
    """Return what a manager has set."""
    return Controls(**read_note(store, CONTROLS))


def act(store: Store, manager: str, body: Any) -> dict[str, Any]:
    """Do what a manager wants, and say what came of it; raises PrefenvsError for what is no action."""
    try:
        action = Action.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise PrefenvsError(f"{'.'.join(map(str, first['loc'])) or 'body'}: {first['msg']}") from None
    if action.pause is not None or action.overlap is not None:
        changes = {"paused": action.pause, "overlap": action.overlap}
        given = {name: value for name, value in changes.items() if value is not None}
        change_note(store, CONTROLS, lambda note: {**note, **given})
    if action.discard is not None:
        return {"discarded": discard_answers(store, action.discard, manager)}
    if action.restore is not None:
        return {"restored": restore_answers(store, action.restore, manager)}
    if action.revoke is not None:
        return {"revoked": revoke_tokens(store, action.revoke)}
    if action.renew is not None:
        # A new link is for whoever lost theirs, or may have shown it to others: the old ones end.
        name = check_annotator(action.renew)
        revoke_tokens(store, name)
        return {"link": f"/?token={issue_token(store, name)}"}
    return {}


def discard_answers(store: Store, annotator: str, manager: str) -> int:
    """Take back every standing answer of an annotator, and return how many there were.

    All stay in the log. Learners are told as of any undo, and the questions are open to others again.
    """
    found = [e for e in standing(store.events_after()) if e.annotator == annotator and e.kind in ANSWERS]
    extra = {"discarded": True, "by": manager}
    store.add_events(dataclasses.replace(event.undone(reason="discarded"), extra=extra) for event in found)
    return sum(not is_moment(event) for event in found)


def restore_answers(store: Store, annotator: str, manager: str) -> int:
    """Give every discarded answer of an annotator again, as it was, and return how many there were.

    An answer to a question that the annotator has answered anew since stays discarded.
    """
    log = store.events_after()
    undos = {event.target: event for event in log if event.kind == "undo"}
    mine = [event for event in log if event.annotator == annotator and event.kind in ANSWERS]
    standing = {(e.run, e.query or e.segment, e.kind == "repeat") for e in mine if e.id not in undos}
    restored = {event.extra.get("restores") for event in mine}
    discarded = [e for e in mine if e.id in undos and undos[e.id].extra.get("discarded") and e.id not in restored]
    names = {event.id: str(uuid.uuid5(_NAMESPACE, event.id)) for event in discarded}
    given = []
    for event in discarded:
        subject = event.run, event.query or event.segment, event.kind == "repeat"
        if subject in standing and event.kind != "repeat":
            continue
        extra = {**event.extra, "restores": event.id, "by": manager}
        if "repeats" in extra:
            extra["repeats"] = names.get(str(extra["repeats"]), extra["repeats"])
        if is_moment(event):
            extra["moment_of"] = names.get(str(extra["moment_of"]), extra["moment_of"])
        given.append(dataclasses.replace(event, id=names[event.id], extra=extra, seq=None))
    store.add_events(given)
    return sum(not is_moment(event) for event in given)


def describe(desk: Desk) -> dict[str, Any]:
    """Return what the manager's page shows."""
    store, plan = desk.store, desk.assignments.plan
    log = store.events_after()
    undos = {event.target: event for event in log if event.kind == "undo"}
    given = [event for event in standing(log) if event.kind in ANSWERS and not is_moment(event)]
    ours = [event for event in given if plan.run in (None, event.run)]
    answers = Counter(event.annotator for event in given)
    agreement = measure_agreement(store, plan.run)
    people = {person.name: person for person in agreement.annotators}
    tokens, leases = count_tokens(store), _count_leases(store)
    restored = {event.extra.get("restores") for event in log}
    gone = Counter(
        event.annotator
        for event in log
        if event.id in undos
        and undos[event.id].extra.get("discarded")
        and event.id not in restored
        and not is_moment(event)
    )
    names = sorted({*people, *tokens, *gone, *desk.seen})
    scores, credits = desk.gold_scores(), _credit(store, ours)
    return {
        "people": [
            {
                "name": name,
                "on": clock.time() - desk.seen.get(name, 0.0) < ON,
                "leases": leases.get(name, 0),
                "tokens": tokens.get(name, 0),
                "answers": answers[name],
                "discarded": gone[name],
                "labels_per_hour": labels_per_hour([e.time for e in ours if e.annotator == name]),
                "gold": scores.get(name),
                "tens": _tens(credits.get(name, [])),
                **_figures(people.get(name), credits.get(name, [])),
            }
            for name in names
        ],
        "agreement": {"alpha": agreement.alpha, "shared": agreement.shared, "percent": agreement.percent},
        "kinds": _count_kinds(ours),
        "asked": desk.assignments.count_asked(),
        "open": desk.assignments.count_open(),
        "kind": plan.kind,
        "controls": {"paused": desk.controls.paused, "overlap": plan.overlap},
        "store": store.location,
    }


def _figures(person: Annotator | None, credits: list[float]) -> dict[str, Any]:
    before, lately = credits[:-RECENT], credits[-RECENT:]
    worse = len(before) >= 10 and Share(sum(lately), len(lately)).interval[1] < sum(before) / len(before)
    drift = ["drift"] if worse else []
    if person is None:
        return {"labels": 0, "consistency": None, "repeats": 0, "too_fast": None, "left_share": None, "signs": drift}
    return {
        "labels": person.labels + person.ratings,
        "consistency": person.consistency,
        "repeats": person.repeats,
        "too_fast": person.too_fast,
        "left_share": person.left_share,
        "signs": [*person.signs, *drift],
    }


def _credit(store: Store, given: list[Event]) -> dict[str, list[float]]:
    """Of each person's answers to gold and repeated questions, in turn: 1 for right or the same again, 0, or 0.5."""
    known, by_id = list_gold(store), {event.id: event for event in given}
    gold = (event for event in standing(store.events_after(run=GOLD)) if event.kind == "comparison")
    log = {event.id: event for event in [*given, *gold]}
    found: dict[str, list[float]] = {}
    for event in sorted(log.values(), key=lambda event: event.seq or 0):
        if event.run == GOLD:
            share = credit(event, known)
        else:
            share = repeat_consistency([event], by_id) if event.kind == "repeat" else None
        if share is not None:
            found.setdefault(event.annotator, []).append(share)
    return found


def _tens(credits: list[float]) -> list[float]:
    """Means of ten credits each, the latest last; of a rest, if it is at least half of ten."""
    parts = [credits[first : first + TEN] for first in range(0, len(credits), TEN)]
    return [sum(part) / len(part) for part in parts if len(part) >= TEN // 2][-MOST_TENS:]


def _count_kinds(given: list[Event]) -> dict[str, int]:
    """Standing answers by what they say."""
    kinds: Counter[str] = Counter()
    for event in given:
        if event.kind != "comparison":
            kinds[event.kind] += 1
        elif event.tie:
            kinds["bad" if event.extra.get("bad") else "equal"] += 1
        else:
            kinds["much" if event.extra.get("strength") == "much" else "better"] += 1
    return dict(kinds.most_common())


def _count_leases(store: Store) -> dict[str, int]:
    """Questions that are open with each annotator at this moment."""
    open_now = (assignments.c.answer.is_(None), assignments.c.expires > clock.time())
    select = sa.select(assignments.c.annotator, sa.func.count()).where(*open_now).group_by(assignments.c.annotator)
    with reading(store.engine) as connection:
        return {str(name): int(count) for name, count in connection.execute(select)}
