from __future__ import annotations

import dataclasses
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.segments import Segment, SegmentBatch
from prefenvs.store import (
    AssignmentPlan,
    Assignments,
    Call,
    Event,
    Store,
    add_calls,
    find_replies,
    issue_token,
)


def make_queries(count: int, seed: int = 0, length: int = 5) -> list[Query]:
    rng = np.random.default_rng(seed)
    batch = SegmentBatch(
        rng.random((2 * count, length, 3), np.float32),
        rng.random((2 * count, length, 2), np.float32),
        true_rewards=rng.random((2 * count, length)),
        states=rng.random((2 * count, length, 4)),
        episodes=np.arange(2 * count),
        starts=np.arange(2 * count) * 7,
        task="Hopper-v5",
        source="run-1",
    )
    return make_pairs(batch)


def answer(query: Query, left: float = 1.0, annotator: str = "", **about: object) -> Preference:
    return Preference(query, np.array([left, 1 - left]), annotator, **about)  # type: ignore[arg-type]


def assert_same(found: Segment, given: Segment, rewards: bool) -> None:
    for name in ("observations", "actions", "states", "scene", "true_rewards"):
        expected = getattr(given, name) if rewards or name != "true_rewards" else None
        value = getattr(found, name)
        if expected is None:
            assert value is None
        else:
            np.testing.assert_array_equal(value, expected, strict=True)
    for name in ("task", "source", "episode", "start", "hash"):
        assert getattr(found, name) == getattr(given, name)
    fresh = Segment(found.observations, found.actions, None, found.states, found.scene, found.task)
    assert fresh.hash == given.hash


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    with Store(location) as opened:
        yield opened


def test_preferences_come_back_as_they_were_given(store: Store, location: str) -> None:
    queries = make_queries(4)
    given = [
        answer(queries[0], 1.0, "ana", oracle="human", time=100.25, seconds=1.5, shown=(1, 0)),
        answer(queries[1], 0.5, "ana"),
        answer(queries[2], 0.1 + 0.2, "bo"),
        Preference(queries[3], None, "bo", "human"),
    ]
    store.add_queries(queries, run="r")
    store.add_preferences(given, run="r")
    store.close()
    with Store(location, create=False) as again:
        found = again.preferences(with_true_rewards=True)
        for one, other in zip(found, given, strict=True):
            for name in ("annotator", "oracle", "time", "seconds", "shown", "skipped"):
                assert getattr(one, name) == getattr(other, name)
            if not other.skipped:
                np.testing.assert_array_equal(one.probabilities, other.probabilities)
            assert one.query.id == other.query.id
            for segment, expected in zip(one.query.segments, other.query.segments, strict=True):
                assert_same(segment, expected, rewards=True)


def test_true_rewards_are_read_on_request_only(store: Store) -> None:
    query = make_queries(1)[0]
    store.add_queries([query], run="r")
    store.add_preferences([answer(query)], run="r")
    hashes = [segment.hash for segment in query.segments]
    for found in (
        store.preferences()[0].query.segments,
        store.pending_queries(annotator="nobody")[0].segments,
        store.find_queries([query.id])[query.id].segments,
        tuple(store.find_segments(hashes)[key] for key in hashes),
    ):
        for segment, expected in zip(found, query.segments, strict=True):
            assert_same(segment, expected, rewards=False)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "u1", "<i8", "?"])
def test_arrays_of_any_number_type_and_shape_survive(store: Store, dtype: str) -> None:
    rng = np.random.default_rng(1)
    images = (rng.random((3, 4, 4, 3)) * 200).astype(dtype)
    first = Segment(images, rng.random((3, 0)), scene=np.arange(7.0)[::2], task="t")
    # Neither C-ordered nor contiguous.
    second = Segment(images.transpose(0, 2, 1, 3)[:, ::-1], np.asfortranarray(rng.random((3, 2))), task="t")
    query = Query((first, second, first))
    store.add_queries([query])
    (found,) = store.pending_queries()
    assert found.id == query.id
    for segment, expected in zip(found.segments, query.segments, strict=True):
        assert_same(segment, expected, rewards=False)
    assert found.segments[0].observations.flags.writeable


def test_objects_are_refused(store: Store) -> None:
    odd = Segment(np.array([[object()]]), np.zeros((1, 1)))
    with pytest.raises(PrefenvsError, match="numbers and booleans only"):
        store.add_queries([Query((odd, odd))])
    assert store.stats().queries == 0


def test_repeating_a_write_changes_nothing(store: Store) -> None:
    queries = make_queries(3)
    answers = [answer(query, annotator="ana") for query in queries]
    for _ in range(2):
        store.add_queries([*queries, *queries], run="r")
        store.add_preferences(answers, run="r")
    stats = store.stats()
    assert (stats.queries, stats.segments, stats.events, stats.labels) == (3, 6, 3, 3)
    # Of answers that are alike in one call each is kept, and somebody's last one to a question counts.
    for _ in range(2):
        store.add_preferences([*answers, *answers], run="r")
    stats = store.stats()
    assert (stats.queries, stats.segments, stats.events, stats.labels) == (3, 6, 6, 3)


def test_one_answer_to_two_runs_counts_for_both(store: Store) -> None:
    query = make_queries(1)[0]
    given = answer(query, annotator="ana")
    for run in ("a", "b"):
        store.add_queries([query], run=run)
        store.add_preferences([given], run=run)
    assert len(store.preferences(run="a")) == len(store.preferences(run="b")) == 1
    assert len(store.preferences()) == 2


def test_an_id_is_never_given_to_another_event(store: Store) -> None:
    query = make_queries(1)[0]
    store.add_queries([query])
    event = Event("comparison", query.id, probabilities=(1, 0), annotator="ana", extra={"replays": [1, 2.5, None, "é"]})
    store.add_events([event, event])
    store.add_events([event])
    assert store.events_after() == [event]
    with pytest.raises(PrefenvsError, match="never overwritten"):
        store.add_events([dataclasses.replace(event, probabilities=(0.0, 1.0))])
    assert store.events_after() == [event]


def test_a_batch_is_stored_whole_or_not_at_all(store: Store) -> None:
    queries = make_queries(2)
    store.add_queries(queries[:1])
    good = Event("skip", queries[0].id)
    for bad, message in (
        (Event("skip", queries[1].id), "does not hold"),
        (Event("comparison", queries[0].id, probabilities=(0.2, 0.3, 0.5)), "3 probabilities for 2 segments"),
        (Event("skip", queries[0].id, shown=(0, 0)), "not an order of 2"),
        (Event("undo", target=Event("skip", "x").id), "does not hold"),
        (Event("rating", segment="0" * 64), "does not hold"),
    ):
        with pytest.raises(PrefenvsError, match=message):
            store.add_events([good, bad])
    assert store.stats().events == 0


def test_the_log_refuses_changes_by_anyone(store: Store) -> None:
    query = make_queries(1)[0]
    store.add_preferences([answer(query)])
    for statement in ("UPDATE events SET annotator = 'eve'", "DELETE FROM events"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.engine.begin() as connection:
            connection.execute(sa.text(statement))
    assert store.preferences()[0].annotator == ""


def test_undo_takes_an_answer_back_and_keeps_it(store: Store) -> None:
    queries = make_queries(2)
    store.add_queries(queries, run="r")
    store.add_preferences([answer(query, annotator="ana") for query in queries], run="r")
    first, second = store.events_after()
    undo = store.undo(first, reason="wrong key")
    assert store.undo(first.id) == undo
    assert [found.query.id for found in store.preferences(run="r")] == [second.query]
    assert [found.id for found in store.pending_queries(run="r")] == [first.query]
    assert store.events_after() == [first, second, undo]
    assert (undo.target, undo.annotator, undo.reason) == (first.id, "ana", "wrong key")
    store.add_preferences([answer(queries[0], 0.0, "ana")], run="r")
    assert [found.best for found in store.preferences(run="r")] == [0, 1]
    assert (store.stats().undone, store.stats().labels, store.stats().events) == (1, 2, 4)
    with pytest.raises(PrefenvsError, match="answer the query again"):
        store.undo(undo)
    with pytest.raises(PrefenvsError, match="no event"):
        store.undo("nothing")


def test_a_named_annotator_has_one_answer_per_query_the_last(store: Store) -> None:
    query, other = make_queries(2)
    store.add_preferences([answer(query, 1.0, "ana"), answer(other, 1.0, "ana"), answer(query, 1.0, "bo")], run="r")
    store.add_preferences([answer(query, 0.0, "ana")], run="r")
    assert [(found.annotator, found.best) for found in store.preferences()] == [("ana", 0), ("bo", 0), ("ana", 1)]
    store.add_preferences([answer(query, 1.0, time=1.0), answer(query, 0.0, time=2.0)], run="r")
    assert len(store.preferences(annotators=[""])) == 2


def test_preferences_are_filtered_by_run_annotator_and_time(store: Store) -> None:
    queries = make_queries(6)
    for index, query in enumerate(queries):
        given = answer(query, annotator="ana" if index % 2 else "bo", time=float(index))
        store.add_preferences([given], run="a" if index < 3 else "b")
    times = [found.time for found in store.preferences(run="b")]
    assert times == [3.0, 4.0, 5.0]
    assert [found.time for found in store.preferences(annotators=["ana"], since=3.0)] == [3.0, 5.0]
    assert store.preferences(annotators=[]) == store.preferences(run="c") == []


def test_pending_queries_by_priority_then_age_and_per_annotator(store: Store) -> None:
    queries = make_queries(4)
    store.add_queries(queries[:2], run="r")
    store.add_queries(queries[2:], run="r", priority=np.array([0.0, 2.0]))
    store.add_queries(queries[:1], run="other", priority=9)

    def waiting(**which: object) -> list[int]:
        found = store.pending_queries(**which)  # type: ignore[arg-type]
        assert store.count_pending(**{k: v for k, v in which.items() if k != "limit"}) == len(found) or "limit" in which  # type: ignore[arg-type]
        return [[query.id for query in queries].index(query.id) for query in found]

    assert waiting(run="r") == [3, 0, 1, 2]
    assert waiting(run="r", limit=2) == [3, 0]
    assert waiting() == [0, 3, 1, 2]
    store.add_preferences([answer(queries[3], annotator="ana"), Preference(queries[1], None, "bo")], run="r")
    assert waiting(run="r") == [0, 2]
    assert waiting(run="r", annotator="ana") == [0, 1, 2]
    assert waiting(run="r", annotator="bo") == [3, 0, 2]
    with pytest.raises(PrefenvsError, match="3 priorities were given for 1 queries"):
        store.add_queries(queries[:1], priority=[1, 2, 3])


def test_readers_have_cursors_of_their_own_and_reading_takes_nothing(store: Store, location: str) -> None:
    queries = make_queries(5)
    store.add_preferences([answer(query) for query in queries], run="r")
    with Store(location) as other:
        first = other.events_after(limit=2)
        assert [event.query for event in first] == [query.id for query in queries[:2]]
        rest = other.events_after(first[-1].seq or 0)
        assert [event.query for event in rest] == [query.id for query in queries[2:]]
        assert other.events_after(rest[-1].seq or 0) == []
    assert len(store.events_after(run="r")) == 5
    assert store.events_after(run="another") == []


def test_kinds_to_come_fit_the_log(store: Store) -> None:
    queries = make_queries(2)
    wide = Query(tuple(segment for query in queries for segment in query.segments))
    store.add_queries([wide])
    ratings = Event("rating", segment=wide.segments[0].hash, annotator="ana", extra={"value": 4, "scale": [1, 5]})
    best = Event("comparison", wide.id, probabilities=(0, 0, 1, 0), shown=(3, 1, 2, 0))
    audit = Event("model_call", wide.id, oracle="vlm", extra={"prompt": "\x00 any text", "tokens": 812})
    store.add_events([ratings, best, audit])
    assert store.events_after() == [ratings, best, audit]
    assert [found.best for found in store.preferences()] == [2]


def test_stats_count_what_is_there(store: Store) -> None:
    queries = make_queries(5)
    store.add_queries(queries, run="r")
    answers = [answer(queries[0], 1, "ana", oracle="human", time=10.0), answer(queries[1], 0.5, "bo", time=30.0)]
    store.add_preferences([*answers, Preference(queries[2], None, "ana", "human", time=20.0)], run="r")
    stats = store.stats()
    assert (stats.queries, stats.pending, stats.labels, stats.comparisons, stats.ties, stats.skips) == (
        5,
        2,
        3,
        2,
        1,
        1,
    )
    assert stats.by_annotator == {"ana": 2, "bo": 1}
    assert stats.by_oracle == {"human": 2, "": 1}
    assert stats.by_run == {"r": 3}
    assert (stats.segments, stats.with_true_rewards) == (10, 10)
    # Five steps of 3 + 2 float32 and 4 float64, and a header.
    assert 10 * 260 < stats.segment_bytes < 10 * 600
    assert stats.file_bytes > stats.segment_bytes
    assert (stats.first_time, stats.last_time) == (10.0, 30.0)


def test_an_empty_store(store: Store) -> None:
    assert store.preferences() == store.pending_queries() == store.events_after() == []
    assert (store.stats().labels, store.stats().first_time) == (0, None)
    store.add_queries([])
    store.add_preferences([])
    store.add_events([])


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"kind": "Comparison"}, "lower-case word"),
        ({"kind": "skip"}, "names no query"),
        ({"kind": "skip", "query": "q", "probabilities": (1, 0)}, "a skip has none"),
        ({"kind": "comparison", "query": "q"}, "a comparison has probabilities"),
        ({"kind": "comparison", "query": "q", "probabilities": (0.5, 0.6)}, "sum to 1"),
        ({"kind": "comparison", "query": "q", "probabilities": (1.5, -0.5)}, "sum to 1"),
        ({"kind": "comparison", "query": "q", "probabilities": (float("nan"), 1.0)}, "finite"),
        ({"kind": "comparison", "query": "q", "probabilities": ("1", 0)}, "finite"),
        ({"kind": "undo"}, "target"),
        ({"kind": "skip", "query": "q", "annotator": 7}, "must be a string"),
        ({"kind": "skip", "query": "q", "annotator": "a\x00"}, "NUL"),
        ({"kind": "skip", "query": "q", "reason": "\ud800"}, "surrogate"),
        ({"kind": "skip", "query": "q", "time": None}, "finite"),
        ({"kind": "skip", "query": "q", "seconds": float("inf")}, "finite"),
        ({"kind": "skip", "query": "q", "shown": (0.5, 1)}, "segment indices"),
        ({"kind": "skip", "query": "q", "id": "7"}, "UUID"),
        ({"kind": "skip", "query": "q", "extra": {"a": float("nan")}}, "JSON object"),
        ({"kind": "skip", "query": "q", "extra": [1]}, "JSON object"),
    ],
)
def test_events_that_make_no_sense_are_refused(event: dict[str, object], message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        Event(**event)  # type: ignore[arg-type]


def test_text_that_no_database_stores_is_refused(store: Store) -> None:
    segment = Segment(np.zeros((1, 1)), np.zeros((1, 1)), source="\x00")
    for write in (
        lambda: store.add_queries([Query((segment, segment))]),
        lambda: store.add_queries(make_queries(1), run="\x00"),
        lambda: store.add_preferences([answer(make_queries(1)[0], annotator="\ud800")]),
        lambda: store.preferences(run="\ud800"),
    ):
        with pytest.raises(PrefenvsError, match="no database stores"):
            write()
    assert store.stats().queries == 0


def test_threads_may_share_a_store(store: Store) -> None:
    queries = make_queries(24)
    failures: list[BaseException] = []

    def write(part: list[Query]) -> None:
        try:
            for query in part:
                store.add_queries([query], run="r")
                store.add_preferences([answer(query)], run="r")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(queries[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {found.query.id for found in store.preferences()} == {query.id for query in queries}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_store_opened_before_a_fork_works_on_both_sides(store: Store) -> None:
    queries = make_queries(2)
    store.add_preferences([answer(queries[0])])

    def write() -> None:
        store.add_preferences([answer(queries[1])])
        os._exit(0 if len(store.preferences()) == 2 else 1)

    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert len(store.preferences()) == 2
    store.add_preferences([answer(queries[0], 0.0)])
    assert len(store.preferences()) == 3


@pytest.mark.parametrize(("version", "message"), [("7", "newer prefenvs: .* version 7.*install"), ("0", "0, .*export")])
def test_another_version_is_refused_by_name(location: str, version: str, message: str) -> None:
    with Store(location) as store, store.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE meta SET value = '{version}' WHERE key = 'schema_version'"))
    with pytest.raises(PrefenvsError, match=message) as caught:
        Store(location)
    assert "reads version 1" in str(caught.value)
    assert "\n" not in str(caught.value)


def contents(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables that have any."""
    with store.engine.connect() as connection:
        names = sa.inspect(connection).get_table_names()
        found = {name: [tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))] for name in names}
    return {name: rows for name, rows in found.items() if rows}


@pytest.mark.parametrize("create", [False, True])
def test_a_store_from_before_there_were_annotators_opens_with_all_it_holds(location: str, create: bool) -> None:
    """Version 1 began without the tables of assignments, tokens and calls of models, and with fewer indexes."""
    query, other = make_queries(2)
    with Store(location) as store:
        store.add_queries([query, other], run="r")
        store.add_preferences([answer(query)], run="r")
        with store.engine.begin() as connection:
            for part in ("assignments", "tokens", "calls"):
                connection.execute(sa.text(f"DROP TABLE {part}"))
            for part in ("ix_requests_order", "ix_events_query_run"):
                connection.execute(sa.text(f"DROP INDEX {part}"))
        held = contents(store)
    with Store(location, create=create) as store:
        assert contents(store) == held
        with warnings.catch_warnings(action="ignore"):  # an index by an expression is not described in full
            found = {index["name"] for index in sa.inspect(store.engine).get_indexes("events")}
        assert "ix_events_query_run" in found
        call = Call("k", "r", query.id, "m", "{}", "FIRST", "stop", 9, 1, 0.0, 0.1, 1.0)
        add_calls(store, [call])
        assert find_replies(store, ["k"]) == {"k": call}
        assert issue_token(store, "ann")
        (leased,) = Assignments(store, AssignmentPlan(repeats=0)).lease("ann", 5)
        assert leased.query == other.id
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM events"))


def test_a_database_of_something_else_is_refused(location: str) -> None:
    with Store(location) as store, store.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM meta"))
    with pytest.raises(PrefenvsError, match="no preference store"):
        Store(location)
