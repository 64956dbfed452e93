from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import (
    Assignment,
    AssignmentPlan,
    Assignments,
    Event,
    Store,
    Undo,
    find_annotator,
    issue_token,
    revoke_tokens,
)
from prefenvs.store.assignments import Kind


def make_queries(count: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    return make_pairs(SegmentBatch(rng.random((2 * count, 4, 3)), rng.random((2 * count, 4, 2)), task="Hopper-v5"))


@pytest.fixture
def store(location: str) -> Iterator[Store]:
    with Store(location) as opened:
        yield opened


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def answer(item: Assignment, left: bool = True) -> Event:
    """What the server makes of a choice of one side."""
    extra = {"assignment": item.id}
    about = {"query": item.query, "run": item.run, "annotator": item.annotator, "oracle": "human", "shown": item.shown}
    best = item.shown[0 if left else 1]
    kind = "comparison" if item.repeats is None else "repeat"
    return Event(kind=kind, probabilities=(1.0 - best, float(best)), extra=extra, **about)  # type: ignore[arg-type]


def test_nobody_gets_what_another_has_or_has_answered(store: Store) -> None:
    store.add_queries(make_queries(6))
    desk = Assignments(store, AssignmentPlan(repeats=0))
    ann, bob = desk.lease("ann", 2), desk.lease("bob", 2)
    assert desk.record("ann", [answer(item) for item in ann]) == {}
    more = desk.lease("ann", 9, [])
    given = [item.query for item in [*ann, *bob, *more]]
    assert len(given) == len(set(given)) == 6
    assert desk.lease("carl", 5) == []
    assert desk.count_leased("carl") == 4
    assert desk.count_open() == 4


def test_threads_and_second_server_never_share_a_question(store: Store, location: str) -> None:
    store.add_queries(make_queries(60))
    given: list[str | None] = []

    def take(desk: Assignments, name: str) -> None:
        for _ in range(3):
            items = desk.lease(name, 2)
            assert desk.record(name, [answer(item) for item in items]) == {}
            given.extend(item.query for item in items)

    with Store(location) as second:
        desks = [Assignments(store, AssignmentPlan(repeats=0)), Assignments(second, AssignmentPlan(repeats=0))]
        threads = [threading.Thread(target=take, args=(desks[i % 2], f"person {i}")) for i in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(given) == len(set(given)) == 60
    assert store.stats().labels == 60


def test_expired_lease_goes_to_another_and_the_late_answer_still_counts(store: Store) -> None:
    store.add_queries(make_queries(1))
    now = Clock()
    desk = Assignments(store, AssignmentPlan(lease=60, repeats=0), now=now)
    [late] = desk.lease("ann", 1)
    now.now += 50
    assert desk.lease("ann", 1, [late.id]) == []
    now.now += 50
    assert desk.lease("bob", 1) == []  # renewed by `holding`
    now.now += 50
    [item] = desk.lease("bob", 1)
    assert item.query == late.query
    desk.record("bob", [answer(item)])
    desk.record("ann", [answer(late)])
    assert [p.annotator for p in store.preferences()] == ["bob", "ann"]


def test_overlap_gives_a_share_of_questions_to_two_people(store: Store) -> None:
    store.add_queries(make_queries(40))
    desk = Assignments(store, AssignmentPlan(overlap=0.5, repeats=0))
    lists = {}
    for name in ("ann", "bob", "carl"):
        lists[name] = [item.query for item in desk.lease(name, 100)]
        desk.record(name, [answer(item) for item in desk.lease(name, 100)])
    assert len(lists["ann"]) == 40
    assert 8 <= len(lists["bob"]) <= 32
    assert set(lists["bob"]) < set(lists["ann"])
    assert lists["carl"] == []


def test_undone_question_comes_back_first_with_the_same_sides(store: Store) -> None:
    store.add_queries(make_queries(4))
    desk = Assignments(store, AssignmentPlan(repeats=0))
    first, second = desk.lease("ann", 2)
    event = answer(first)
    desk.record("ann", [event, answer(second)])
    undo = Undo(str(uuid.uuid4()), event.id)
    assert desk.record("ann", [undo]) == desk.record("ann", [undo]) == {}
    again, _ = desk.lease("ann", 2)
    assert (again.id, again.shown) == (first.id, first.shown)
    assert len(store.preferences()) == 1
    desk.record("ann", [answer(again, left=False)])
    assert store.preferences()[-1].best == again.shown[1]
    assert store.stats().undone == 1


def test_same_answer_twice_is_one_and_foreign_ids_are_refused(store: Store) -> None:
    store.add_queries(make_queries(2))
    desk = Assignments(store, AssignmentPlan(repeats=0))
    [item] = desk.lease("ann", 1)
    [other] = desk.lease("bob", 1)
    event = answer(item)
    assert desk.record("ann", [event]) == desk.record("ann", [event, event]) == {}
    stolen = Event(**{**vars(answer(other)), "id": event.id})
    assert list(desk.record("bob", [stolen])) == [event.id]
    assert list(desk.record("bob", [Undo(str(uuid.uuid4()), event.id)]))
    assert store.stats().events == 1


def test_forgotten_questions_come_back_after_a_reload(store: Store) -> None:
    store.add_queries(make_queries(5))
    desk = Assignments(store, AssignmentPlan(repeats=0))
    held = desk.lease("ann", 3)
    assert {item.id for item in desk.lease("ann", 3)} == {item.id for item in held}
    assert {item.id for item in desk.lease("ann", 1, [held[0].id, held[1].id])} == {held[2].id}


def test_repeats_swap_sides_and_are_no_labels(store: Store) -> None:
    store.add_queries(make_queries(60))
    desk = Assignments(store, AssignmentPlan(repeats=0.3), seed=1)
    seen: dict[str, Assignment] = {}
    repeated = []
    while items := desk.lease("ann", 3):
        for item in items:
            if item.repeats is not None:
                repeated.append((item, seen[str(item.query)]))
            else:
                seen[str(item.query)] = item
        desk.record("ann", [answer(item) for item in items])
    assert 8 <= len(repeated) <= 40
    for again, first in repeated:
        assert again.shown == first.shown[::-1]
    assert len({item.repeats for item, _ in repeated}) == len(repeated)
    assert store.stats().labels == 60


def test_sides_are_random(store: Store) -> None:
    store.add_queries(make_queries(60))
    swapped = sum(item.shown == (1, 0) for item in Assignments(store, seed=0).lease("ann", 60))
    assert 15 < swapped < 45


def test_ratings_ask_every_segment_once(store: Store) -> None:
    queries = make_queries(3)
    store.add_queries(queries)
    desk = Assignments(store, AssignmentPlan(kind="rating", repeats=0))
    items = desk.lease("ann", 10)
    assert {item.segment for item in items} == {segment.hash for query in queries for segment in query.segments}
    events = [
        Event(kind="rating", segment=item.segment, annotator="ann", extra={"assignment": item.id, "rating": 3})
        for item in items
    ]
    assert desk.record("ann", events) == {}
    assert desk.lease("bob", 10) == []


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_what_comes_next_can_be_looked_up_without_taking_it(store: Store, kind: Kind) -> None:
    queries = make_queries(5)
    store.add_queries(queries, priority=[0, 1, 2, 3, 4])
    desk = Assignments(store, AssignmentPlan(kind=kind, repeats=0))
    first = queries[-1].segments
    assert set(desk.upcoming(1 if kind == "comparison" else 2)) == {segment.hash for segment in first}
    assert desk.count_open() == (5 if kind == "comparison" else 10)
    taken = desk.lease("ann", 3)
    asked = {hash for item in taken for hash in ([item.segment] if item.segment else hashes(queries, item.query))}
    assert not asked & set(desk.upcoming(99))
    assert len(asked) + len(desk.upcoming(99)) == 10


def hashes(queries: list[Query], key: str | None) -> list[str]:
    return [segment.hash for query in queries if query.id == key for segment in query.segments]


def test_highest_priority_first_and_large_queries_never(store: Store) -> None:
    queries = make_queries(3)
    store.add_queries(queries, priority=[0.0, 2.0, 1.0])
    store.add_queries([Query(tuple(s for query in make_queries(5) for s in query.segments))], priority=9.0)
    given = [item.query for item in Assignments(store, AssignmentPlan(repeats=0)).lease("ann", 9)]
    assert given == [queries[1].id, queries[2].id, queries[0].id]


def test_runs_are_kept_apart(store: Store) -> None:
    first, second = make_queries(2)
    store.add_queries([first], run="a")
    store.add_queries([first, second], run="b")
    given = Assignments(store, AssignmentPlan(run="b", repeats=0)).lease("ann", 9)
    assert {(item.run, item.query) for item in given} == {("b", first.id), ("b", second.id)}


SENSELESS: list[dict[str, object]] = [
    *({"overlap": 1.1}, {"repeats": 0.6}, {"votes": 1}, {"lease": 0}, {"kind": "x"}),
    *({"overlap": "0.5"}, {"votes": 2.5}, {"lease": float("inf")}, {"tutorial": -3}, {"tutorial": 2.5}, {"run": 5}),
    *({"gold": 0.1, "kind": "rating"}, {"tutorial": 1, "kind": "rating"}),
]


@pytest.mark.parametrize("options", SENSELESS)
def test_senseless_plans_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(options))):
        AssignmentPlan(**options)  # type: ignore[arg-type]


def test_tokens_let_in_whom_they_were_issued_to(store: Store) -> None:
    first, second, other = issue_token(store, "ann"), issue_token(store, "ann"), issue_token(store, "bob")
    assert [find_annotator(store, token) for token in (first, second, other, "x")] == ["ann", "ann", "bob", None]
    assert revoke_tokens(store, "ann") == 2
    assert [find_annotator(store, token) for token in (first, other)] == [None, "bob"]
    for name in ("", " ann", "a\nb", "x" * 61):
        with pytest.raises(PrefenvsError, match="annotator"):
            issue_token(store, name)


def test_the_learner_leaves_a_note(store: Store) -> None:
    assert store.learner_status() is None
    store.report_learner("a", {"steps": 1, "held_out_accuracy": float("nan")})
    store.report_learner("a", {"steps": 2, "held_out_accuracy": 0.5})
    store.report_learner("b_", {"steps": 3})
    note = store.learner_status("a")
    assert note is not None
    assert (note["steps"], note["held_out_accuracy"]) == (2, 0.5)
    newest = store.learner_status()
    assert newest is not None
    assert newest["run"] == "b_"
