"""The moment that decided: a stretch of the clips becomes a question of its own, with the answer that was given."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query
from prefenvs.segments import Segment
from prefenvs.store import Event, Store
from prefenvs.store.database import writing
from prefenvs.store.rows import add_events, add_queries
from prefenvs.tasks import find_task

SHORTEST = 2
"""Steps of a moment at least."""
SLACK = 0.25
"""Seconds that a clip may show its last step for."""
_NAMESPACE = uuid.UUID("8f3f9a52-40c4-5c0f-9b0e-0b1f7a6f6c1d")


def is_moment(event: Event) -> bool:
    """Tell whether an event is the answer to a moment, which goes with the answer to the whole clips."""
    return "moment_of" in event.extra


def cut_moment(segments: Sequence[Segment], start: float, end: float) -> tuple[Segment, ...]:
    """Return the steps of the segments from `start` to `end`, in seconds of the clips' common clock.

    At least SHORTEST steps, where a segment has as many. Raises PrefenvsError for a moment that is in no such clip.
    """
    cut = []
    for segment in segments:
        if segment.recording is None:
            times = np.arange(len(segment)) / find_task(segment.task).fps
        else:
            times = np.asarray(segment.recording.times) - segment.recording.times[0]
        if not 0 <= start < end or start > times[-1] + SLACK:
            raise PrefenvsError(f"moment: {start:g} to {end:g} s is no stretch of the shortest clip")
        # The step on the screen at `start` is the last that began by then.
        first, last = np.searchsorted(times, (start + 1e-6, end - 1e-6), "right") - (1, 0)
        first = max(0, min(first, last - SHORTEST))
        cut.append(segment.cut(int(first), int(max(last, first + SHORTEST))))
    return tuple(cut)


def add_moment(store: Store, event: Event) -> None:
    """Store the moment of an answer, `extra["moment"]`, as a further answer to a query of its own.

    It stands and falls with the answer it belongs to; doing it twice changes nothing.
    """
    given = event.extra.get("moment")
    if given is None or event.query is None:
        return
    if moment_id(event.id) in store.find_events([moment_id(event.id)]):
        return
    whole = store.find_queries([event.query], with_true_rewards=True)[event.query]
    query = Query(cut_moment(whole.segments, *given))
    extra = {"moment_of": event.id, **{name: event.extra[name] for name in ("strength",) if name in event.extra}}
    made = replace(event, id=moment_id(event.id), query=query.id, reason="", extra=extra, seq=None)
    with writing(store.engine) as connection:
        add_queries(connection, [query])
        add_events(connection, [made])


def check_moment(store: Store, event: Event) -> None:
    """Raise PrefenvsError where the moment of an answer cannot be cut."""
    given = event.extra.get("moment")
    if given is not None and event.query is not None:
        cut_moment(store.find_queries([event.query])[event.query].segments, *given)


def undo_moment(store: Store, target: str, annotator: str) -> None:
    """Take back the answer to the moment that belongs to an answer that was taken back, if there is one."""
    key = moment_id(target)
    if key in store.find_events([key]):
        store.undo(key, annotator)


def moment_id(answer: str) -> str:
    """Id of the answer to the moment of an answer."""
    return str(uuid.uuid5(_NAMESPACE, answer))
