"""D4RL's files: layouts, ends of episodes, names, and what is refused."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.agents import BC
from prefenvs.bench.cells import Cell
from prefenvs.bench.results import _d4rl_score
from prefenvs.cli import main
from prefenvs.datasets import find_d4rl, load_d4rl, load_dataset, read_d4rl, write_npz
from prefenvs.datasets.d4rl.entries import LOCOMOTION, TASKS, d4rl_entries
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.tasks import find_task
from prefenvs.videos import Recorder

h5py = pytest.importorskip("h5py")


def make_arrays(steps=40, observations=11, actions=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.standard_normal((steps, observations)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
        "rewards": rng.standard_normal(steps).astype(np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % 10 == 9,
    }


def write(path, arrays, under=""):
    with h5py.File(path, "a") as file:
        for name, array in arrays.items():
            if array is not None:
                file[under + name] = array
    return path


def test_episodes_end_at_terminals_and_at_timeouts(tmp_path) -> None:
    arrays = make_arrays()
    arrays["terminals"][[3, 25]] = True
    dataset = read_d4rl(write(tmp_path / "hopper-medium-v0.hdf5", arrays))
    data = dataset.trajectories
    assert data.ends.tolist() == [4, 10, 20, 26, 30, 40]
    assert data.terminated.tolist() == [True, False, False, True, False, False]
    assert (dataset.name, data.task, data.source) == ("d4rl/hopper-medium-v0", "Hopper-v5", "d4rl/hopper-medium-v0")
    np.testing.assert_array_equal(data.observations, arrays["observations"])
    np.testing.assert_array_equal(data.true_rewards, arrays["rewards"])
    assert data.final_observations is None
    assert dataset.transitions().rows.tolist() == [i for i in range(40) if i not in (9, 19, 29, 39)]
    np.testing.assert_allclose(dataset.normalised_score([-20.272305, 3234.3]), [0, 100])


def test_next_observations_end_the_episodes(tmp_path) -> None:
    arrays = make_arrays()
    arrays["next_observations"] = arrays["observations"] + 1
    dataset = read_d4rl(write(tmp_path / "hopper-medium-v2.hdf5", arrays))
    np.testing.assert_array_equal(dataset.trajectories.final_observations, arrays["observations"][9::10] + 1)
    assert len(dataset.transitions().rows) == 40
    assert len(dataset.qlearning_rows()) == 36


def test_parts_are_joined_in_the_order_of_their_numbers_and_columns_squeezed(tmp_path) -> None:
    parts = [make_arrays(20, seed=i) for i in range(11)]
    for i, part in enumerate(parts):
        part["rewards"], part["terminals"] = part["rewards"][:, None], part["terminals"][:, None]
        part["next_observations"] = part["observations"] + i
        write(tmp_path / "x.hdf5", part, f"virtual/{i}/")
    data = load_dataset(tmp_path / "x.hdf5").trajectories
    expected = np.concatenate([part["observations"] for part in parts])
    np.testing.assert_array_equal(data.observations, expected)
    np.testing.assert_array_equal(data.true_rewards, np.concatenate([part["rewards"][:, 0] for part in parts]))
    np.testing.assert_allclose(data.final_observations, (expected + np.repeat(np.arange(11), 20)[:, None])[9::10])
    assert len(data) == 22


@pytest.mark.parametrize(
    ("name", "horizon"), [("pen-human-v0", 100), ("antmaze-umaze-v0", 700), ("kitchen-mixed-v0", 280)]
)
def test_files_without_timeouts_are_cut_by_the_time_limit(tmp_path, name, horizon) -> None:
    arrays = make_arrays(1500, 45, 24) | {"timeouts": None}
    arrays["terminals"][50] = True
    data = read_d4rl(write(tmp_path / f"{name}.hdf5", arrays), task="", split_at_goals=False).trajectories
    assert data.ends[:3].tolist() == [51, 51 + horizon, 51 + 2 * horizon]
    path = write(tmp_path / "unknown.hdf5", arrays)
    with pytest.raises(PrefenvsError, match="no known time limit: pass horizon"):
        read_d4rl(path)
    assert read_d4rl(path, horizon=700).trajectories.ends.tolist() == [51, 751, 1451, 1500]
    assert read_d4rl(path, task="AdroitHandPen-v1").trajectories.ends[:2].tolist() == [51, 251]


def test_mazes_go_on_at_the_goal_until_it_moves_or_the_ant_does(tmp_path) -> None:
    arrays = make_arrays(40, 29, 8) | {"timeouts": np.arange(40) == 29}
    arrays["observations"][:, :2] = 0.1 * np.arange(40)[:, None]
    arrays["observations"][16:, :2] += 5.0
    arrays["terminals"][[5, 6, 7, 15]] = True
    goals = np.zeros((40, 2))
    goals[20:] = 1.0
    path = write(tmp_path / "antmaze-medium-play-v2.hdf5", arrays | {"infos/goal": goals})
    dataset = load_dataset(path)
    # At the goal in steps 5 to 7 and there still; put elsewhere after step 15; a new goal at 20; a time-out at 29.
    assert dataset.trajectories.ends.tolist() == [16, 20, 30, 40]
    transitions = dataset.transitions()
    assert transitions.rows[transitions.terminals == 1].tolist() == [5, 6, 7, 15]
    assert transitions.rows.tolist() == [i for i in range(40) if i not in (19, 29, 39)]
    assert dataset.qlearning_rows().tolist() == [i for i in range(39) if i != 29]
    whole = read_d4rl(path, split_at_goals=False)
    assert whole.trajectories.ends.tolist() == [6, 7, 8, 16, 30, 40]
    assert dataset.task == ""


def walk(task_id, steps=60):
    """What D4RL's recorder kept of a locomotion task: positions and velocities beside each observation."""
    env = prefenvs.make(task_id)
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    rows = {name: [] for name in ("observations", "actions", "rewards", "infos/qpos", "infos/qvel")}
    for _ in range(steps):
        action = env.action_space.sample()
        data = env.unwrapped.data
        values = (observation, action, 0.0, data.qpos.copy(), data.qvel.copy())
        for column, value in zip(rows.values(), values, strict=True):
            column.append(value)
        observation = env.step(action)[0]
    env.close()
    arrays = {name: np.array(column, np.float32) for name, column in rows.items()}
    return arrays | {"terminals": np.zeros(steps, bool), "timeouts": np.arange(steps) % 20 == 19}


@pytest.mark.parametrize("task", LOCOMOTION)
def test_positions_and_velocities_become_states_that_give_the_observations(tmp_path, task) -> None:
    name = next(key for key, value in TASKS.items() if value == task)
    arrays = walk(task)
    dataset = load_dataset(write(tmp_path / f"{name}-random-v2.hdf5", arrays))
    states = dataset.trajectories.states
    assert states is not None
    env = prefenvs.make(task)
    env.reset(seed=1)
    for i in (0, 17, 59):
        env.restore(states[i])
        seen = env.unwrapped._get_obs()
        np.testing.assert_allclose(seen, arrays["observations"][i], atol=1e-4)
    env.close()
    # The clock starts anew with each episode.
    assert states[[0, 20, 40], 0].tolist() == [0.0, 0.0, 0.0]
    # States that lag one step behind the observations are no states of theirs.
    arrays["infos/qpos"] = np.roll(arrays["infos/qpos"], 1, axis=0)
    (tmp_path / "late").mkdir()
    late = load_dataset(write(tmp_path / "late" / f"{name}-random-v2.hdf5", arrays))
    assert late.trajectories.states is None


def test_a_segment_of_such_a_file_can_be_rendered(tmp_path) -> None:
    dataset = load_dataset(write(tmp_path / "halfcheetah-random-v2.hdf5", walk("HalfCheetah-v5")))
    segment = dataset.trajectories.sample(1, 10, np.random.default_rng(0))[0]
    try:
        with Recorder(dataset.task, 64, progress=False) as recorder:
            frames = recorder.frames(segment, [0, 9])
    except PrefenvsError as error:
        pytest.skip(str(error))
    assert frames.shape == (2, 64, 64, 3)
    assert np.any(frames[0] != frames[1])


def test_reading_takes_little_more_memory_than_the_arrays(tmp_path) -> None:
    arrays = make_arrays(200_000)
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0).astype(np.float64)
    arrays["observations"] = arrays["observations"].astype(np.float64)
    arrays["infos/qpos"] = np.pad(arrays["observations"][:, :5], ((0, 0), (1, 0)))
    arrays["infos/qvel"] = arrays["observations"][:, 5:]
    path = write(tmp_path / "hopper-medium-v2.hdf5", arrays)
    tracemalloc.start()
    try:
        data = read_d4rl(path).trajectories
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    columns = ("observations", "actions", "true_rewards", "final_observations", "states")
    assert peak < 1.2 * sum(getattr(data, name).nbytes for name in columns)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": None}, "no 'rewards', only actions, observations"),
        ({"observations": np.zeros((0, 11))}, "holds no steps"),
        ({"observations": np.zeros((40, 4, 4))}, r"observations in .* have shape \(40, 4, 4\)"),
        ({"actions": np.zeros(40)}, r"actions in .* have shape \(40,\)"),
        ({"actions": np.zeros((39, 3))}, "40 observations, but 39 actions"),
        ({"rewards": np.full(40, np.nan)}, "true_rewards of data set .* NaN .* row 0"),
        ({"observations": np.zeros((40, 17))}, "not of task 'Hopper-v5': its observations have 11 entries, .* 17"),
        ({"actions": np.zeros((40, 6))}, "not of task 'Hopper-v5': its actions have 3 entries, .* 6"),
        ({"next_observations": np.zeros((40, 5))}, "next_observations in .* unlike"),
        ({"rewards": np.array([b"a"] * 40)}, "expected numbers"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path, change, message) -> None:
    path = write(tmp_path / "hopper-medium-v2.hdf5", make_arrays() | change)
    with pytest.raises(PrefenvsError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_hdf5_are_refused(tmp_path) -> None:
    path = tmp_path / "hopper-medium-v2.hdf5"
    path.write_bytes(b"<html>404 Not Found</html>")
    with pytest.raises(PrefenvsError, match="is not an HDF5 file") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)
    good = write(tmp_path / "good.hdf5", make_arrays(2000))
    path.write_bytes(good.read_bytes()[:4000])
    with pytest.raises(PrefenvsError, match="is not an HDF5 file, or is damaged"):
        load_dataset(path)
    (tmp_path / "virtual.hdf5").unlink(missing_ok=True)
    write(tmp_path / "virtual.hdf5", make_arrays() | {"actions": None}, "virtual/0/")
    with pytest.raises(PrefenvsError, match="/virtual/0 has no 'actions'"):
        load_dataset(tmp_path / "virtual.hdf5")


def test_names_lead_to_files_scores_and_tasks(tmp_path, monkeypatch) -> None:
    entry = find_d4rl("d4rl/halfcheetah-medium-v2")
    assert entry.file == "halfcheetah_medium-v2.hdf5"
    assert entry.scores == pytest.approx((-280.178953, 12135.0))
    assert find_d4rl("antmaze-umaze-v2").task == find_d4rl("ant-medium-v2").task == ""
    assert find_d4rl("maze2d-eval-umaze-v1").scores is None
    assert len(d4rl_entries()) == 155
    for known in d4rl_entries().values():
        assert known.address.startswith("http")
        assert known.scores is None or known.scores[0] < known.scores[1]
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    write(tmp_path / entry.file, make_arrays(40, 17, 6))
    for dataset in (load_dataset("d4rl/halfcheetah-medium-v2"), load_d4rl("halfcheetah-medium-v2")):
        assert dataset.task == "HalfCheetah-v5"
        assert dataset.reference_scores == entry.scores


def test_every_name_with_a_task_is_evaluated_over_d4rls_horizon() -> None:
    """D4RL's registered limits: 1000 steps of locomotion, 100 of the pen, 200 of the other hands."""
    entries = [entry for entry in d4rl_entries().values() if entry.task]
    assert {entry.name.split("-")[0] for entry in entries} == set(TASKS)
    for entry in entries:
        body = entry.name.split("-")[0]
        assert entry.horizon == {"pen": 100, "door": 200, "hammer": 200, "relocate": 200}.get(body, 1000), entry.name
        assert find_task(entry.task).horizon == entry.horizon, entry.name
        assert bool(entry.differs) == (body in ("hopper", "walker2d")), entry.name


@pytest.mark.parametrize(("hand", "tolerance"), [("door", 2.0), ("hammer", 12.0)])
def test_random_actions_earn_what_d4rl_publishes_of_them(hand, tolerance) -> None:
    """Gymnasium-Robotics' own rewards are 11 and 8 above it: there distance from the handle or the hammer pays."""
    task, published = f"d4rl-{hand}-v1", find_d4rl(f"{hand}-human-v1").scores[0]
    env = prefenvs.make(task)
    assert evaluate(random_policy(env.action_space), task, episodes=3).mean_return == pytest.approx(
        published, abs=tolerance
    )
    env.close()


@pytest.mark.parametrize(
    ("hand", "palm", "goal"),
    [("door", "S_grasp", "S_handle"), ("hammer", "S_grasp", "Object"), ("relocate", "S_grasp", "Object")],
)
def test_the_hand_is_paid_for_coming_near(hand, palm, goal) -> None:
    """From positions in the simulator: as soon as Gymnasium-Robotics changes the sign, the wrapper has to go."""
    rewards = []
    for task in (f"d4rl-{hand}-v1", f"AdroitHand{hand.title()}-v1"):
        env = prefenvs.make(task)
        env.reset(seed=3)
        rewards.append(env.step(np.zeros(env.action_space.shape, np.float32))[4]["true_reward"])
        data = env.unwrapped.data
        there = data.site(goal).xpos if goal.startswith("S_") else data.body(goal).xpos
        distance = np.linalg.norm(data.site(palm).xpos - there)
        env.close()
    assert distance > 0.1
    assert rewards[1] - rewards[0] == pytest.approx(0.2 * distance, abs=1e-9)


def test_a_dropped_pen_ends_the_episode() -> None:
    env = prefenvs.make("d4rl-pen-v1")
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        terminated = truncated = False
        while not (terminated or truncated):
            assert observation[26] >= 0.075
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert terminated == (observation[26] < 0.075)
    env.close()


@pytest.mark.parametrize("horizon", [None, 100, 500])
def test_evaluations_end_at_the_horizon(horizon) -> None:
    env = prefenvs.make("AdroitHandPen-v1")
    policy = random_policy(env.action_space)
    env.close()
    result = evaluate(policy, "AdroitHandPen-v1", episodes=2, num_envs=2, horizon=horizon)
    assert result.lengths.tolist() == [min(horizon or 200, 200)] * 2


def test_the_horizon_goes_with_the_data(tmp_path) -> None:
    path = tmp_path / "pen-human-v1.hdf5"
    write(path, make_arrays(40, 45, 24))
    dataset = load_dataset(path)
    assert (dataset.task, dataset.horizon, dataset.time_limit) == ("d4rl-pen-v1", 100, 100)
    assert load_dataset(path, task="AdroitHandPen-v1").time_limit == 100
    assert load_dataset(write_npz(dataset, tmp_path / "copy")).horizon == 100
    learner = BC(dataset, config=BC.config_type(hidden=(8,)), device="cpu")
    learner.save(tmp_path / "bc.zip")
    assert BC.load(tmp_path / "bc.zip").horizon == learner.horizon == 100


@pytest.mark.parametrize(("dataset", "steps", "scored"), [("pen-human-v1", 100, True), ("pen-human-v1", 200, False)])
def test_a_score_of_episodes_of_another_length_is_none(dataset, steps, scored) -> None:
    cell = Cell("bc", "d4rl-pen-v1", dataset=f"d4rl/{dataset}")
    assert np.isfinite(_d4rl_score(cell, 3076.8331017826877, steps)) == scored


@pytest.mark.parametrize(
    ("name", "task", "scored"),
    [("hopper-medium-v2", None, True), ("own", "Hopper-v5", False), ("hopper-medium-v2", "InvertedPendulum-v5", False)],
)
def test_training_tells_the_normalised_score_where_one_holds(name, task, scored, tmp_path, capsys) -> None:
    path, run = tmp_path / f"{name}.hdf5", tmp_path / "run"
    sizes = (4, 1) if task == "InvertedPendulum-v5" else (11, 3)
    write(path, make_arrays(60, *sizes))
    options = ["--preset", "small", "--steps", "2", "--evaluate-every", "2", "--episodes", "1", "--no-progress"]
    named = [] if task is None else ["--task", task]
    main(["train", "bc", "--dataset", str(path), *named, *options, "--folder", str(run)])
    summary = json.loads((run / "summary.json").read_text())
    assert ("normalised_score" in summary) == scored
    assert ("normalised score" in capsys.readouterr().out) == scored
    if scored:
        random, expert = find_d4rl(name).scores
        share = (summary["last"]["mean_return"] - random) / (expert - random)
        assert summary["normalised_score"] == pytest.approx(100 * share)
