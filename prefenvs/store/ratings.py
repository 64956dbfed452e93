"""Ratings of single clips as preferences between clips, which is what reward models learn from."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.limits import check_list
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store.events import Event
from prefenvs.store.store import Store

PARTNERS = 3
"""Clips that each rated clip is compared with."""


@dataclass(frozen=True)
class ClipRating:
    """What one annotator thinks of one clip: `value` is 1 to 5, None where it was passed over or undone."""

    event: Event
    value: int | None


def ratings_as_preferences(
    store: Store,
    run: str | None = None,
    annotators: Collection[str] | None = None,
    partners: int = PARTNERS,
    with_true_rewards: bool = False,
) -> list[Preference]:
    """Return the preferences that the ratings in a store imply, in the order in which they came to be.

    Of two clips that the same annotator rated in the same run, the one rated higher is better, with probability 1; of
    equal ratings either is, with 0.5 each. Ratings of different people or runs are never compared: nobody knows whether
    one's 4 is another's 3. Each clip meets up to `partners` of the clips of its length that its annotator had rated
    before, drawn by a generator that only the clips' names seed: n ratings make about n * partners answers instead of
    n (n - 1) / 2 that mostly repeat each other, and neither the ratings themselves nor later clips have a say in who
    meets whom. The last rating of a clip counts; one that was undone, or passed over, does not.

    run: of this run only; annotators: by these only.
    """
    check_list("annotators", annotators)
    log = store.events_after(run=run)
    if annotators is not None:
        log = [event for event in log if event.kind == "undo" or event.annotator in annotators]
    return list(pair_ratings(store, log, partners, with_true_rewards).values())


def pair_ratings(
    store: Store, log: Iterable[Event], partners: int = PARTNERS, with_true_rewards: bool = False
) -> dict[tuple[str, str, str], Preference]:
    """Do what `ratings_as_preferences` says with these events of a log, by run, annotator and query id.

    Raises PrefenvsError for fewer than one partner.
    """
    if partners < 1:
        raise PrefenvsError(f"partners={partners}: a rated clip is compared with at least 1 other")
    ratings = _latest(log)
    clips = store.find_segments({key[-1] for key in ratings}, with_true_rewards)
    # Who may meet: clips of one run, annotator and oracle, of one task and length, in the order of their first rating.
    groups: dict[tuple[object, ...], list[ClipRating]] = {}
    for (run, annotator, oracle, key), rating in ratings.items():
        segment = clips[key]
        groups.setdefault((run, annotator, oracle, segment.task, len(segment)), []).append(rating)
    pairs = {}
    for group in groups.values():
        for place, later in enumerate(group):
            rng = random.Random(f"{later.event.run}|{later.event.annotator}|{later.event.segment}")
            for earlier in rng.sample(group[:place], min(partners, place)):
                if earlier.value is not None and later.value is not None:
                    answer = _compare(earlier, later, clips)
                    pairs[later.event.run, answer.annotator, answer.query.id] = answer
    return pairs


def _latest(log: Iterable[Event]) -> dict[tuple[str, str, str, str], ClipRating]:
    """The ratings by run, annotator, oracle and clip, in the order in which clips were first rated."""
    events = list(log)
    undone = {event.target for event in events if event.kind == "undo"}
    ratings: dict[tuple[str, str, str, str], ClipRating] = {}
    for event in events:
        if event.kind != "rating" or event.segment is None:
            continue
        key = event.run, event.annotator, event.oracle, event.segment
        value = event.extra.get("rating")
        if event.id not in undone:
            ratings[key] = ClipRating(event, None if value is None else int(value))
        else:
            # It keeps its place, so that who meets whom stays as it was.
            ratings.setdefault(key, ClipRating(event, None))
    return ratings


def _compare(earlier: ClipRating, later: ClipRating, clips: Mapping[str, Segment]) -> Preference:
    assert earlier.value is not None
    assert later.value is not None
    query = Query((clips[str(earlier.event.segment)], clips[str(later.event.segment)]))
    better = 0.5 + 0.5 * np.sign(earlier.value - later.value)
    times = [rating.event.seconds for rating in (earlier, later)]
    seconds = None if None in times else float(sum(time for time in times if time is not None))
    when = max(earlier.event.time, later.event.time)
    return Preference(query, np.array([better, 1.0 - better]), later.event.annotator, later.event.oracle, when, seconds)
