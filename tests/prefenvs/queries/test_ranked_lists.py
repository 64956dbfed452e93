"""Ranked lists: order, ties, budgets and how many questions they take, against sorting."""

import numpy as np
import pytest

from prefenvs import PrefenvsError, Segment
from prefenvs.oracles import PartialReturnOracle, Teacher
from prefenvs.queries.lists import ListBuilder, pairs_of, rank_segments


def segment(value: float) -> Segment:
    return Segment(np.full((1, 1), value, np.float32), np.zeros((1, 1), np.float32), np.array([value]))


def worth(one: Segment) -> float:
    return float(one.true_rewards[0])


def ranked(builder: ListBuilder, values, questions: int, teacher: Teacher | None = None):
    return rank_segments(map(segment, values), PartialReturnOracle(teacher or Teacher()), questions, builder)


def test_binary_insertion_sorts_with_the_questions_that_it_must_take() -> None:
    rng = np.random.default_rng(0)
    builder = ListBuilder("lire", 10_000, rng)
    asked = []
    for value in rng.permutation(64):
        query, count = builder.add(segment(float(value))), 0
        size = len(builder.lists[-1])
        while query is not None:
            count += 1
            first, second = (worth(one) for one in query.segments)
            assert second == value
            query = builder.answer(np.array([0.0, 1.0] if second > first else [1.0, 0.0]))
        if count:
            asked.append(count)
            assert count <= np.floor(np.log2(size)) + 1
    assert [worth(group[0]) for group in builder.lists[0]] == list(range(64))
    assert builder.asked == sum(asked)


def test_ties_join_their_group_and_pairs_are_those_of_the_lists() -> None:
    teacher = Teacher(equal=0.5, threshold_scale=1.0)
    builder = ListBuilder("lire", 30, np.random.default_rng(1))
    rng = np.random.default_rng(2)
    made = ranked(builder, rng.integers(6, size=400).astype(float), 60, teacher)
    assert builder.asked == 60
    sizes = [sum(map(len, groups)) for groups in builder.lists]
    assert len(made) == sum(size * (size - 1) // 2 for size in sizes)
    firsts = 0
    for one in made:
        low, high = (worth(part) for part in one.query.segments)
        expected = [0.5, 0.5] if low == high else [float(low > high), float(low < high)]
        assert one.probabilities.tolist() == expected
        firsts += one.probabilities[0] == 1.0
    assert 0.35 < firsts / sum(one.best is not None for one in made) < 0.65
    # A list takes no further segment once its questions are spent, but ends the one under way.
    assert all(len(groups) > 1 for groups in builder.lists)


def test_one_question_to_a_list_is_independent_pairs() -> None:
    builder = ListBuilder("lire", 1, np.random.default_rng(0))
    made = ranked(builder, np.random.default_rng(0).normal(size=200), 40)
    assert len(made) == 40
    assert [sum(map(len, groups)) for groups in builder.lists] == [2] * 40


def test_seqrank_follows_a_run_and_begins_anew_where_it_turns() -> None:
    builder = ListBuilder("seqrank", rng=np.random.default_rng(0))
    made = ranked(builder, [1, 2, 3, 0, -1, 5, 9], 6, None)
    found = [[worth(group[0]) for group in groups] for groups in builder.lists]
    assert found == [[1, 2, 3], [-1, 0, 3], [-1, 5, 9]]
    assert len(made) == 9


def test_a_skip_drops_its_segment_and_nothing_else() -> None:
    builder = ListBuilder("lire", 10, np.random.default_rng(0))
    assert builder.add(segment(1.0)) is None
    assert builder.add(segment(2.0)) is not None
    assert builder.answer(None) is None
    assert [[worth(one) for one in group] for group in builder.lists[0]] == [[1.0]]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(PrefenvsError, match=r"not 'lier'.*lire"):
        ListBuilder("lier")
    with pytest.raises(PrefenvsError, match="lasted for 1 of 5 questions"):
        ranked(ListBuilder(), [0.0, 1.0], 5)
    for few in (0, -1):
        with pytest.raises(PrefenvsError, match="at least 1 question"):
            ranked(ListBuilder(), [0.0, 1.0], few)
    builder = ListBuilder()
    with pytest.raises(PrefenvsError, match="no open question"):
        builder.answer(None)
    builder.add(segment(0.0))
    builder.add(segment(1.0))
    with pytest.raises(PrefenvsError, match="before it takes a new segment"):
        builder.add(segment(2.0))
    assert pairs_of([], None, np.random.default_rng(0)) == []
