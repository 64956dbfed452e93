"""An oracle behind a store: nothing is lost, whenever the process dies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Oracle, Preference, Query, make_pairs
from prefenvs.raters import FunctionOracle
from prefenvs.segments import Segment, SegmentBatch
from prefenvs.store import Recorded, Store
from prefenvs.trajectories import Trajectories


class ReturnOracle(Oracle):
    """Prefer the higher true return, at most `speed` answers a call; skip where the returns are equal."""

    name = "returns"

    def __init__(self, speed: int = 1000) -> None:
        self.speed = speed
        self.queue: list[Query] = []
        self.seen: Trajectories | None = None

    def ask(self, queries: Sequence[Query]) -> None:
        self.queue += queries

    def collect(self) -> list[Preference]:
        now, self.queue = self.queue[: self.speed], self.queue[self.speed :]
        return [self.judge(query) for query in now]

    def judge(self, query: Query) -> Preference:
        returns = np.array([np.sum(segment.true_rewards) for segment in query.segments])
        return Preference(query, None if np.ptp(returns) == 0 else np.eye(2)[returns.argmax()], oracle=self.name)

    @property
    def pending(self) -> int:
        return len(self.queue)

    def observe(self, trajectories: Trajectories) -> None:
        self.seen = trajectories


def make_queries(count: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    rewards = rng.integers(0, 2, (2 * count, 1)) * np.ones((1, 4))
    return make_pairs(SegmentBatch(rng.random((2 * count, 4, 3)), rng.random((2 * count, 4, 1)), rewards, task="t"))


def test_the_oracle_behaves_as_before_and_the_store_has_all(tmp_path: Path) -> None:
    queries = make_queries(20)
    plain = ReturnOracle(7)
    with Store(tmp_path / "labels.sqlite") as store:
        recorded: Oracle = Recorded(ReturnOracle(7), store, run="r", policy="step 0")
        for oracle in (plain, recorded):
            oracle.ask(queries)
        assert (recorded.name, recorded.pending, store.count_pending("r")) == ("returns", 20, 20)
        handed_out: list[Preference] = []
        while recorded.pending:
            expected, found = plain.collect(), recorded.collect()
            assert [(p.query, p.best) for p in found] == [(p.query, p.best) for p in expected]
            handed_out += found
            assert recorded.pending == plain.pending == store.count_pending("r")
        assert recorded.collect() == []
        stored = store.preferences(run="r")
        assert [(p.query.id, p.best, p.time) for p in stored] == [(p.query.id, p.best, p.time) for p in handed_out]
        trajectories = Trajectories(np.zeros((1, 1)), np.zeros((1, 1)), np.ones(1, np.int64))
        recorded.observe(trajectories)
        assert isinstance(recorded, Recorded)
        assert isinstance(recorded.oracle, ReturnOracle)
        assert recorded.oracle.seen is trajectories


def test_a_checkpoint_asks_again_what_was_open_then_and_no_more(tmp_path: Path) -> None:
    queries = make_queries(20)
    with Store(tmp_path / "labels.sqlite") as store:
        first = Recorded(ReturnOracle(8), store, run="r")
        first.ask(queries)
        first.collect()
        state = json.loads(json.dumps(first.state_dict()))
        # What comes after the checkpoint happens again in the resumed run.
        first.ask(make_queries(5, seed=3))
    with Store(tmp_path / "labels.sqlite") as store:
        second = Recorded(ReturnOracle(), store, run="r")
        second.load_state_dict(state)
        assert {answer.query.id for answer in second.collect()} == {query.id for query in queries[8:]}
        assert second.pending == 0


def test_a_store_without_what_a_checkpoint_waits_for_is_told(tmp_path: Path) -> None:
    with Store(tmp_path / "labels.sqlite") as store:
        first = Recorded(ReturnOracle(0), store, run="r")
        first.ask(make_queries(5))
        state = first.state_dict()
    with Store(tmp_path / "other.sqlite") as store:
        store.add_queries(make_queries(5)[:2])
        second = Recorded(ReturnOracle(), store, run="r")
        with pytest.raises(PrefenvsError, match=r"other.sqlite lacks 3 of 5 questions"):
            second.load_state_dict(state)
        assert second.pending == 0


def test_answers_that_could_not_be_stored_are_neither_handed_out_nor_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "labels.sqlite") as store:
        recorded = Recorded(ReturnOracle(), store, run="r")
        recorded.ask(make_queries(5))
        with monkeypatch.context() as patch:
            patch.setattr(store, "add_preferences", _fail)
            with pytest.raises(PrefenvsError, match="disk"):
                recorded.collect()
        assert recorded.pending == 5
        assert len(recorded.collect()) == len(store.preferences(run="r")) == 5
        with monkeypatch.context() as patch:
            patch.setattr(store, "add_queries", _fail)
            with pytest.raises(PrefenvsError, match="disk"):
                recorded.ask(make_queries(5, seed=2))
        assert recorded.pending == 0


def _fail(*_: object, **__: object) -> None:
    raise PrefenvsError("the disk is full")


def test_answers_of_a_slow_function_are_stored_as_they_come(tmp_path: Path) -> None:
    seen = []

    def slow(first: Segment, second: Segment) -> int:
        seen.append(len(store.preferences(run="r")))
        if len(seen) in (4, 5):
            raise ValueError("no power")
        return 0

    with Store(tmp_path / "labels.sqlite") as store:
        recorded = Recorded(oracle := FunctionOracle(slow), store, run="r")
        oracle.patience = 0.0
        recorded.ask(queries := make_queries(6))
        assert [answer.query.id for answer in recorded.collect()] == [query.id for query in queries[:3]]
        with pytest.raises(PrefenvsError, match="no power"):
            recorded.collect()
        assert (len(recorded.collect()), recorded.pending) == (3, 0)
        assert seen == [0, 1, 2, 3, 3, 3, 4, 5]


@pytest.mark.parametrize("wrong", [{"time": "now"}, {"time": float("inf")}, {"seconds": "3"}, {"annotator": None}])
def test_what_no_store_keeps_is_named(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (query,) = make_queries(1)
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_queries([query], run="r")
        with pytest.raises(PrefenvsError, match=f"event {next(iter(wrong))} must be"):
            store.add_preferences([Preference(query, np.array([1.0, 0.0]), **wrong)], run="r")
