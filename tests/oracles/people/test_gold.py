"""Gold questions: made from true returns or by the lab, hidden or taught, and what they say of a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.oracles import HumanOracle
from prefenvs.oracles.people.gold import list_gold, make_gold, score_gold, take_gold
from prefenvs.oracles.people.moment import add_moment
from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import GOLD, TUTORIAL, Assignment, AssignmentPlan, Assignments, Event, Store


def make_queries(count: int, rewarded: bool = True) -> list[Query]:
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(2 * count, 4)) if rewarded else None
    batch = SegmentBatch(rng.random((2 * count, 4, 3)), rng.random((2 * count, 4, 2)), rewards, task="Hopper-v5")
    return make_pairs(batch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


def answer(assignments: Assignments, item: Assignment, best: int) -> None:
    chances = (1.0, 0.0) if best == 0 else (0.0, 1.0)
    event = Event(
        "comparison", item.query, probabilities=chances, annotator=item.annotator, run=item.run, oracle="human",
        extra={"assignment": item.id},
    )  # fmt: skip
    assert assignments.record(item.annotator, [event]) == {}


def test_gold_is_right_by_true_returns_and_not_hard(store: Store) -> None:
    queries = {query.id: query for query in make_queries(40)}
    store.add_queries(queries.values(), run="r")
    assert make_gold(store, 6) == 6
    assert make_gold(store, 4) == 6
    assert make_gold(store, 8) == 8
    gold = list_gold(store)
    gap = lambda key: float(np.diff([s.true_rewards.sum() for s in queries[key].segments])[0])  # noqa: E731
    assert all((chances[1] == 1.0) == (gap(key) > 0) for key, chances in gold.items())
    easiest = sorted(queries, key=lambda key: -abs(gap(key)))
    assert set(gold) <= set(easiest[:16])


def test_the_lab_may_say_what_is_right(store: Store) -> None:
    queries = make_queries(3, rewarded=False)
    store.add_queries(queries, run="r")
    with pytest.raises(PrefenvsError, match="true rewards"):
        make_gold(store, 2)
    with pytest.raises(PrefenvsError, match="--gold-by ana"):
        take_gold(store, "ana")
    store.add_preferences([Preference(query, np.array([0.0, 1.0]), "ana", "human") for query in queries[:2]], run="r")
    assert take_gold(store, "ana") == take_gold(store, "ana") == 2
    assert list_gold(store) == {query.id: (0.0, 1.0) for query in queries[:2]}


@pytest.mark.parametrize("reward", [0.0, np.nan])
def test_a_pair_of_equal_returns_is_no_gold(store: Store, reward: float) -> None:
    queries = make_queries(9)
    alike = [Query(tuple(replace(s, true_rewards=np.full(4, reward)) for s in q.segments)) for q in queries[1:]]
    store.add_queries(alike, run="r")
    with pytest.raises(PrefenvsError, match="differ"):
        make_gold(store, 3)
    store.add_queries(queries[:1], run="r")
    assert make_gold(store, 3) == 1
    assert list(list_gold(store)) == [queries[0].id]


def test_a_moment_of_the_lab_is_no_gold_question(store: Store) -> None:
    store.add_queries(make_queries(1), run="r")
    [item] = Assignments(store, AssignmentPlan("r")).lease("ana", 1)
    event = Event(
        "comparison", item.query, probabilities=(0.0, 1.0), annotator="ana", run="r", oracle="human",
        extra={"assignment": item.id, "moment": [0.0, 0.01]},
    )  # fmt: skip
    store.add_events([event])
    add_moment(store, event)
    assert len(store.preferences()) == 2
    assert take_gold(store, "ana") == 1
    assert list(list_gold(store)) == [item.query]


def test_what_nobody_answered_in_time_is_asked_again(store: Store) -> None:
    """Somebody opens the link, is called away, and comes back the next day: to the tutorial, and to all of the gold."""
    store.add_queries(make_queries(40), run="r")
    make_gold(store, 5)
    now = [1_000_000.0]
    plan = AssignmentPlan("r", repeats=0, gold=0.5, tutorial=3, lease=60)
    desk = Assignments(store, plan, seed=0, now=lambda: now[0])
    for _ in range(2):
        first = desk.lease("ann", 9)
        assert [item.run for item in first] == [TUTORIAL] * 3
        now[0] += 86_400
    for item in first:
        answer(desk, item, 0)
    # That another has answered it meanwhile closes no gold question.
    for item in desk.lease("bob", 3):
        answer(desk, item, 0)
    held = [item for item in desk.lease("ann", 20) if item.run == GOLD]
    assert len(held) == 2
    now[0] += 86_400
    for item in desk.lease("bob", 20):
        answer(desk, item, 0)
    assert not set(desk.closed("ann", [item.id for item in held])) & {item.id for item in held}
    again = [item for item in desk.lease("ann", 20) if item.run == GOLD]
    assert {item.query for item in again} == {item.query for item in held}
    answer(desk, held[0], 0)
    assert desk.closed("ann", [item.id for item in again]) == [i.id for i in again if i.query == held[0].query]


def test_a_tutorial_comes_first_and_hidden_gold_measures_people(store: Store) -> None:
    store.add_queries(make_queries(120), run="r")
    make_gold(store, 30)
    gold = list_gold(store)
    assignments = Assignments(store, AssignmentPlan("r", repeats=0, gold=0.3, tutorial=3), seed=0)
    for name, wrong in (("ann", 0), ("bob", 2)):
        first = assignments.lease(name, 5)
        assert [item.run for item in first] == [TUTORIAL] * 3
        for item in first:
            answer(assignments, item, 1)
        asked = []
        while len(asked) < 40:
            items = assignments.lease(name, 5)
            asked += items
            for item in items:
                right = int(np.argmax(gold[item.query])) if item.run == GOLD else 0
                answer(assignments, item, 1 - right if wrong and len(asked) % 2 else right)
        assert {item.run for item in asked} == {"r", GOLD}
        hidden = [item.query for item in asked if item.run == GOLD]
        assert len(hidden) == len(set(hidden)) >= 3
        assert not {item.query for item in first} & set(hidden)
    scores = score_gold(store)
    assert (scores["ann"].all.value, scores["ann"].weight > 0.8) == (1.0, True)
    assert scores["bob"].all.value < 1.0
    assert scores["bob"].weight < scores["ann"].weight
    # A learner hears of the run's own questions alone, each person by how far they may be trusted.
    heard = HumanOracle(store, "r", weights="gold").collect()
    assert len(heard) == 80 - sum(s.all.count for s in scores.values())
    for name in ("ann", "bob"):
        found = {round(float(max(a.probabilities)), 9) for a in heard if a.annotator == name}
        assert found == {round(0.5 + scores[name].weight / 2, 9)}


def test_what_weights_may_be(store: Store) -> None:
    with pytest.raises(PrefenvsError, match="weights='silver'"):
        HumanOracle(store, weights="silver")  # type: ignore[arg-type]
    assert HumanOracle(store, weights="gold").collect() == []
