"""Minari's data sets, there and back, and as Minari itself reads and writes them."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from prefenvs import PrefenvsError
from prefenvs.datasets import OfflineDataset, load_dataset, read_minari, write_minari
from prefenvs.frames import frames

minari = pytest.importorskip("minari")
COLUMNS = ("observations", "actions", "true_rewards", "states", "ends", "scenes", "terminated", "final_observations")


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    return tmp_path / "root"


def remake(dataset, **changes):
    fields = {name: getattr(dataset.trajectories, name) for name in COLUMNS} | changes
    return OfflineDataset(dataset.name, type(dataset.trajectories)(**fields))


@pytest.mark.parametrize("name", ["minari/prefenvs/reach/mixed-v0", "folder"])
def test_what_is_written_is_read(name, tmp_path, monkeypatch, make_dataset, assert_same) -> None:
    monkeypatch.chdir(tmp_path)
    dataset = make_dataset()
    folder = write_minari(dataset, name)
    read = load_dataset(name)
    assert_same(read, dataset)
    assert read.trajectories.states.dtype == np.float64
    assert_same(load_dataset(folder), dataset)
    assert read.name == ("minari/folder-v0" if name == "folder" else name)
    with pytest.raises(PrefenvsError, match="exists: name another"):
        write_minari(dataset, name)


def test_minari_itself_reads_it(make_dataset) -> None:
    dataset = make_dataset()
    write_minari(dataset, "minari/reach/mixed-v0", description="A mixture.")
    theirs = minari.load_dataset("reach/mixed-v0")
    data = dataset.trajectories
    assert list(minari.list_local_datasets()) == ["reach/mixed-v0"]
    assert (theirs.total_episodes, theirs.total_steps) == (3, 8)
    assert theirs.storage.metadata["description"] == "A mixture."
    for i, episode in enumerate(theirs.iterate_episodes()):
        rows = slice(data.begins[i], data.ends[i])
        np.testing.assert_array_equal(episode.observations[:-1], data.observations[rows])
        np.testing.assert_array_equal(episode.observations[-1], data.final_observations[i])
        np.testing.assert_array_equal(episode.rewards, data.true_rewards[rows])
        assert not episode.terminations[:-1].any()
        assert not episode.truncations[:-1].any()
        assert episode.terminations[-1] == data.terminated[i] != episode.truncations[-1]
        np.testing.assert_array_equal(episode.infos["state"][:-1], data.states[rows])
        assert np.isnan(episode.infos["state"][-1]).all()
    np.testing.assert_allclose(minari.get_normalized_score(theirs, np.array([1.0, 2.0])), [0.0, 1.0])


def test_terminal_steps_within_an_episode_are_kept(make_dataset) -> None:
    terminals = np.isin(np.arange(8), [1, 2, 7])
    dataset = remake(make_dataset(), terminated=terminals[[3, 4, 7]])
    dataset = replace(dataset, terminals=terminals)
    write_minari(dataset, "minari/maze-v0")
    read = load_dataset("minari/maze-v0")
    np.testing.assert_array_equal(read.terminals, terminals)
    np.testing.assert_array_equal(read.transitions().terminals, dataset.transitions().terminals)


def test_without_final_observations_the_last_step_becomes_one(make_dataset) -> None:
    dataset = make_dataset()
    write_minari(remake(dataset, final_observations=None), "minari/short-v0")
    read = load_dataset("minari/short-v0").trajectories
    # The episode of one step is lost.
    assert read.lengths.tolist() == [3, 2]
    np.testing.assert_array_equal(read.final_observations, dataset.trajectories.observations[[3, 7]])
    np.testing.assert_array_equal(read.states, dataset.trajectories.states[[0, 1, 2, 5, 6]])
    np.testing.assert_array_equal(read.scenes, dataset.trajectories.scenes[[0, 2]])
    assert not read.terminated.any()


def test_discrete_actions_there_and_back(make_dataset) -> None:
    dataset = make_dataset()
    actions = np.eye(4, dtype=np.float32)[[0, 3, 2, 1, 1, 0, 3, 2]]
    write_minari(remake(dataset, actions=actions), "minari/discrete-v0", discrete=True)
    assert minari.load_dataset("discrete-v0").action_space == spaces.Discrete(4)
    np.testing.assert_array_equal(load_dataset("minari/discrete-v0").trajectories.actions, actions)


def test_discrete_actions_keep_their_start(make_dataset) -> None:
    space = spaces.Discrete(4, start=-2)
    actions = np.eye(4, dtype=np.float32)[[0, 3, 2, 1, 1, 0, 3, 2]]
    write_minari(remake(make_dataset(), actions=actions), "minari/given-v0", discrete=space)
    given = load_dataset("minari/given-v0")
    assert given.action_space == minari.load_dataset("given-v0").action_space == space
    assert min(episode.actions.min() for episode in minari.load_dataset("given-v0").iterate_episodes()) == -2
    write_minari(given, "minari/own-v0", discrete=True)
    for read in (given, load_dataset("minari/own-v0")):
        assert read.action_space == space
        np.testing.assert_array_equal(read.trajectories.actions, actions)
    with pytest.raises(PrefenvsError, match=r"shape \[4\], but their space is Discrete\(3\)"):
        write_minari(given, "minari/narrow-v0", discrete=spaces.Discrete(3))


def test_ends_that_nobody_knows_stay_unknown(make_dataset) -> None:
    write_minari(remake(make_dataset(), terminated=None), "minari/unknown-v0")
    assert load_dataset("minari/unknown-v0").trajectories.terminated is None
    theirs = minari.load_dataset("unknown-v0")
    assert all(episode.truncations[-1] and not episode.terminations[-1] for episode in theirs.iterate_episodes())


def test_trajectories_without_rewards_cannot_be_written(root, make_dataset) -> None:
    with pytest.raises(PrefenvsError, match="no true rewards"):
        write_minari(remake(make_dataset(), true_rewards=None), "minari/none-v0")
    with pytest.raises(PrefenvsError, match="no name for a Minari data set"):
        write_minari(make_dataset(), "minari/two words!-v0")
    with pytest.raises(PrefenvsError, match="a version at the end"):
        write_minari(make_dataset(), "minari/unversioned")
    assert not list(root.rglob("*.hdf5"))


def minari_writes(name, observations, space, env=None, actions=None, action_space=None, steps=4):
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=observations,
            actions=np.zeros((steps, 2), np.float32) if actions is None else actions,
            rewards=np.arange(steps) + 10.0 * i,
            terminations=np.arange(steps) == (steps - 1 if i else steps),
            truncations=np.arange(steps) == (steps if i else steps - 1),
            infos={},
        )
        for i in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            name,
            buffers,
            env,
            observation_space=space,
            action_space=action_space or spaces.Box(-1, 1, (2,), np.float32),
        )


def test_dictionaries_are_concatenated_in_the_order_of_their_space() -> None:
    space = spaces.Dict(
        {
            "observation": spaces.Box(-9, 9, (2,)),
            "achieved": spaces.Tuple([spaces.Box(-9, 9, (1,)), spaces.Discrete(3)]),
        }
    )
    rng = np.random.default_rng(0)
    samples = {
        "observation": rng.standard_normal((5, 2)).astype(np.float32),
        "achieved": (rng.standard_normal((5, 1)).astype(np.float32), np.array([0, 1, 2, 1, 0])),
    }
    minari_writes("goal/x-v0", samples, space)
    data = load_dataset("minari/goal/x-v0").trajectories
    rows = [OrderedDict(observation=samples["observation"][i], achieved=tuple(part[i] for part in samples["achieved"]))
            for i in range(5)]  # fmt: skip
    expected = np.stack([spaces.flatten(space, row) for row in rows])
    np.testing.assert_array_equal(data.observations, np.concatenate([expected[:4], expected[:4]]))
    np.testing.assert_array_equal(data.final_observations, expected[[4, 4]])
    assert data.terminated.tolist() == [False, True]
    assert data.returns.tolist() == [6.0, 46.0]
    assert data.task == ""


def test_the_task_is_the_environment_that_the_file_names_where_its_sizes_fit() -> None:
    env = gymnasium.make("Pendulum-v1")
    samples = np.zeros((5, 3), np.float32)
    actions, box = np.zeros((4, 1), np.float32), env.action_space
    minari_writes("pendulum/x-v0", samples, None, env, actions, box)
    assert load_dataset("minari/pendulum/x-v0").task == "Pendulum-v1"
    minari_writes("pendulum/y-v0", np.zeros((5, 7), np.float32), spaces.Box(-9, 9, (7,)), env, actions, box)
    with pytest.warns(UserWarning, match="observations have 3 entries, the data's 7"):
        assert load_dataset("minari/pendulum/y-v0").task == ""
    with pytest.raises(PrefenvsError, match="not of task 'Pendulum-v1'"):
        load_dataset("minari/pendulum/y-v0", task="Pendulum-v1")


def test_pictures_alone_become_a_recording() -> None:
    pictures = np.broadcast_to(40 * np.arange(5, dtype=np.uint8)[:, None, None, None], (5, 8, 8, 3)).copy()
    minari_writes("pictures/x-v0", pictures, spaces.Box(0, 255, (8, 8, 3), np.uint8))
    data = load_dataset("minari/pictures/x-v0").trajectories
    assert (data.task, data.observations.shape[1]) == ("recorded:pictures/x-v0", 0)
    episode = data.episode(0)
    assert np.abs(frames(episode, size=8)[:, 4, 4, 0].astype(int) - 40 * np.arange(len(episode))).max() <= 2


def test_names_that_are_not_here_are_asked_for(monkeypatch, make_dataset, assert_same) -> None:
    write_minari(make_dataset(), "minari/reach/mixed-v0")

    def offline(name):
        raise ConnectionError(f"no network\nwhile looking for {name}")

    monkeypatch.setattr(minari, "download_dataset", offline)
    message = r"'reach/mixd-v0' is not here, and cannot be downloaded \(no network\). Did you mean reach/mixed-v0"
    with pytest.raises(PrefenvsError, match=message) as caught:
        load_dataset("minari/reach/mixd-v0")
    assert "\n" not in str(caught.value)

    def online(name):
        write_minari(make_dataset(seed=5), f"minari/{name}")

    monkeypatch.setattr(minari, "download_dataset", online)
    assert_same(load_dataset("minari/far/away-v1"), make_dataset(seed=5))


def test_damaged_folders_are_refused(tmp_path, make_dataset) -> None:
    folder = write_minari(make_dataset(), tmp_path / "data-v0")
    (folder / "data" / "main_data.hdf5").unlink()
    with pytest.raises(PrefenvsError, match=r"is no Minari data set: .*No data found") as caught:
        read_minari(folder)
    assert "\n" not in str(caught.value)
    (folder / "data" / "metadata.json").write_text("{")
    with pytest.raises(PrefenvsError, match="is no Minari data set"):
        load_dataset(folder)
