"""HERON's rater against its rule said plainly, and what it refuses."""

import numpy as np
import pytest

from prefenvs import PrefenvsError, Query, Segment
from prefenvs.oracles import HeronOracle, make_rater


def segment(observations: np.ndarray, actions: np.ndarray) -> Segment:
    return Segment(observations.astype(np.float32), actions.astype(np.float32), task="Reacher-v5")


def pairs(count: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    made = [segment(rng.normal(size=(5, 4)), rng.normal(size=(5, 2))) for _ in range(2 * count)]
    return [Query((made[2 * i], made[2 * i + 1])) for i in range(count)]


def test_the_first_factor_beyond_its_margin_decides() -> None:
    asked = pairs(200)
    oracle = HeronOracle(("-norm(1:3)", "-effort"), (0.5, 0.1))
    oracle.ask(asked)
    found = oracle.collect()

    def distance(one: Segment) -> float:
        return float(np.mean([np.hypot(row[1], row[2]) for row in one.observations.astype(float)]))

    def effort(one: Segment) -> float:
        return float(np.mean([row @ row for row in one.actions.astype(float)]))

    segments = [one for query in asked for one in query.segments]
    margins = 0.5 * np.std([distance(one) for one in segments]), 0.1 * np.std([effort(one) for one in segments])
    outcomes = set()
    for query, answer in zip(asked, found, strict=True):
        expected = None
        for factor, margin in zip((distance, effort), margins, strict=True):
            gap = -factor(query.segments[0]) + factor(query.segments[1])
            if abs(gap) > margin:
                expected = [1.0, 0.0] if gap > 0 else [0.0, 1.0]
                break
        outcomes.add(str(expected))
        assert (None if answer.probabilities is None else answer.probabilities.tolist()) == expected
    assert len(outcomes) == 3


def test_more_than_two_fall_out_one_factor_after_the_other() -> None:
    rows = [np.full((3, 1), value) for value in (1.0, 0.9, 0.0)]
    made = [segment(row, np.full((3, 1), act)) for row, act in zip(rows, (1.0, 0.0, 0.0), strict=True)]
    oracle = HeronOracle(("obs(0)", "-effort"), (0.5, 0.0))
    oracle.ask([Query(tuple(made))])
    assert oracle.collect()[0].probabilities.tolist() == [0.0, 1.0, 0.0]
    tie = HeronOracle(("obs(0)",), (0.5,), "tie")
    tie.ask([Query(tuple(made))])
    assert tie.collect()[0].probabilities.tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("heron", "heron needs its factors"),
        ("heron:factor=-efort", "unknown factor 'efort'.*effort"),
        ("heron:factor=effort,factor=jerk,margin=1,margin=2,margin=3", "2 factors and 3 margins"),
        ("heron:factor=effort,margin=-1", "margin must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line: str, reason: str) -> None:
    with pytest.raises(PrefenvsError, match=reason):
        make_rater(line)


def test_settings_of_another_kind_are_refused_from_python() -> None:
    for given, reason in (
        ({"factors": "effort"}, "give a list"),
        ({"factors": ["effort"], "undecided": "maybe"}, "choose skip, tie"),
        ({"factors": ["effort"], "margins": [float("nan")]}, "margin must be a number"),
    ):
        with pytest.raises(PrefenvsError, match=reason):
            HeronOracle(**given)  # type: ignore[arg-type]


def test_an_entry_that_is_not_there_is_named_when_asked() -> None:
    oracle = make_rater("heron:factor=obs(4:9)")
    with pytest.raises(PrefenvsError, match=r"obs\(4:9\) reads entries 4 to 8, but observations have 4"):
        oracle.ask(pairs(1))
    assert oracle.collect() == []
