"""RatingOracle: what people say of single clips, handed out as preferences, once, corrected, and after a restart."""

from __future__ import annotations

import numpy as np

from prefenvs.oracles import RatingOracle
from prefenvs.preferences import Preference
from prefenvs.segments import Segment
from prefenvs.store import Event, Store, ratings_as_preferences

from .conftest import make_queries


def rate(store: Store, segment: Segment, value: int | None, annotator: str = "ann", run: str = "r") -> Event:
    event = Event("rating", segment=segment.hash, annotator=annotator, run=run, oracle="human", extra={"rating": value})
    store.add_events([event])
    return event


def standing(handed_out: list[Preference]) -> dict[str, tuple[float, ...]]:
    """What a learner makes of it: a later answer takes the place of an earlier one, a skip withdraws it."""
    latest: dict[str, tuple[float, ...]] = {}
    for answer in handed_out:
        latest.pop(answer.query.id, None)
        if answer.probabilities is not None:
            latest[answer.query.id] = tuple(answer.probabilities)
    return latest


def test_ratings_come_out_as_preferences_once_with_corrections(store: Store) -> None:
    oracle = RatingOracle(store, "r")
    (query, other) = make_queries(2)
    oracle.ask([query, other])
    assert (oracle.pending, oracle.collect()) == (4, [])
    first, second = query.segments
    rate(store, first, 2)
    assert (oracle.pending, oracle.collect()) == (4, [])
    assert oracle.pending == 3
    low = rate(store, second, 1)
    (answer,) = oracle.collect()
    assert answer.probabilities is not None
    assert (answer.query.id, tuple(answer.probabilities), answer.annotator) == (query.id, (1.0, 0.0), "ann")
    assert (oracle.collect(), oracle.pending) == ([], 2)
    store.undo(low)
    (withdrawn,) = oracle.collect()
    assert (withdrawn.query.id, withdrawn.probabilities, withdrawn.annotator) == (query.id, None, "ann")
    rate(store, second, 5)
    rate(store, first, 2, "bob")
    rate(store, first, 3, "ann", run="another")
    (answer,) = oracle.collect()
    assert standing([answer]) == {query.id: (0.0, 1.0)}


def test_a_restart_repeats_nothing_and_corrects_what_was_handed_out_before(store: Store) -> None:
    queries = make_queries(6)
    clips = [segment for query in queries for segment in query.segments]
    oracle = RatingOracle(store, "r")
    oracle.ask(queries)
    rng = np.random.default_rng(0)
    handed_out = []
    for step, segment in enumerate(clips):
        rate(store, segment, int(rng.integers(1, 6)))
        if step % 3 == 0:
            handed_out += oracle.collect()
        if step == 7:
            state = oracle.state_dict()
            oracle = RatingOracle(store, "r")
            oracle.load_state_dict(state)
            rate(store, clips[1], 5)
            rate(store, clips[2], None)
    handed_out += oracle.collect()
    assert oracle.collect() == []
    everything = {
        answer.query.id: tuple(answer.probabilities)
        for answer in ratings_as_preferences(store, "r")
        if answer.probabilities is not None
    }
    assert standing(handed_out) == everything
    assert standing(RatingOracle(store, "r").collect()) == everything
    assert oracle.pending == 0


def test_some_people_count_less_or_not_at_all(store: Store) -> None:
    (query,) = make_queries(1)
    first, second = query.segments
    oracle = RatingOracle(store, "r", weights={"bob": 0.5, "eve": 0.0})
    oracle.ask([query])
    for name in ("ann", "bob", "eve"):
        rate(store, first, 4, name)
        rate(store, second, 1, name)
    found = {answer.annotator: tuple(answer.probabilities) for answer in oracle.collect()}  # type: ignore[arg-type]
    assert found == {"ann": (1.0, 0.0), "bob": (0.75, 0.25)}
