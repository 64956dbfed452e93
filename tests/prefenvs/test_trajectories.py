from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from scipy import stats

from prefenvs import PrefenvsError, Trajectories, TrajectoryBuffer

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


def numbered(lengths: list[int], first_episode: int = 0) -> Trajectories:
    """Episodes whose observation at step t of episode e is (e, t)."""
    observations = np.array([(e, t) for e, length in enumerate(lengths) for t in range(length)], np.float32)
    steps = len(observations)
    return Trajectories(
        observations.reshape(steps, 2),
        np.arange(steps, dtype=np.float32)[:, None],
        np.cumsum(lengths),
        np.arange(steps, dtype=np.float64),
        np.arange(3.0 * steps).reshape(steps, 3),
        np.arange(len(lengths), dtype=np.float64)[:, None],
        first_episode=first_episode,
    )


@given(LENGTHS, st.integers(1, 12), st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_a_segment_never_crosses_an_episode_boundary(lengths: list[int], length: int, seed: int, last: int) -> None:
    pool = numbered(lengths, first_episode=5)
    assert pool.count_segments(length) == sum(max(n - length + 1, 0) for n in lengths)
    if not pool.count_segments(length, last):
        with pytest.raises(PrefenvsError, match=f"no segment of {length} steps"):
            pool.sample(3, length, np.random.default_rng(seed), last)
        return
    batch = pool.sample(20, length, np.random.default_rng(seed), last)
    assert batch.observations.shape == (20, length, 2)
    positions = batch.episodes - 5
    assert positions.min() >= len(lengths) - last
    np.testing.assert_array_equal(batch.observations[:, :, 0], np.tile(positions[:, None], length))
    np.testing.assert_array_equal(batch.observations[:, :, 1], batch.starts[:, None] + np.arange(length))
    # All arrays come from the same steps.
    assert batch.true_rewards is not None
    assert batch.states is not None
    assert batch.scenes is not None
    np.testing.assert_array_equal(batch.true_rewards, batch.actions[:, :, 0])
    np.testing.assert_array_equal(batch.states[:, :, 0], 3 * batch.true_rewards)
    np.testing.assert_array_equal(batch.scenes[:, 0], positions)


@pytest.mark.parametrize("last", [None, 2])
def test_sampling_is_uniform_over_valid_starts(last: int | None) -> None:
    lengths, length = [7, 2, 4, 9, 3], 3
    pool = numbered(lengths)
    batch = pool.sample(30_000, length, np.random.default_rng(0), last)
    starts, counts = np.unique(np.stack([batch.episodes, batch.starts]), axis=1, return_counts=True)
    used = range(len(lengths)) if last is None else range(len(lengths) - last, len(lengths))
    expected = [(e, t) for e in used for t in range(lengths[e] - length + 1)]
    assert list(zip(*starts.tolist(), strict=True)) == expected
    assert stats.chisquare(counts).pvalue > 1e-3


@given(LENGTHS, st.integers(1, 6))
def test_locate_numbers_every_segment_once(lengths: list[int], length: int) -> None:
    pool = numbered(lengths)
    episodes, starts = pool.locate(np.arange(pool.count_segments(length)), length)
    expected = [(e, t) for e, n in enumerate(lengths) for t in range(n - length + 1)]
    assert list(zip(episodes.tolist(), starts.tolist(), strict=True)) == expected


@given(LENGTHS)
def test_returns_are_sums_over_episodes(lengths: list[int]) -> None:
    pool = numbered(lengths)
    assert pool.true_rewards is not None
    parts = np.split(pool.true_rewards, pool.ends[:-1])
    np.testing.assert_allclose(pool.returns, [part.sum() for part in parts])
    assert pool.lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("episode", "start", "length"), [(0, 0, 6), (0, 3, 3), (1, -1, 2), (2, 0, 1), (-1, 0, 1), (0, 0, 0)]
)
def test_impossible_cuts_are_refused(episode: int, start: int, length: int) -> None:
    with pytest.raises(PrefenvsError):
        numbered([5, 3]).cut(np.array([0, episode]), np.array([0, start]), length)


def test_cutting_nothing_gives_an_empty_batch() -> None:
    batch = numbered([2]).cut(np.zeros(0, int), np.zeros(0, int), 5)
    assert batch.observations.shape == (0, 5, 2)


@pytest.mark.parametrize("last", [0, -3])
def test_last_episodes_must_be_positive(last: int) -> None:
    with pytest.raises(PrefenvsError, match="last_episodes"):
        numbered([5]).count_segments(2, last)


@pytest.mark.parametrize(
    "change",
    [
        {"ends": np.array([2, 2, 4])},
        {"ends": np.array([2, 3])},
        {"ends": np.zeros(0, np.int64)},
        {"actions": np.zeros((3, 1))},
        {"scenes": np.zeros((1, 2))},
        {"terminated": np.zeros(1, bool)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    good = {"observations": np.zeros((4, 2)), "actions": np.zeros((4, 1)), "ends": np.array([2, 4])}
    Trajectories(**good)
    with pytest.raises(PrefenvsError):
        Trajectories(**(good | change))


def test_true_returns_need_true_rewards() -> None:
    with pytest.raises(PrefenvsError, match="true rewards"):
        _ = Trajectories(np.zeros((2, 1)), np.zeros((2, 1)), np.array([2])).returns


class BufferMachine(RuleBasedStateMachine):
    """The buffer against a plain list of episodes, with interleaved environments and reused arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = TrajectoryBuffer("task", "run", max_episodes=4)
        self.open: dict[int, list[tuple[float, float]]] = {}
        self.closed: list[tuple[list[tuple[float, float]], bool]] = []
        self.clock = 0
        self.old: tuple[Trajectories, Any] | None = None
        # An environment may hand out the same array again and again.
        self.observation, self.state = np.zeros(2, np.float32), np.zeros(3)

    @rule(env=st.integers(0, 2), steps=st.integers(1, 40), done=st.booleans(), terminated=st.booleans())
    def add(self, env: int, steps: int, done: bool, terminated: bool) -> None:
        for i in range(steps):
            self.clock += 1
            self.observation[:], self.state[:] = self.clock, 2 * self.clock
            last = done and i == steps - 1
            self.buffer.add_step(
                env,
                self.observation,
                np.array([env]),
                3.0 * self.clock,
                self.state,
                done=last,
                terminated=terminated,
                final_observation=-self.observation if last else None,
            )
            self.open.setdefault(env, []).append((self.clock, env))
            if last:
                self.closed.append((self.open.pop(env), terminated))

    @rule()
    def drop(self) -> None:
        self.buffer.drop_open()
        self.open.clear()

    @rule()
    def look(self) -> None:
        trajectories = self.buffer.trajectories()
        self.old = trajectories, trajectories.observations.copy()

    @rule(many=st.integers(1, 6))
    def checkpoint(self, many: int) -> None:
        """Another buffer takes up the episodes and goes on in this one's place."""
        copy = TrajectoryBuffer("task", "run", max_episodes=4)
        copy.extend(self.buffer.trajectories())
        self.buffer = copy
        self.open.clear()

    @invariant()
    def holds_the_newest_episodes(self) -> None:
        kept = self.closed[-4:]
        trajectories = self.buffer.trajectories()
        assert len(self.buffer) == len(trajectories) == len(kept)
        if not kept:
            return
        clock = np.array([step[0] for steps, _ in kept for step in steps])
        assert trajectories.lengths.tolist() == [len(steps) for steps, _ in kept]
        np.testing.assert_array_equal(trajectories.observations, np.stack([clock, clock], axis=1))
        np.testing.assert_array_equal(trajectories.true_rewards, 3.0 * clock)
        np.testing.assert_array_equal(trajectories.states, np.tile(2 * clock[:, None], 3))
        np.testing.assert_array_equal(trajectories.actions[:, 0], [step[1] for steps, _ in kept for step in steps])
        assert trajectories.terminated is not None
        assert trajectories.terminated.tolist() == [terminated for _, terminated in kept]
        assert trajectories.first_episode == len(self.closed) - len(kept)
        np.testing.assert_array_equal(
            trajectories.final_observations, -trajectories.observations[trajectories.ends - 1]
        )

    @invariant()
    def earlier_views_stay_right(self) -> None:
        if self.old is not None:
            np.testing.assert_array_equal(self.old[0].observations, self.old[1])


BufferMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBuffer = BufferMachine.TestCase


def fill(buffer: TrajectoryBuffer, episodes: int, horizon: int, **fields: Any) -> None:
    state = fields.pop("state", None)
    for _ in range(episodes):
        for t in range(horizon):
            buffer.add_step(0, np.full(8, t), np.full(2, t), float(t), state, done=t == horizon - 1, **fields)


def test_memory_stays_within_a_small_factor_of_the_arrays() -> None:
    tracemalloc.start()
    try:
        buffer = TrajectoryBuffer(max_episodes=10)
        fill(buffer, 60, 500, state=np.zeros(20))
        held = 10 * 500 * (4 * 8 + 4 * 2 + 8 + 8 * 20)
        assert held <= tracemalloc.get_traced_memory()[0] <= 2.5 * held
        # Long episodes leave no trace once short ones have taken their place.
        fill(buffer, 1000, 10, state=np.zeros(20))
        assert tracemalloc.get_traced_memory()[0] < 0.5 * held
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["observations", "actions", "true_rewards"])
def test_an_episode_with_a_nan_is_refused_and_leaves_the_rest_whole(where: str, value: float) -> None:
    buffer = TrajectoryBuffer("the-task")
    fill(buffer, 1, 4)
    step: dict[str, Any] = {"observations": np.zeros(8), "actions": np.zeros(2), "true_rewards": 0.0}
    buffer.add_step(0, *step.values(), None, done=False)
    step[where] = np.full_like(step[where], value) if where != "true_rewards" else value
    with pytest.raises(PrefenvsError, match=f"{where} of task 'the-task' .* step 1 of episode 1"):
        buffer.add_step(0, *step.values(), None, done=True)
    fill(buffer, 1, 3)
    assert buffer.trajectories().lengths.tolist() == [4, 3]
    assert np.all(np.isfinite(buffer.trajectories().observations))


def test_an_episode_without_what_the_others_have_is_refused() -> None:
    buffer = TrajectoryBuffer()
    fill(buffer, 1, 3, state=np.zeros(2))
    with pytest.raises(PrefenvsError, match="states"):
        fill(buffer, 1, 3)
    with pytest.raises(PrefenvsError, match="scenes"):
        fill(buffer, 1, 3, state=np.zeros(2), scene=np.zeros(4))
    assert len(buffer) == 1


def test_scenes_stay_with_their_episodes() -> None:
    buffer = TrajectoryBuffer(max_episodes=2)
    for i in range(4):
        fill(buffer, 1, 3, scene=np.full(2, float(i)))
    scenes = buffer.trajectories().scenes
    assert scenes is not None
    np.testing.assert_array_equal(scenes, [[2.0, 2.0], [3.0, 3.0]])


def test_final_observations_are_kept_only_where_every_episode_has_one() -> None:
    buffer = TrajectoryBuffer("the-task", max_episodes=2)
    fill(buffer, 1, 3)
    fill(buffer, 2, 3, final_observation=np.full(8, 9.0))
    np.testing.assert_array_equal(buffer.trajectories().final_observations, np.full((2, 8), 9.0))
    fill(buffer, 1, 3)
    assert buffer.trajectories().final_observations is None
    with pytest.raises(PrefenvsError, match="final observation of task 'the-task' after episode 4"):
        fill(buffer, 1, 3, final_observation=np.full(8, np.nan))


def test_an_empty_buffer_says_what_is_missing() -> None:
    buffer = TrajectoryBuffer()
    assert len(buffer.trajectories()) == 0
    with pytest.raises(PrefenvsError, match="collect more"):
        buffer.trajectories().sample(1, 5, np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match="max_episodes"):
        TrajectoryBuffer(max_episodes=0)


def test_a_buffer_keeps_unknown_ends_unknown() -> None:
    """Episodes read from a file that does not tell how they ended are not taken for cut off."""
    known = Trajectories(np.zeros((5, 2)), np.zeros((5, 1)), np.array([2, 5]), terminated=np.array([True, False]))
    buffer = TrajectoryBuffer()
    buffer.extend(known)
    assert buffer.trajectories().terminated.tolist() == [True, False]
    buffer.extend(replace(known, terminated=None))
    assert buffer.trajectories().terminated is None
    assert len(buffer) == 4


def test_segments_are_drawn_from_the_episodes_named() -> None:
    """As from these episodes alone; the others keep their places."""
    rows = np.arange(30, dtype=np.float32)[:, None]
    pool = Trajectories(rows, rows, np.array([4, 14, 16, 30]))
    batch = pool.sample(200, 3, np.random.default_rng(0), episodes=np.array([0, 2, 3]))
    assert set(batch.episodes.tolist()) == {0, 3}, "episode 2 is too short"
    alone = Trajectories(rows[:18], rows[:18], np.array([4, 18])).sample(200, 3, np.random.default_rng(0))
    np.testing.assert_array_equal(batch.starts, alone.starts)
    with pytest.raises(PrefenvsError, match="no segment of 3 steps"):
        pool.sample(1, 3, np.random.default_rng(0), episodes=np.array([2]))
