from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefenvs import PrefenvsError, Preference, Query, Segment, SegmentBatch
from prefenvs.preferences import make_pairs


def segment(value: float, task: str = "t") -> Segment:
    return Segment(np.full((3, 2), value), np.zeros((3, 1)), task=task)


PAIR = Query((segment(0.0), segment(1.0)))


def test_a_query_has_the_same_id_wherever_it_is_asked() -> None:
    assert Query((segment(0.0), segment(1.0))).id == PAIR.id
    assert Query((segment(1.0), segment(0.0))).id != PAIR.id
    assert Query((segment(0.0), segment(1.0), segment(2.0))).id != PAIR.id


def test_a_query_compares_two_or_more_segments_of_one_task() -> None:
    with pytest.raises(PrefenvsError, match="at least 2"):
        Query((segment(0.0),))
    with pytest.raises(PrefenvsError, match="one task"):
        Query((segment(0.0), segment(1.0, task="u")))


@given(arrays(np.float64, st.integers(2, 5), elements=st.floats(0.01, 1.0)))
def test_any_distribution_over_the_segments_is_an_answer(weights: np.ndarray) -> None:
    query = Query(tuple(segment(float(i)) for i in range(len(weights))))
    preference = Preference(query, weights / weights.sum())
    assert not preference.skipped
    top = np.flatnonzero(weights == weights.max())
    if len(top) > 1:
        assert preference.best is None
    elif np.sort(weights)[-1] - np.sort(weights)[-2] > 1e-6:
        assert preference.best == top[0]


@pytest.mark.parametrize("probabilities", [[1.0], [0.5, 0.4], [1.5, -0.5], [np.nan, 1.0], [0.2, 0.3, 0.5]])
def test_what_is_no_distribution_is_refused(probabilities: list[float]) -> None:
    with pytest.raises(PrefenvsError, match="sum to 1"):
        Preference(PAIR, np.array(probabilities))


@pytest.mark.parametrize("given", [["a", "b"], [0.5, [0.5, 0.0]], [None, {}]])
def test_what_is_no_number_is_refused(given: list[object]) -> None:
    with pytest.raises(PrefenvsError, match="are not all numbers"):
        Preference(PAIR, given)  # type: ignore[arg-type]


def test_ties_and_skips_have_no_best() -> None:
    assert Preference(PAIR, np.array([0.5, 0.5])).best is None
    skip = Preference(PAIR, None)
    assert skip.skipped
    assert skip.best is None
    three = Query((segment(0.0), segment(1.0), segment(2.0)))
    assert Preference(three, np.array([0.4, 0.4, 0.2])).best is None


def test_the_order_shown_must_name_each_segment_once() -> None:
    assert Preference(PAIR, None, shown=(1, 0)).shown == (1, 0)
    for wrong in ((1, 1), (0,), (0, 1, 1), (1, 2)):
        with pytest.raises(PrefenvsError, match="order"):
            Preference(PAIR, None, shown=wrong)


def test_pairs_join_the_halves_of_a_batch() -> None:
    observations = np.arange(4.0)[:, None, None] * np.ones((4, 3, 2))
    queries = make_pairs(SegmentBatch(observations, np.zeros((4, 3, 1))))
    values = [[part.observations[0, 0] for part in query.segments] for query in queries]
    assert values == [[0.0, 2.0], [1.0, 3.0]]
    with pytest.raises(PrefenvsError, match="even"):
        make_pairs(SegmentBatch(observations[:3], np.zeros((3, 3, 1))))
