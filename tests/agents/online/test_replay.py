"""Relabelling: every row, before and after the ring has wrapped, in the units of the task."""

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.errors import PrefenvsError

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


def make_buffer(rows: int, envs: int = 2) -> RelabelBuffer:
    return RelabelBuffer(rows * envs, OBSERVATIONS, ACTIONS, device="cpu", n_envs=envs)


def add(buffer: RelabelBuffer, count: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n = buffer.n_envs
        observations = rng.normal(size=(n, 3)).astype(np.float32)
        actions = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        buffer.add(observations, observations, actions, np.zeros(n), np.zeros(n), [{}] * n)


def linear(observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return observations.sum(1) + 10 * actions[:, 0] + 100 * actions[:, 1], np.abs(observations[:, 0])


def expected(buffer: RelabelBuffer) -> np.ndarray:
    size = buffer.size()
    actions = buffer.actions[:size]
    task_actions = np.stack([2 * actions[..., 0], (actions[..., 1] + 1) / 2], -1)
    return buffer.observations[:size].sum(-1) + 10 * task_actions[..., 0] + 100 * task_actions[..., 1]


@settings(max_examples=25)
@given(added=st.integers(1, 60), chunk=st.integers(1, 30), envs=st.integers(1, 3))
def test_relabel_reaches_every_row_also_after_wrapping(added: int, chunk: int, envs: int) -> None:
    buffer = make_buffer(20, envs)
    add(buffer, added)
    buffer.relabel(linear, chunk=chunk)
    np.testing.assert_allclose(buffer.rewards[: buffer.size()], expected(buffer), rtol=1e-4, atol=1e-4)


@settings(max_examples=25)
@given(st.lists(st.integers(1, 15), min_size=1, max_size=6))
def test_filling_as_rows_come_equals_relabelling_at_the_end(parts: list[int]) -> None:
    buffer = make_buffer(20)
    for i, count in enumerate(parts):
        add(buffer, count, seed=i)
        buffer.fill(linear)
    np.testing.assert_allclose(buffer.rewards[: buffer.size()], expected(buffer), rtol=1e-4, atol=1e-4)


def test_samples_carry_mean_plus_bonus_times_std() -> None:
    buffer = make_buffer(50)
    add(buffer, 50)
    buffer.relabel(linear)
    buffer.bonus = 0.5
    batch = buffer.sample(256)
    actions = batch.actions.numpy()
    task_actions = np.stack([2 * actions[:, 0], (actions[:, 1] + 1) / 2], 1)
    mean, spread = linear(batch.observations.numpy(), task_actions)
    np.testing.assert_allclose(batch.rewards.numpy()[:, 0], mean + 0.5 * spread, rtol=1e-4, atol=1e-4)


def test_a_reward_model_that_returns_nan_is_named() -> None:
    buffer = make_buffer(5)
    add(buffer, 3)
    with pytest.raises(PrefenvsError, match="NaN"):
        buffer.fill(lambda observations, actions: (np.full(len(observations), np.nan), np.zeros(len(observations))))


def test_saved_rows_come_back(tmp_path: Path) -> None:
    buffer, other = make_buffer(20), make_buffer(20)
    add(buffer, 33)
    buffer.relabel(linear)
    buffer.save(tmp_path / "replay.npz")
    other.restore(tmp_path / "replay.npz")
    assert (other.pos, other.full) == (buffer.pos, buffer.full)
    np.testing.assert_array_equal(other.rewards, buffer.rewards)
    with pytest.raises(PrefenvsError, match="do not fit"):
        make_buffer(5).restore(tmp_path / "replay.npz")
    # In a larger one, which is no full ring, rows without any step would be drawn.
    with pytest.raises(PrefenvsError, match="make the agent with buffer_size=40"):
        make_buffer(30).restore(tmp_path / "replay.npz")


def test_a_drawn_row_always_has_its_reward_and_new_rows_wait_for_it() -> None:
    buffer, calls = make_buffer(200), []

    def counted(observations: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(observations))
        return linear(observations, actions)

    for step in range(300):
        add(buffer, 1, seed=step)
        batch = buffer.draw(8, counted)
        actions = batch.actions.numpy()
        task_actions = np.stack([2 * actions[:, 0], (actions[:, 1] + 1) / 2], 1)
        mean, _ = linear(batch.observations.numpy(), task_actions)
        np.testing.assert_allclose(batch.rewards.numpy()[:, 0], mean, rtol=1e-4, atol=1e-4)
    assert len(calls) < 150
    buffer.fill(linear)
    np.testing.assert_allclose(buffer.rewards, expected(buffer), rtol=1e-4, atol=1e-4)


def test_batches_are_rows_of_the_buffer_and_a_time_limit_is_no_end() -> None:
    buffer = make_buffer(40)
    rng = np.random.default_rng(0)
    buffer.actions[:], buffer.rewards[:] = rng.random((40, 2, 2)), rng.random((40, 2))
    buffer.observations[:], buffer.next_observations[:] = rng.random((2, 40, 2, 3))
    buffer.dones[:], buffer.timeouts[:] = 1.0, rng.integers(2, size=(40, 2))
    buffer.full = True
    batch = buffer.draw(64)
    keys = {tuple(row): (i, j) for i, line in enumerate(buffer.observations) for j, row in enumerate(line)}
    for k in range(64):
        i, j = keys[tuple(batch.observations[k].numpy())]
        np.testing.assert_array_equal(batch.next_observations[k], buffer.next_observations[i, j])
        np.testing.assert_array_equal(batch.actions[k], buffer.actions[i, j])
        assert batch.rewards[k, 0] == buffer.rewards[i, j]
        assert batch.dones[k, 0] == 1.0 - buffer.timeouts[i, j]


@pytest.mark.parametrize("added", [70, 250])
def test_a_share_of_a_batch_comes_from_the_newest_rows(added: int) -> None:
    buffer = make_buffer(100)
    add(buffer, added)
    for row in range(added):
        buffer.observations[row % 100] = row
    rows = buffer.draw(400, recent=(300, 10)).observations[:, 0].numpy()
    assert set(rows[:300]) == set(range(added - 10, added))
    assert rows[300:].min() < added - 20, "the others come from all rows"
