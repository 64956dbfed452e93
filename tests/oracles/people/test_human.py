from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.oracles import HumanOracle
from prefenvs.oracles.contract import check_oracle
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.store import Store

from .conftest import make_queries


def say(store: Store, query: Query, best: int | None, annotator: str = "ann", run: str = "") -> None:
    """A person answers: another process would do the same."""
    chances = None if best is None else np.eye(len(query.segments))[best]
    store.add_preferences([Preference(query, chances, annotator, "human", seconds=1.0)], run=run)


def undo_last(store: Store) -> None:
    store.undo([event for event in store.events_after() if event.kind != "undo"][-1])


def figures(answers: list[Preference]) -> list[tuple[str, str, list[float] | None]]:
    found = []
    for answer in answers:
        chances = None if answer.probabilities is None else answer.probabilities.tolist()
        found.append((answer.query.id, answer.annotator, chances))
    return found


def test_keeps_the_contract(store: Store) -> None:
    def settle(oracle: Oracle) -> None:
        assert isinstance(oracle, HumanOracle)
        for query in store.pending_queries(run=oracle.run):
            say(store, query, None if query.id[0] == "0" else 1, run=oracle.run)

    runs = iter(range(99))
    check_oracle(lambda: HumanOracle(store, f"run {next(runs)}"), make_queries(6), settle)


def test_a_second_reader_gets_all_and_a_checkpoint_goes_on(store: Store, tmp_path: Path) -> None:
    queries = make_queries(4)
    oracle = HumanOracle(store, "a")
    oracle.ask(queries)
    say(store, queries[0], 0, run="a")
    first = figures(oracle.collect())
    state = oracle.state_dict()
    say(store, queries[1], 1, run="a")
    with Store(tmp_path / "labels.sqlite") as reopened:
        new, resumed = HumanOracle(reopened, "a"), HumanOracle(reopened, "a")
        resumed.load_state_dict(state)
        assert resumed.pending == 3
        after = figures(resumed.collect())
        assert figures(new.collect()) == first + after
        assert after == [(queries[1].id, "ann", [0.0, 1.0])]
        assert (resumed.pending, resumed.collect()) == (2, [])


def test_answers_of_other_runs_and_oracles_stay_out(store: Store) -> None:
    query, other = make_queries(2)
    oracle = HumanOracle(store, "a")
    oracle.ask([query, other])
    say(store, query, 0, run="b")
    store.add_preferences([Preference(other, np.array([1.0, 0.0]), "bot", "synthetic")], run="a")
    assert oracle.collect() == []


def test_what_is_undone_before_collecting_is_never_heard_of(store: Store) -> None:
    [query] = make_queries(1)
    oracle = HumanOracle(store)
    oracle.ask([query])
    say(store, query, 0)
    undo_last(store)
    assert (oracle.pending, oracle.collect(), oracle.pending) == (1, [], 1)
    say(store, query, 1)
    assert figures(oracle.collect()) == [(query.id, "ann", [0.0, 1.0])]


def test_what_is_undone_after_collecting_is_withdrawn_by_a_skip(store: Store) -> None:
    [query] = make_queries(1)
    oracle = HumanOracle(store)
    oracle.ask([query])
    say(store, query, 0)
    oracle.collect()
    undo_last(store)
    [withdrawn] = oracle.collect()
    assert (withdrawn.skipped, withdrawn.annotator, oracle.pending) == (True, "ann", 1)
    say(store, query, 1)
    assert figures(oracle.collect()) == [(query.id, "ann", [0.0, 1.0])]
    assert oracle.collect() == []


def test_what_is_taken_back_beside_another_s_answer_is_pending(store: Store) -> None:
    """Else a learner that has asked all of its budget would not look again, and learn from it for ever."""
    [query] = make_queries(1)
    oracle = HumanOracle(store)
    oracle.ask([query])
    for name in ("ann", "bob"):
        say(store, query, 0, name)
    assert len(oracle.collect()) == 2
    assert oracle.pending == 0
    undo_last(store)
    assert oracle.pending == 1
    assert figures(oracle.collect()) == [(query.id, "bob", None)]
    assert (oracle.pending, oracle.collect()) == (0, [])


def test_undone_and_answered_anew_between_two_looks_is_one_correction(store: Store) -> None:
    [query] = make_queries(1)
    oracle = HumanOracle(store)
    oracle.ask([query])
    say(store, query, 0)
    oracle.collect()
    undo_last(store)
    say(store, query, 1)
    assert figures(oracle.collect()) == [(query.id, "ann", [0.0, 1.0])]


def test_annotators_can_be_chosen_weighed_and_dropped(store: Store) -> None:
    [query] = make_queries(1)
    chosen = HumanOracle(store, annotators=["bob"])
    weighed = HumanOracle(store, weights={"ann": 0.5, "carl": 0})
    chosen.ask([query])
    for name, best in (("ann", 0), ("bob", 1), ("carl", 0)):
        say(store, query, best, name)
    assert figures(chosen.collect()) == [(query.id, "bob", [0.0, 1.0])]
    assert figures(weighed.collect()) == [(query.id, "ann", [0.75, 0.25]), (query.id, "bob", [0.0, 1.0])]
    with pytest.raises(PrefenvsError, match="weight"):
        HumanOracle(store, weights={"ann": 2})


def test_majority_is_one_label_that_further_votes_change(store: Store) -> None:
    [query] = make_queries(1)
    oracle = HumanOracle(store, combine="majority")
    oracle.ask([query])
    seen = []
    for name, best in (("ann", 0), ("bob", 1), ("carl", 1), ("dora", None)):
        say(store, query, best, name)
        seen += figures(oracle.collect())
    assert {annotator for _, annotator, _ in seen} == {"majority"}
    assert [chances for _, _, chances in seen] == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]


def test_waits_for_people_only_when_told_to(store: Store) -> None:
    queries = make_queries(2)
    HumanOracle(store).ask(queries)
    begun = time.monotonic()
    assert HumanOracle(store).collect() == []
    assert time.monotonic() - begun < 0.2
    say(store, queries[0], 0)
    thread = threading.Timer(0.3, say, (store, queries[1], 0))
    thread.start()
    assert len(HumanOracle(store, wait=True).collect()) == 2
    thread.join()


def test_more_clips_than_a_page_shows_are_refused(store: Store) -> None:
    segments = [segment for query in make_queries(5) for segment in query.segments]
    with pytest.raises(PrefenvsError, match="at most 9"):
        HumanOracle(store).ask([Query(tuple(segments))])
    assert store.stats().queries == 0
