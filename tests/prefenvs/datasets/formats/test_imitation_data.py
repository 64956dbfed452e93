from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from prefenvs.datasets import read_imitation, write_imitation
from prefenvs.errors import PrefenvsError
from prefenvs.trajectories import Trajectories

datasets = pytest.importorskip("datasets")
serialize = pytest.importorskip("imitation.data.serialize")
types = pytest.importorskip("imitation.data.types")


def make_trajectories(**changes: object) -> Trajectories:
    rng = np.random.default_rng(0)
    ends = np.array([4, 5, 9])
    fields = {
        "observations": rng.standard_normal((9, 3)).astype(np.float32),
        "actions": rng.standard_normal((9, 2)).astype(np.float32),
        "ends": ends,
        "true_rewards": rng.standard_normal(9),
        "terminated": np.array([True, False, False]),
        "final_observations": rng.standard_normal((3, 3)).astype(np.float32),
        "task": "T",
        "source": "run",
    }
    return Trajectories(**(fields | changes))  # type: ignore[arg-type]


def assert_equal(first: Trajectories, second: Trajectories) -> None:
    for name in ("observations", "actions", "ends", "true_rewards", "terminated", "final_observations"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert (first.task, first.source) == (second.task, second.source)


def test_what_is_written_is_read_again(tmp_path) -> None:
    for changes in ({}, {"true_rewards": None}, {"terminated": None}):
        trajectories = make_trajectories(**changes)
        write_imitation(trajectories, tmp_path / "data")
        back = read_imitation(tmp_path / "data", task="T", source="run")
        for name, value in changes.items():
            assert getattr(back, name) is value
        if not changes:
            assert_equal(back, trajectories)
    assert read_imitation(tmp_path / "data").source == "data"


def test_imitation_reads_what_we_write(tmp_path) -> None:
    trajectories = make_trajectories()
    write_imitation(trajectories, tmp_path / "data")
    theirs = serialize.load_with_rewards(tmp_path / "data")
    assert [len(t) for t in theirs] == [4, 1, 4]
    for i, (begin, end) in enumerate(zip(trajectories.begins, trajectories.ends, strict=True)):
        np.testing.assert_allclose(theirs[i].obs[:-1], trajectories.observations[begin:end])
        np.testing.assert_allclose(theirs[i].obs[-1], trajectories.final_observations[i])
        np.testing.assert_allclose(theirs[i].acts, trajectories.actions[begin:end])
        np.testing.assert_allclose(theirs[i].rews, trajectories.true_rewards[begin:end])
        assert theirs[i].terminal
    assert theirs[1].infos[-1] == {"TimeLimit.truncated": True}


def test_we_read_what_imitation_writes(tmp_path) -> None:
    rng = np.random.default_rng(1)
    theirs = [
        types.TrajectoryWithRew(
            obs=rng.standard_normal((n + 1, 3)),
            acts=rng.standard_normal((n, 2)),
            infos=np.array([{"any": np.float32(1)}] * (n - 1) + [{"TimeLimit.truncated": n == 6}]),
            terminal=True,
            rews=rng.standard_normal(n),
        )
        for n in (5, 6)
    ]
    serialize.save(tmp_path / "data", theirs)
    ours = read_imitation(tmp_path / "data")
    assert ours.lengths.tolist() == [5, 6]
    np.testing.assert_allclose(ours.observations, np.concatenate([t.obs[:-1] for t in theirs]), rtol=1e-6)
    np.testing.assert_allclose(ours.final_observations, np.stack([t.obs[-1] for t in theirs]), rtol=1e-6)
    np.testing.assert_allclose(ours.returns, [t.rews.sum() for t in theirs])
    assert ours.terminated.tolist() == [True, False]
    assert ours.observations.dtype == ours.actions.dtype == np.float32


def test_terminal_alone_does_not_tell_a_time_limit(tmp_path) -> None:
    def save(terminal: list[bool]) -> Trajectories:
        episodes = [types.Trajectory(np.zeros((3, 2)), np.zeros((2, 1)), None, end) for end in terminal]
        serialize.save(tmp_path / "data", episodes)
        return read_imitation(tmp_path / "data")

    assert save([True, True]).terminated is None
    assert save([False, False]).terminated.tolist() == [False, False]
    assert save([True, False]).true_rewards is None


def test_without_final_observations_the_last_step_becomes_one(tmp_path) -> None:
    trajectories = make_trajectories(final_observations=None)
    write_imitation(trajectories, tmp_path / "data")
    back = read_imitation(tmp_path / "data")
    assert back.lengths.tolist() == [3, 3], "the episode of one step is gone, the others are one shorter"
    np.testing.assert_array_equal(back.final_observations, trajectories.observations[[3, 8]])
    np.testing.assert_array_equal(back.true_rewards, trajectories.true_rewards[[0, 1, 2, 5, 6, 7]])
    assert back.terminated.tolist() == [False, False], "what was cut off did not end"
    with pytest.raises(PrefenvsError, match="nothing is left"):
        write_imitation(Trajectories(np.zeros((2, 1)), np.zeros((2, 1)), np.array([1, 2])), tmp_path / "other")


def test_discrete_actions_are_one_hot_here_and_integers_there(tmp_path) -> None:
    serialize.save(tmp_path / "data", [types.Trajectory(np.zeros((4, 2)), np.array([1, 0, 1]), None, True)])
    ours = read_imitation(tmp_path / "data", discrete_actions=3)
    np.testing.assert_array_equal(ours.actions, np.eye(3)[[1, 0, 1]])
    assert read_imitation(tmp_path / "data").actions.shape == (3, 2)
    write_imitation(ours, tmp_path / "again", discrete=True)
    assert serialize.load(tmp_path / "again")[0].acts.tolist() == [1, 0, 1]
    shifted = spaces.Discrete(3, start=-1)
    write_imitation(ours, tmp_path / "shifted", discrete=shifted)
    assert serialize.load(tmp_path / "shifted")[0].acts.tolist() == [0, -1, 0]
    back = read_imitation(tmp_path / "shifted", action_space=shifted)
    np.testing.assert_array_equal(back.actions, ours.actions)
    with pytest.raises(PrefenvsError, match=r"shape \[3\], but their space is Discrete\(2\)"):
        write_imitation(ours, tmp_path / "narrow", discrete=spaces.Discrete(2))
    with pytest.raises(PrefenvsError, match="no one-hot rows"):
        write_imitation(make_trajectories(), tmp_path / "box", discrete=True)
    with pytest.raises(PrefenvsError, match="hold 1, outside the 1 discrete values 0 to 0"):
        read_imitation(tmp_path / "data", discrete_actions=1)


def test_ends_that_nobody_knows_stay_unknown(tmp_path) -> None:
    """A horizon tells the ends of others' files, but makes none up where the writer did not know them."""
    write_imitation(make_trajectories(terminated=None), tmp_path / "unknown")
    write_imitation(make_trajectories(), tmp_path / "known")
    assert read_imitation(tmp_path / "unknown", horizon=4).terminated is None
    assert read_imitation(tmp_path / "known", horizon=4).terminated.tolist() == [True, False, False]
    assert [len(t) for t in serialize.load(tmp_path / "unknown")] == [4, 1, 4]


def test_sliced_data_sets_keep_their_rows(tmp_path) -> None:
    write_imitation(make_trajectories(), tmp_path / "data")
    datasets.load_from_disk(str(tmp_path / "data")).select([2, 0]).save_to_disk(str(tmp_path / "slice"))
    ours, whole = read_imitation(tmp_path / "slice"), make_trajectories()
    np.testing.assert_array_equal(ours.observations, whole.observations[[5, 6, 7, 8, 0, 1, 2, 3]])
    assert ours.terminated.tolist() == [False, True]


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(PrefenvsError, match="is no folder of imitation trajectories"):
        read_imitation(tmp_path / "none")
    np.save(tmp_path / "old.npz", np.zeros(3))
    with pytest.raises(PrefenvsError, match="can run code"):
        read_imitation(tmp_path / "old.npz.npy")
    with pytest.raises(PrefenvsError, match="is a file"):
        write_imitation(make_trajectories(), tmp_path / "old.npz.npy")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "text"))
    with pytest.raises(PrefenvsError, match="no column"):
        read_imitation(tmp_path / "text")
    serialize.save(tmp_path / "images", [types.Trajectory(np.zeros((4, 2, 2)), np.zeros((3, 1)), None, True)])
    with pytest.raises(PrefenvsError, match="only vectors"):
        read_imitation(tmp_path / "images")
