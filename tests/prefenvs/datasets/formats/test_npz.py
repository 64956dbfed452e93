"""Data sets as .npz files."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from prefenvs import PrefenvsError
from prefenvs.datasets import load_dataset, read_npz, write_npz
from prefenvs.datasets.formats.npz import save_episodes

STEP = ("observations", "actions", "true_rewards", "states")


def test_what_is_written_is_read(tmp_path, make_dataset, assert_same) -> None:
    dataset = make_dataset()
    folder = write_npz(dataset, tmp_path / "some" / "data")
    assert_same(load_dataset(folder), dataset)
    with pytest.raises(PrefenvsError, match="not empty"):
        write_npz(dataset, folder)


def test_flags_of_each_step_are_kept(tmp_path, make_dataset) -> None:
    terminals, timeouts = np.isin(np.arange(8), [1, 2, 7]), np.isin(np.arange(8), [3, 4, 7])
    dataset = replace(make_dataset(), terminals=terminals, timeouts=timeouts)
    read = load_dataset(write_npz(dataset, tmp_path / "maze"))
    np.testing.assert_array_equal(read.terminals, terminals)
    np.testing.assert_array_equal(read.timeouts, timeouts)
    np.testing.assert_array_equal(read.transitions().terminals, dataset.transitions().terminals)


def test_episodes_keep_their_numbers(tmp_path, make_dataset) -> None:
    dataset = make_dataset((2, 3, 1))
    numbers = np.array([0, 4, 7], np.int64)
    dataset = replace(dataset, trajectories=replace(dataset.trajectories, numbers=numbers))
    folder = write_npz(dataset, tmp_path / "picked")
    assert load_dataset(folder).trajectories.episode_numbers.tolist() == [0, 4, 7]
    arrays = dict(np.load(folder / "episodes.npz"))
    np.savez(folder / "episodes.npz", **arrays | {"episode_numbers": numbers[::-1]})
    with pytest.raises(PrefenvsError, match=r"episode_numbers .* do not rise"):
        load_dataset(folder)


def test_one_file_of_arrays_is_a_data_set(tmp_path) -> None:
    seen, acted = np.zeros((6, 3), np.float32), np.arange(6, dtype=np.float32)[:, None] / 6
    ends = np.array([False, False, True] * 2)
    np.savez(tmp_path / "mine.npz", observations=seen, actions=acted, terminals=ends & False, timeouts=ends)
    read = load_dataset(tmp_path / "mine.npz")
    np.testing.assert_array_equal(read.trajectories.actions, acted)
    assert read.trajectories.lengths.tolist() == [3, 3]
    assert read.task == ""
    assert load_dataset(tmp_path / "mine.npz", "Pendulum-v1").task == "Pendulum-v1"


def test_files_are_joined_in_the_order_of_their_names(tmp_path, make_dataset) -> None:
    parts = [make_dataset((2, 3), 1), make_dataset((4,), 2), make_dataset((1, 1), 3)]
    for i, part in reversed(list(enumerate(parts))):
        save_episodes(tmp_path / f"{i}.npz", part.trajectories, part.policies, part.successes)
    read = read_npz(tmp_path)
    assert read.trajectories.lengths.tolist() == [2, 3, 4, 1, 1]
    for name in STEP:
        expected = np.concatenate([getattr(part.trajectories, name) for part in parts])
        np.testing.assert_array_equal(getattr(read.trajectories, name), expected)
    assert read.policies.tolist() == [name for part in parts for name in part.policies]


def test_d4rl_layout_is_understood(tmp_path) -> None:
    observations = np.arange(6, dtype=np.float64)[:, None]
    np.savez(
        tmp_path / "a.npz",
        observations=observations,
        actions=observations,
        rewards=observations,
        terminals=np.array([0, 1, 0, 0, 0, 0]),
        timeouts=np.array([0, 0, 0, 1, 0, 0]),
        next_observations=observations + 1,
    )
    data = read_npz(tmp_path).trajectories
    assert data.ends.tolist() == [2, 4, 6]
    assert data.terminated.tolist() == [True, False, False]
    assert data.final_observations.ravel().tolist() == [2.0, 4.0, 6.0]
    assert data.returns.tolist() == [1.0, 5.0, 9.0]


def test_memory_is_the_arrays_and_one_file(tmp_path, make_dataset) -> None:
    for i in range(12):
        save_episodes(tmp_path / f"{i:02}.npz", make_dataset((2000,), i, width=60).trajectories)
    tracemalloc.start()
    try:
        data = read_npz(tmp_path).trajectories
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = sum(getattr(data, name).nbytes for name in STEP)
    assert peak < 1.2 * held


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": None}, "no array 'observations'"),
        ({"actions": None}, "lacks 'actions'"),
        ({"ends": None}, "lacks 'ends, or terminals"),
        ({"observations": np.zeros(5)}, "two axes"),
        ({"actions": np.zeros((4, 2))}, "actions in .*a.npz has 4 rows, expected 5"),
        ({"actions": np.array([[object()]] * 5)}, "cannot be read"),
        ({"ends": np.array([2, 4])}, "ends at step 4 of 5"),
        ({"ends": None, "terminals": np.zeros(5)}, "no 'timeouts' and no known time limit"),
        ({"ends": None, "terminals": np.zeros(4), "timeouts": np.zeros(5)}, "5 observations, but 4 terminals"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, change, message) -> None:
    arrays = {"observations": np.zeros((5, 3)), "actions": np.zeros((5, 2)), "ends": np.array([2, 5])} | change
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(PrefenvsError, match=message) as caught:
        load_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_damaged_files_and_files_that_do_not_fit_are_refused(tmp_path, make_dataset) -> None:
    path = tmp_path / "a.npz"
    save_episodes(path, make_dataset().trajectories)
    save_episodes(tmp_path / "b.npz", make_dataset(width=4).trajectories)
    with pytest.raises(PrefenvsError, match=r"observations in .*b.npz have another shape"):
        read_npz(tmp_path)
    np.savez(tmp_path / "b.npz", observations=np.zeros((2, 3)), actions=np.zeros((2, 2)), ends=[2])
    with pytest.raises(PrefenvsError, match=r"other arrays than a.npz"):
        read_npz(tmp_path)
    (tmp_path / "b.npz").unlink()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(PrefenvsError, match=r"a.npz cannot be read: .*File is not a zip file"):
        read_npz(tmp_path)
    with pytest.raises(PrefenvsError, match=r"holds no .npz"):
        read_npz(tmp_path / "nowhere")
    save_episodes(path, make_dataset().trajectories)
    (tmp_path / "dataset.json").write_text(json.dumps([1]))
    with pytest.raises(PrefenvsError, match="no JSON object"):
        read_npz(tmp_path)
