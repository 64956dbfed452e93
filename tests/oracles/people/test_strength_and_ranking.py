"""How strongly a clip is better, and ranked lists: what people say arrives as probabilities of pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from prefenvs.cli.train.labels import read_answers
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import HumanOracle, RankingOracle
from prefenvs.oracles.people.ranking import LENGTH, ask_next, list_rankings, rank, rankings_as_preferences
from prefenvs.oracles.people.strength import PROBABILITIES, WEIGHT, calibrate, soften
from prefenvs.preferences import Preference, Query
from prefenvs.store import AssignmentPlan, Assignments, Event, Store

from .conftest import make_queries


def answer(
    store: Store,
    query: Query,
    value: Callable[[str], float],
    run: str = "r",
    strength: str | None = None,
    assignment: str = "",
) -> Event:
    """Compare two clips by a value; ties are equal."""
    worth = [value(segment.hash) for segment in query.segments]
    chances = (0.5, 0.5) if worth[0] == worth[1] else soften(int(np.argmax(worth)), 2, strength)  # type: ignore[arg-type]
    said = {"strength": strength} if strength else {"assignment": assignment}
    event = Event("comparison", query.id, probabilities=chances, annotator="ann", run=run, oracle="human", extra=said)
    if assignment:
        assert Assignments(store).record("ann", [event]) == {}
    else:
        store.add_events([event])
    return event


def winners(answers: Iterable[Preference]) -> dict[frozenset[str], str | None]:
    """The better clip of each pair, None for a tie."""
    found = {}
    for item in answers:
        keys = [segment.hash for segment in item.query.segments]
        found[frozenset(keys)] = None if item.best is None else keys[item.best]
    return found


def rank_all(store: Store, value: Callable[[str], float], run: str = "r") -> int:
    """Answer whatever the lists ask until they are complete; returns the number of questions."""
    count = 0
    while ask_next(store, [run]):
        given = Assignments(store, AssignmentPlan(run, "ranking", repeats=0)).lease("ann", 20)
        assert given
        queries = store.find_queries(item.query for item in given if item.query)
        for item in given:
            answer(store, queries[str(item.query)], value, run, assignment=item.id)
            count += 1
    return count


def test_strengths_are_soft_labels_that_repetitions_calibrate(store: Store) -> None:
    assert soften(1, 3, "better") == pytest.approx((0.075, 0.85, 0.075))
    assert soften(0, 2, None) == (1.0, 0.0)
    assert calibrate(store) == PROBABILITIES
    queries = make_queries(40)
    oracle, calibrated = (HumanOracle(store, "r", calibrate=value) for value in (False, True))
    oracle.ask(queries)
    for number, query in enumerate(queries):
        first = answer(store, query, lambda key: float(int(key[:8], 16)), strength="much" if number < 10 else "better")
        flipped = number >= 10 and number % 3 == 0
        chances = first.probabilities[::-1] if flipped else first.probabilities
        again = {"repeats": first.id, "strength": first.extra["strength"]}
        repeat = Event("repeat", query.id, probabilities=chances, annotator="ann", run="r", oracle="human", extra=again)
        store.add_events([repeat])
    same = sum(number % 3 != 0 for number in range(10, 40))
    expected = {"better": (WEIGHT * 0.85 + same) / (WEIGHT + 30), "much": (WEIGHT * 0.97 + 10) / (WEIGHT + 10)}
    assert calibrate(store, "r") == pytest.approx(expected)
    assert {round(float(max(a.probabilities)), 6) for a in oracle.collect()} == {0.85, 0.97}
    found = {round(float(max(a.probabilities)), 6) for a in calibrated.collect()}
    assert found == {round(value, 6) for value in expected.values()}


def test_binary_insertion_sorts_with_two_questions_a_clip(store: Store) -> None:
    oracle = RankingOracle(store, "r")
    oracle.ask(make_queries(LENGTH))  # two lists
    value = lambda key: float(int(key[8:16], 16))  # noqa: E731
    assert oracle.pending == 2
    questions = rank_all(store, value)
    lists = list_rankings(store, "r", store.events_after())
    assert [len(found.groups) for found in lists] == [LENGTH, LENGTH]
    for found in lists:
        ranked = [value(key) for (key,) in found.groups]
        assert ranked == sorted(ranked)
    assert questions <= 2 * sum(math.ceil(math.log2(place + 1)) for place in range(1, LENGTH))
    assert questions / (2 * LENGTH) < 2.2
    answers = oracle.collect()
    assert len(answers) == 2 * math.comb(LENGTH, 2)
    assert all(value(a.query.segments[a.best].hash) == max(value(s.hash) for s in a.query.segments) for a in answers)
    # The better one is on either side.
    assert {a.best for a in answers} == {0, 1}
    assert (oracle.collect(), oracle.pending) == ([], 0)
    # Who learns from the store later learns from every pair of the lists, once.
    learned = [frozenset(segment.hash for segment in a.query.segments) for a in read_answers(store)]
    assert len(set(learned)) == len(learned) == len(answers)


def test_ties_share_a_place_and_what_nobody_can_tell_stays_out() -> None:
    said = {"ab": "b", "cb": "", "db": None, "eb": "b", "ea": "a"}
    verdicts = {frozenset(pair): verdict for pair, verdict in said.items()}
    assert rank("abcde", verdicts).groups == (("e",), ("a",), ("b", "c"))
    assert rank("ab", {}).pair == ("b", "a")
    assert rank("", {}).groups == ()


def test_an_undone_comparison_corrects_what_a_learner_was_told(store: Store) -> None:
    oracle = RankingOracle(store, "r")
    oracle.ask(make_queries(3))
    rank_all(store, lambda key: float(int(key[:8], 16)))
    told: dict[str, Preference] = {}

    def read() -> dict[frozenset[str], str | None]:
        for item in oracle.collect():
            told[item.query.id] = item
        return winners(item for item in told.values() if item.probabilities is not None)

    before = read()
    assert len(before) == math.comb(6, 2)
    last = [event for event in store.events_after() if event.kind == "comparison"][-1]
    store.undo(last)
    assert len(read()) == math.comb(5, 2)
    rank_all(store, lambda key: -float(int(key[:8], 16)))
    after = read()
    assert len(after) == math.comb(6, 2)
    assert after == winners(rankings_as_preferences(store, "r").values())
    # A restart goes on from there and repeats nothing.
    again = RankingOracle(store, "r")
    again.load_state_dict(oracle.state_dict())
    assert again.collect() == []


def test_a_pair_that_a_list_needs_may_be_asked_by_the_run_already(store: Store) -> None:
    """It is shown on the page for ranking all the same, so that no list waits for ever."""
    one, two, three = [segment for query in make_queries(2) for segment in query.segments][:3]
    oracle = RankingOracle(store, "r")
    oracle.ask([Query((one, two)), Query((three, one))])
    order = {one.hash: 0.0, two.hash: 1.0, three.hash: -1.0}
    assert rank_all(store, order.__getitem__) == 3
    assert oracle.pending == 3
    assert len(oracle.collect()) == 3


def test_lists_of_one_clip_are_refused(store: Store) -> None:
    with pytest.raises(PrefenvsError, match="ranks nothing"):
        list_rankings(store, "r", [], 1)


def test_every_pair_of_a_list_is_told_once(store: Store) -> None:
    oracle = RankingOracle(store, "r")
    queries = make_queries(4)
    oracle.ask(queries)
    oracle.ask(queries)  # asked again, nothing is new
    rank_all(store, lambda key: float(int(key[:1], 16) // 8))  # many ties
    answers = oracle.collect()
    pairs = {frozenset(segment.hash for segment in item.query.segments) for item in answers}
    clips = {segment.hash for query in queries for segment in query.segments}
    assert pairs == {frozenset(pair) for pair in itertools.combinations(clips, 2)}
    assert len(answers) == len(pairs)
    assert any(item.best is None for item in answers)
