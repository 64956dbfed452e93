"""The common form of fixed data: transitions, scores, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefenvs import PrefenvsError, Trajectories
from prefenvs.datasets import OfflineDataset, load_dataset, write_imitation, write_npz
from prefenvs.datasets.formats.flat import episode_ends, time_limits

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=30)


def make_trajectories(lengths=(4, 1, 3), terminated=(True, False, False), final=True, **fields):
    steps = sum(lengths)
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.standard_normal((steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "ends": np.cumsum(lengths),
        "true_rewards": rng.standard_normal(steps),
        "terminated": np.array(terminated),
        "final_observations": rng.standard_normal((len(lengths), 3)).astype(np.float32) if final else None,
    }
    return Trajectories(**arrays | fields)


def d4rl_loop(observations, terminals, timeouts):
    """D4RL's conversion as it is published: one step at a time."""
    rows, following = [], []
    for i in range(len(observations) - 1):
        if timeouts[i]:
            continue
        rows.append(i)
        following.append(observations[i + 1])
    return rows, following, [bool(terminals[i]) for i in rows]


@given(FLAGS)
def test_transitions_of_flagged_data_are_those_of_d4rl(flags) -> None:
    terminals, timeouts = np.array(flags).T
    # D4RL drops a step that is both, where the task's own end is known; elsewhere the rules are the same.
    timeouts = timeouts & ~terminals
    ends = episode_ends(terminals, timeouts)
    observations = np.arange(len(flags), dtype=np.float32)[:, None]
    data = Trajectories(observations, observations, ends, terminated=terminals[ends - 1])
    dataset = OfflineDataset("x", data, terminals, timeouts)
    rows, following, done = d4rl_loop(observations, terminals, timeouts)
    assert dataset.qlearning_rows().tolist() == rows
    assert OfflineDataset("x", data).qlearning_rows().tolist() == rows
    kept = rows + ([len(flags) - 1] if terminals[-1] else [])
    if not kept:
        with pytest.raises(PrefenvsError, match="no transition"):
            dataset.transitions()
        return
    transitions = dataset.transitions()
    assert transitions.rows.tolist() == kept
    np.testing.assert_array_equal(transitions.observations, observations[kept])
    goes_on = transitions.terminals[: len(rows)] == 0
    expected = np.reshape(following, (-1, 1))
    np.testing.assert_array_equal(transitions.next_observations[: len(rows)][goes_on], expected[goes_on])
    assert transitions.terminals[: len(rows)].tolist() == done


def test_final_observations_keep_every_transition_and_no_copy_is_made() -> None:
    data = make_trajectories()
    transitions = OfflineDataset("x", data).transitions()
    assert transitions.rows.tolist() == list(range(8))
    assert transitions.terminals.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(transitions.next_observations[[3, 4, 7]], data.final_observations)
    np.testing.assert_array_equal(transitions.next_observations[[0, 1, 2, 5, 6]], data.observations[[1, 2, 3, 6, 7]])
    assert np.shares_memory(transitions.observations, data.observations)
    assert transitions.true_rewards.dtype == transitions.terminals.dtype == np.float32


def test_without_them_only_time_limits_lose_their_last_step() -> None:
    transitions = OfflineDataset("x", make_trajectories(final=False, true_rewards=None)).transitions()
    assert transitions.rows.tolist() == [0, 1, 2, 3, 5, 6]
    assert transitions.terminals.tolist() == [0, 0, 0, 1, 0, 0]
    assert transitions.true_rewards is None


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 6))
def test_time_limits_count_as_d4rl_does(terminals, horizon) -> None:
    expected, counter = [], 0
    for terminal in terminals:
        final = counter == horizon - 1
        expected.append(final)
        counter = 0 if terminal or final else counter + 1
    assert time_limits(np.array(terminals), horizon).tolist() == expected


def test_normalised_score() -> None:
    data = make_trajectories()
    dataset = OfflineDataset("x", data, reference_scores=(-10.0, 40.0))
    np.testing.assert_allclose(dataset.normalised_score([-10.0, 15.0, 40.0]), [0.0, 50.0, 100.0])
    with pytest.raises(PrefenvsError, match="no reference scores"):
        OfflineDataset("x", data).normalised_score(1.0)


@pytest.mark.parametrize("column", ["observations", "actions", "true_rewards", "final_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_named(column, value) -> None:
    data = make_trajectories()
    getattr(data, column)[1, ...] = value
    with pytest.raises(PrefenvsError, match=rf"{column} of data set 'x' hold a NaN .* row 1;"):
        OfflineDataset("x", data)


def test_values_whose_sum_overflows_are_finite() -> None:
    OfflineDataset("x", make_trajectories(states=np.full((8, 2), 1e308)))
    with pytest.raises(PrefenvsError, match=r"true_rewards .* infinite"):
        # Learners compute in float32, where these have no value.
        OfflineDataset("x", make_trajectories(true_rewards=np.full(8, 1e308)))


def test_a_data_set_needs_an_episode_and_flags_for_each_step() -> None:
    empty = Trajectories(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, np.int64))
    with pytest.raises(PrefenvsError, match="no finished episode"):
        OfflineDataset("x", empty)
    with pytest.raises(PrefenvsError, match="terminals"):
        OfflineDataset("x", make_trajectories(), terminals=np.zeros(3, bool))
    with pytest.raises(PrefenvsError, match="2 policies for 3 episodes"):
        OfflineDataset("x", make_trajectories(), policies=np.array(["a", "b"]))


def test_data_of_another_task_are_refused(tmp_path) -> None:
    write_npz(OfflineDataset("x", make_trajectories()), tmp_path / "data")
    with pytest.raises(PrefenvsError, match=r"not of task 'HalfCheetah-v5': its observations have 17 .* data's 3"):
        load_dataset(tmp_path / "data", task="HalfCheetah-v5")
    with pytest.raises(PrefenvsError, match=r"its actions have 1 .* the data's 2"):
        load_dataset(tmp_path / "data", task="Pendulum-v1")
    with pytest.raises(PrefenvsError, match="Did you mean HalfCheetah-v5"):
        load_dataset(tmp_path / "data", task="HalfCheeta-v5")


def test_imitation_folders_are_recognised(tmp_path) -> None:
    pytest.importorskip("datasets")
    data = make_trajectories()
    write_imitation(data, tmp_path / "episodes")
    dataset = load_dataset(tmp_path / "episodes")
    np.testing.assert_array_equal(dataset.trajectories.observations, data.observations)
    np.testing.assert_array_equal(dataset.trajectories.final_observations, data.final_observations)
    assert dataset.trajectories.terminated.tolist() == [True, False, False]
    assert len(dataset.transitions().rows) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("halfcheetah-medum-v2", "Did you mean d4rl/halfcheetah-medium-v2"),
        ("d4rl/hopper-mediun-v2", "no data set 'hopper-mediun-v2'. Did you mean hopper-medium-v2"),
        ("nowhere.hdf5", "there is no file nowhere.hdf5"),
        ("", "holds no data set"),
    ],
)
def test_names_that_lead_nowhere(name, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrefenvsError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)
