from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefenvs import PrefenvsError, Preference, Query, Segment, SegmentBatch, Trajectories
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.evaluate import Evaluation


def batch(count: int = 4, steps: int = 3) -> SegmentBatch:
    rng = np.random.default_rng(0)
    return SegmentBatch(
        rng.normal(size=(count, steps, 2)),
        rng.normal(size=(count, steps, 1)),
        rng.normal(size=(count, steps)),
        rng.normal(size=(count, steps, 5)),
        rng.normal(size=(count, 6)),
        np.arange(count) + 10,
        np.arange(count) * 7,
        "task",
        "run",
    )


def test_an_integer_gives_a_segment_that_views_the_batch() -> None:
    segments = batch()
    segment = segments[2]
    assert isinstance(segment, Segment)
    assert np.shares_memory(segment.observations, segments.observations)
    assert (segment.task, segment.source, segment.episode, segment.start) == ("task", "run", 12, 14)
    assert segment.scene is not None
    assert segments.scenes is not None
    np.testing.assert_array_equal(segment.scene, segments.scenes[2])
    assert [part.episode for part in segments] == [10, 11, 12, 13]


@pytest.mark.parametrize("index", [slice(1, 3), [1, 2], np.array([False, True, True, False])])
def test_other_indices_give_a_batch(index: Any) -> None:
    part = batch()[index]
    assert isinstance(part, SegmentBatch)
    assert len(part) == 2
    assert part.length == 3
    assert part.episodes.tolist() == [11, 12]
    assert part[0].hash == batch()[1].hash


def test_empty_batch() -> None:
    assert list(batch()[:0]) == []


@pytest.mark.parametrize("name", ["observations", "actions", "states", "scene"])
def test_hash_follows_what_a_rater_is_shown(name: str) -> None:
    segment = batch()[0]
    changed = getattr(segment, name).copy()
    changed.flat[0] += 1.0
    assert replace(segment, **{name: changed}).hash != segment.hash
    if name in ("states", "scene"):
        assert replace(segment, **{name: None}).hash != segment.hash


def test_hash_follows_the_task_but_neither_rewards_nor_origin() -> None:
    segment = batch()[0]
    assert replace(segment, task="other").hash != segment.hash
    assert segment.true_rewards is not None
    assert replace(segment, true_rewards=segment.true_rewards + 1.0).hash == segment.hash
    assert replace(segment, true_rewards=None, source="elsewhere", episode=0, start=0).hash == segment.hash


def test_hash_does_not_depend_on_memory_layout() -> None:
    segment = batch()[0]
    strided = np.asfortranarray(segment.observations)
    assert not strided.flags["C_CONTIGUOUS"]
    assert replace(segment, observations=strided).hash == segment.hash


def test_arrays_of_unequal_length_are_refused() -> None:
    segments = batch()
    with pytest.raises(PrefenvsError, match=r"Segment.actions has 2 steps"):
        Segment(segments.observations[0], segments.actions[0][:2])
    with pytest.raises(PrefenvsError, match=r"SegmentBatch.states"):
        replace(segments, states=np.zeros((4, 2, 5)))
    with pytest.raises(PrefenvsError, match=r"SegmentBatch.scenes"):
        replace(segments, scenes=np.zeros((3, 6)))


def test_data_types_print_shapes_and_not_their_numbers() -> None:
    """A rater of one's own that prints what it is asked fills no screen."""
    segment = Segment(np.zeros((50, 17), np.float32), np.zeros((50, 6), np.float32), task="t", episode=3, start=10)
    assert repr(segment) == (
        "Segment(observations=float32[50, 17], actions=float32[50, 6], task='t', episode=3, start=10)"
    )
    answer = Preference(Query((segment, segment)), np.array([1.0, 0.0]), "ana")
    assert "probabilities=[1.0, 0.0], annotator='ana'" in repr(answer)
    assert "probabilities=None" in repr(Preference(answer.query, None)), "a skip is no answer left out"
    episodes = Trajectories(np.zeros((100, 17)), np.zeros((100, 6)), np.array([50, 100]))
    assert repr(episodes) == "Trajectories(observations=float64[100, 17], actions=float64[100, 6], ends=[50, 100])"
    assert len(repr(OfflineDataset("mine", episodes))) < 200
    steps = np.full(3, 50)
    evaluation = Evaluation("t", np.array([1.0, 2.0, 6.0]), steps, steps, np.array([1.0, 0.0, 0.0]))
    assert repr(evaluation) == "Evaluation(task='t', episodes=3, mean_return=3, success_rate=0.333)"
