"""Ratings of single clips become preferences between clips."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import Event, Store, ratings_as_preferences


def clip(seed: int, length: int = 6, task: str = "Hopper-v5") -> Segment:
    rng = np.random.default_rng(seed)
    return Segment(rng.random((length, 3)), rng.random((length, 2)), task=task)


def rate(segment: Segment, value: int | None, annotator: str = "ann", run: str = "r", **about: object) -> Event:
    extra = {"rating": value}
    return Event("rating", segment=segment.hash, annotator=annotator, run=run, oracle="human", extra=extra, **about)  # type: ignore[arg-type]


@pytest.fixture
def clips() -> list[Segment]:
    return [clip(seed) for seed in range(12)]


@pytest.fixture
def store(location: str, clips: list[Segment]) -> Iterator[Store]:
    with Store(location) as opened:
        opened.add_queries([Query(tuple(clips))], run="r")
        yield opened


def said(store: Store, **options: object) -> dict[tuple[str, str, str], float]:
    """Chance of the first clip by annotator and the hashes of both."""
    found = {}
    for answer in ratings_as_preferences(store, **options):  # type: ignore[arg-type]
        assert answer.probabilities is not None
        assert answer.oracle == "human"
        first, second = answer.query.segments
        found[answer.annotator, first.hash, second.hash] = float(answer.probabilities[0])
    return found


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.integers(1, 5), min_size=2, max_size=12), partners=st.integers(1, 12))
def test_higher_is_better_and_equal_is_a_tie(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], partners: int
) -> None:
    clips = [clip(seed) for seed in range(len(values))]
    with Store(tmp_path_factory.mktemp("ratings") / "labels.sqlite") as store:
        store.add_queries([Query(tuple(clips))], run="r")
        store.add_events(rate(segment, value) for segment, value in zip(clips, values, strict=True))
        found = said(store, partners=partners)
    value_of = {segment.hash: value for segment, value in zip(clips, values, strict=True)}
    for (_, first, second), chance in found.items():
        assert chance == 0.5 + 0.5 * np.sign(value_of[first] - value_of[second])
    # Each clip meets as many earlier ones as it may, and no pair meets twice.
    assert len(found) == sum(min(place, partners) for place in range(len(values)))
    assert len({frozenset(key[1:]) for key in found}) == len(found)


def test_people_runs_and_lengths_are_never_mixed(store: Store, clips: list[Segment]) -> None:
    short, other = clip(20, length=5), clip(21, task="Walker2d-v5")
    store.add_queries([Query((short, clip(22, length=5))), Query((other, clip(23, task="Walker2d-v5")))], run="r")
    store.add_events([rate(clips[0], 5, "ann"), rate(clips[1], 1, "bob"), rate(clips[2], 1, "ann", run="other")])
    store.add_events([rate(short, 2), rate(other, 3)])
    assert said(store) == {}
    store.add_events([rate(clips[1], 2, "ann")])
    assert said(store) == {("ann", clips[0].hash, clips[1].hash): 1.0}
    assert said(store, run="r", annotators={"bob"}) == said(store, run="other") == {}


def test_the_last_rating_counts_and_an_undone_or_skipped_one_does_not(store: Store, clips: list[Segment]) -> None:
    first, second = rate(clips[0], 4), rate(clips[1], 2)
    store.add_events([first, second])
    key = "ann", clips[0].hash, clips[1].hash
    assert said(store) == {key: 1.0}
    again = rate(clips[0], 2)
    store.add_events([again])
    assert said(store) == {key: 0.5}
    store.undo(again)
    assert said(store) == {key: 1.0}
    store.undo(first)
    assert said(store) == {}
    store.add_events([rate(clips[0], 1)])
    assert said(store) == {key: 0.0}
    store.add_events([rate(clips[1], None)])
    assert said(store) == {}


def test_ratings_have_no_say_in_who_meets_whom_nor_have_later_clips(store: Store, clips: list[Segment]) -> None:
    for annotator, values in (("ann", [1, 2, 3, 4, 5, 1, 2, 3, 4]), ("zoe", [3] * 9)):
        store.add_events(rate(segment, value, annotator) for segment, value in zip(clips, values, strict=False))
    before = said(store)
    assert len(before) == 2 * (0 + 1 + 2 + 3 * 6)
    store.add_events([rate(clips[0], 5), *(rate(segment, 1) for segment in clips[9:])])
    assert before.keys() < said(store).keys()


def test_time_and_seconds_are_those_of_both(store: Store, clips: list[Segment]) -> None:
    now = time.time()
    store.add_events([rate(clips[0], 5, time=now, seconds=2.0), rate(clips[1], 1, time=now - 9, seconds=1.5)])
    (answer,) = ratings_as_preferences(store)
    assert (answer.time, answer.seconds) == (now, 3.5)
    with pytest.raises(PrefenvsError, match="partners=0"):
        ratings_as_preferences(store, partners=0)


def test_one_name_is_no_list_of_names(store: Store, clips: list[Segment]) -> None:
    from prefenvs.oracles import HumanOracle

    store.add_events([rate(clips[0], 5), rate(clips[1], 1)])
    assert len(ratings_as_preferences(store, annotators=["ann"])) == 1
    with pytest.raises(PrefenvsError, match="annotators='ann' is one name: give a list"):
        ratings_as_preferences(store, annotators="ann")
    with pytest.raises(PrefenvsError, match="annotators='ann' is one name"):
        store.preferences(annotators="ann")
    with pytest.raises(PrefenvsError, match="queries='abc' is one name"):
        store.preferences(queries="abc")
    with pytest.raises(PrefenvsError, match="annotators='ann' is one name"):
        HumanOracle(store, annotators="ann")


def test_answers_to_more_queries_than_a_statement_takes_values(store: Store, clips: list[Segment]) -> None:
    query, other = (Query((clips[0], clips[k])) for k in (1, 2))
    store.add_preferences([Preference(one, np.array([1.0, 0.0]), oracle="human") for one in (query, other)], run="r")
    ids = [query.id, *(f"{number:032x}" for number in range(70_000))]
    assert [answer.query.id for answer in store.preferences(queries=ids)] == [query.id]
