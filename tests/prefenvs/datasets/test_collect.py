"""Collected data: mixtures, seeds, what is kept when stopped, and pictures of what was stored."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.cli import main
from prefenvs.datasets import CollectionPlan, Source, collect, load_dataset, parse_mix, write_minari
from prefenvs.datasets.collecting import count_episodes
from prefenvs.datasets.sources import ScriptedPolicy, load_source
from prefenvs.runs import Run
from prefenvs.videos import Recorder

COLUMNS = ("observations", "actions", "true_rewards", "states", "ends", "terminated", "final_observations")
PENDULUM = CollectionPlan("InvertedPendulum-v5", (Source("random", 0.0, 0.0, 6), Source("random", 0.5, 0.5, 3)), seed=4)


def assert_equal(ours, theirs):
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(ours.trajectories, name), getattr(theirs.trajectories, name), name)
    assert ours.policies.tolist() == theirs.policies.tolist()


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory):
    return collect(PENDULUM, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def drawer(tmp_path_factory):
    pytest.importorskip("metaworld")
    plan = CollectionPlan("metaworld-drawer-open-v3", (Source("scripted", 0.1, 0.0, 1),), after_success=5)
    return collect(plan, tmp_path_factory.mktemp("drawer"))


def test_mixtures_are_read() -> None:
    sources = parse_mix(["scripted:0.3=50", "scripted:.5:0.1=2", "random=20", "runs/a=b:2=3", "C:/x=1"])
    assert sources == (
        Source("scripted", 0.3, 0.0, 50),
        Source("scripted", 0.5, 0.1, 2),
        Source("random", 0.0, 0.0, 20),
        Source("runs/a=b", 2.0, 0.0, 3),
        Source("C:/x", 0.0, 0.0, 1),
    )
    assert [source.label for source in sources[:3]] == ["scripted:0.3", "scripted:0.5:0.1", "random"]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any), st.integers(1, 200))
def test_shares_add_up(amounts, episodes) -> None:
    sources = parse_mix([f"random={amount}" for amount in amounts], episodes)
    counts = np.array([source.episodes for source in sources])
    assert counts.sum() == episodes
    assert np.all(np.abs(counts - np.array(amounts) * episodes / sum(amounts)) < 1)


@pytest.mark.parametrize(
    ("mix", "episodes", "message"),
    [
        (["scripted"], None, "cannot read 'scripted'"),
        (["random=0"], None, "no episodes"),
        (["random=0.5"], None, "no whole number"),
        (["random:0:1.5=3"], None, "lie in 0 to 1"),
        (["random=1"], 0, "at least 1 episode"),
    ],
)
def test_mixtures_that_make_no_sense(mix, episodes, message) -> None:
    with pytest.raises(PrefenvsError, match=message):
        parse_mix(mix, episodes)


def test_policies_that_are_not_there() -> None:
    source = parse_mix(["scripted:high=3"])[0]
    with pytest.raises(PrefenvsError, match="no policy 'scripted:high'"):
        load_source(source, prefenvs.find_task("Pendulum-v1"), gymnasium.spaces.Discrete(2), 0)


def test_episodes_hold_what_happened(pendulum) -> None:
    data = pendulum.trajectories
    assert sorted(pendulum.policies.tolist()) == ["random"] * 6 + ["random:0.5:0.5"] * 3
    assert pendulum.successes is None
    assert data.terminated.all()
    env = prefenvs.make("InvertedPendulum-v5")
    env.reset(seed=0)
    for episode in range(len(data)):
        begin, end = data.begins[episode], data.ends[episode]
        env.restore(data.states[begin])
        env.unwrapped.data.qacc_warmstart[:] = 0
        for i in range(begin, end):
            following, _, _, _, info = env.step(data.actions[i])
            expected = data.observations[i + 1] if i + 1 < end else data.final_observations[episode]
            np.testing.assert_allclose(following, expected, atol=1e-4)
            assert info["true_reward"] == pytest.approx(data.true_rewards[i])
    env.close()
    assert len(np.unique(data.observations[data.begins], axis=0)) == len(data)


def test_a_stopped_collection_goes_on_to_the_same_data(pendulum, tmp_path) -> None:
    seen = []

    def stop(episode) -> None:
        seen.append(episode)
        if len(seen) in (2, 5):
            raise KeyboardInterrupt

    for kept in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            collect(PENDULUM, tmp_path, progress=stop)
        assert count_episodes(tmp_path) == kept
    assert_equal(collect(PENDULUM, tmp_path, progress=stop), pendulum)
    assert len(seen) == 9
    # All is there: nothing is played again.
    assert_equal(collect(PENDULUM, tmp_path, progress=stop), pendulum)
    assert len(seen) == 9
    next(tmp_path.glob("*.npz")).write_bytes(b"x")
    with pytest.raises(PrefenvsError, match="damaged"):
        collect(PENDULUM, tmp_path)


def test_worker_processes_make_the_same_data(pendulum, tmp_path) -> None:
    assert_equal(collect(PENDULUM, tmp_path, workers=2), pendulum)


def test_noise_and_random_actions_have_the_size_asked_for(tmp_path) -> None:
    class Still:
        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros((len(observation), 1), np.float32), None

    # The pendulum's torque lies in -2 to 2, so that noise of 0.1 means 0.2.
    plan = CollectionPlan("Pendulum-v1", (Source("still", 0.1, 0.0, 5), Source("still", 0.0, 0.25, 5)))
    data = collect(plan, tmp_path, load=lambda *_: Still())
    actions = data.trajectories.actions.ravel()
    noisy = np.repeat(data.policies == "still:0.1", 200)
    assert np.std(actions[noisy]) == pytest.approx(0.2, rel=0.1)
    random = actions[~noisy]
    assert np.mean(random != 0) == pytest.approx(0.25, abs=0.05)
    assert np.abs(random).max() > 1.9
    with pytest.raises(PrefenvsError, match="noise needs continuous actions"):
        collect(CollectionPlan("Delivery-v0", (Source("random", 0.1, 0.0, 1),)), tmp_path / "other")


def test_discrete_actions_are_one_hot(tmp_path) -> None:
    data = collect(CollectionPlan("Delivery-v0", (Source("random", 0.0, 0.5, 2),)), tmp_path).trajectories
    env = prefenvs.make("Delivery-v0")
    assert data.actions.shape[1] == env.action_space.n
    np.testing.assert_array_equal(data.actions.sum(axis=1), 1.0)


def test_scripted_episodes_succeed_and_end_soon_after(drawer) -> None:
    data = drawer.trajectories
    assert drawer.successes.tolist() == [1.0]
    assert 20 < data.lengths[0] < 300
    assert data.terminated.tolist() == [False]
    env = prefenvs.make(data.task)
    env.reset(seed=0)
    env.restore(data.states[-1], data.scenes[0])
    env.close()
    assert np.abs(data.actions).max() <= 1.0
    with pytest.raises(PrefenvsError, match="has no scripted policy"):
        ScriptedPolicy(prefenvs.find_task("HalfCheetah-v5"))
    with pytest.raises(PrefenvsError, match="tells no success"):
        CollectionPlan("HalfCheetah-v5", (Source("random", episodes=1),), after_success=3)


def test_a_segment_out_of_minari_looks_as_it_did_live(drawer, tmp_path) -> None:
    """One episode, to a file and back: its pictures are those that the environment gave, pixel for pixel."""
    write_minari(drawer, tmp_path / "drawer-v0")
    dataset = load_dataset(tmp_path / "drawer-v0")
    segment = dataset.trajectories.sample(1, 10, np.random.default_rng(0))[0]
    data = drawer.trajectories
    try:
        env = prefenvs.make(data.task, render_mode="rgb_array")
        observation, _ = env.reset(seed=int(np.random.SeedSequence([0, 0]).spawn(2)[0].generate_state(1)[0] >> 1))
        np.testing.assert_array_equal(observation, data.observations[0])
        live = []
        for i in range(segment.start + 10):
            if i in (segment.start, segment.start + 9):
                live.append(env.render())
            env.step(data.actions[i])
        env.close()
        with Recorder(data.task, live[0].shape[0], progress=False) as recorder:
            frames = recorder.frames(segment, [0, 9])
    except PrefenvsError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(frames, np.stack(live))
    assert np.any(frames[0] != frames[1])


@pytest.mark.parametrize("algorithm", [SAC, PPO])
def test_saved_models_act(algorithm, tmp_path) -> None:
    model = algorithm("MlpPolicy", prefenvs.make("Pendulum-v1"), seed=0, device="cpu")
    model.save(tmp_path / "model.zip")
    main(
        [
            "collect", "Pendulum-v1", "--mix", f"{tmp_path / 'model.zip'}=2", "random=1", "--out", str(tmp_path / "d"),
            "--format", "npz", "--no-progress",
        ]
    )  # fmt: skip
    data = load_dataset(tmp_path / "d")
    played = np.flatnonzero(data.policies != "random")
    assert len(played) == 2
    rows = slice(data.trajectories.begins[played[0]], data.trajectories.ends[played[0]])
    expected, _ = model.predict(data.trajectories.observations[rows], deterministic=True)
    np.testing.assert_allclose(data.trajectories.actions[rows], expected, atol=1e-5)


def test_what_a_policy_was_trained_to_see_is_what_it_sees(tmp_path) -> None:
    """As in an evaluation: one whose normalisation is lost would act at random, and one of another task fail."""
    venv = VecNormalize(DummyVecEnv([lambda: prefenvs.make("InvertedPendulum-v5")]))
    lost, other = tmp_path / "lost.zip", tmp_path / "other.zip"
    PPO("MlpPolicy", venv, n_steps=8, batch_size=8, n_epochs=1, device="cpu").learn(8).save(lost)
    PPO("MlpPolicy", prefenvs.make("Pendulum-v1"), device="cpu").save(other)
    for path, message in ((lost, "trained behind a VecNormalize"), (other, "trained with the observation space")):
        with pytest.raises(PrefenvsError, match=message):
            collect(CollectionPlan("InvertedPendulum-v5", (Source(str(path), episodes=1),)), tmp_path / path.stem)


def test_a_folder_takes_the_episodes_of_one_plan(tmp_path) -> None:
    plan = CollectionPlan("InvertedPendulum-v5", (Source("random", episodes=2),))
    data = collect(plan, tmp_path)
    assert load_dataset(tmp_path).task == plan.task
    with pytest.raises(PrefenvsError, match="holds episodes of seed=0, not 1: choose another folder"):
        collect(replace(plan, seed=1), tmp_path)
    assert_equal(collect(plan, tmp_path), data)


def die(source, task, action_space, seed):
    class Dies:
        def predict(self, *_, **__):
            os._exit(3)

    return Dies()


def test_a_worker_that_dies_is_told_in_one_line(tmp_path) -> None:
    with pytest.raises(PrefenvsError, match="a process that plays episodes has died"):
        collect(PENDULUM, tmp_path, load=die, workers=2)


def test_the_command_writes_prints_and_goes_on(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["collect", "InvertedPendulum-v5", "--mix", "random=1", "random:0:0.5=1", "--episodes", "6"]

    class Stop:
        count = 0

        def __call__(self, episode) -> None:
            self.count += 1
            if self.count == 2:
                raise KeyboardInterrupt

    import prefenvs.cli.collect as command

    whole, stop = command.collect, Stop()
    monkeypatch.setattr(command, "collect", lambda *args, **kwargs: whole(*args, **kwargs | {"progress": stop}))
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", "here"])
    assert caught.value.code == 130
    out = capsys.readouterr().out
    assert "2 of 6 episodes are kept" in out
    assert "prefenvs collect --resume here" in out
    with pytest.raises(SystemExit):
        main([*arguments, "--out", "here"])
    assert "go on with --resume here" in capsys.readouterr().err
    monkeypatch.setattr(command, "collect", whole)
    main(["collect", "--resume", "here"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["source", "episodes"]
    assert {line.split()[0]: line.split()[1] for line in lines[1:-1]} == {
        "random": "3",
        "random:0:0.5": "3",
        "all": "6",
    }
    dataset = load_dataset("here")
    assert (dataset.task, len(dataset)) == ("InvertedPendulum-v5", 6)
    summary = json.loads((tmp_path / "here" / "summary.json").read_text())
    assert summary["all"]["mean_return"] == pytest.approx(dataset.trajectories.returns.mean())
    assert json.loads((tmp_path / "here" / "run.json").read_text())["config"]["seed"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    main([*arguments, "--out", "again", "--no-progress"])
    assert_equal(load_dataset("again"), dataset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Pendulum-v1", "--mix", "scripted=1"], "has no scripted policy"),
        (["Pendulum-v1", "--mix", "nowhere=1"], "there is no policy 'nowhere'"),
        (["Pendulum-v9"], "unknown task"),
        (["Pendulum-v1", "--out", "minari/x"], "a version at the end"),
        (["Pendulum-v1", "--out", "minari/x-v0", "--format", "npz"], "Minari name"),
        (["Pendulum-v1", "--after-success", "3"], "tells no success"),
        (["CartPole-v1", "--mix", "random:0.3=1"], "noise needs continuous actions"),
        (["--resume", "nowhere"], "not a run folder"),
        (["--resume", "nowhere", "--episodes", "9"], "--episodes comes from the collection that --resume continues"),
        (["Pendulum-v1", "--mix", "model.zip=1"], "no saved model"),
        (["Pendulum-v1", "--workers", "0", "--out", "w"], "--workers must be at least 1"),
    ],
)
def test_bad_commands_are_refused_in_one_line_and_leave_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "root"))
    (tmp_path / "model.zip").write_bytes(b"x")
    with pytest.raises(SystemExit) as caught:
        main(["collect", *arguments, "--no-progress"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path for path in tmp_path.rglob("*") if path.name not in ("model.zip", "root")] == []


def test_runs_act_in_their_own_task(tmp_path, capsys) -> None:
    """A run folder as `prefenvs train` leaves it, here with an untrained agent."""
    model = make_dqn("Delivery-v0", DQNConfig(buffer_size=10))
    run = Run.create(tmp_path / "run", "train dqn", {"task": "Delivery-v0"})
    run.checkpoint.mkdir()
    model.save(run.checkpoint / "model.zip")
    arguments = ["--mix", f"{run.folder}:0:0.2=2", "--no-progress", "--out", str(tmp_path / "d")]
    main(["collect", "Delivery-v0", *arguments])
    dataset = load_dataset(tmp_path / "d")
    assert dataset.policies.tolist() == [f"{run.folder}:0:0.2"] * 2
    chosen, _ = model.predict(dataset.trajectories.observations, deterministic=True)
    assert np.mean(dataset.trajectories.actions.argmax(1) == chosen) > 0.6
    with pytest.raises(SystemExit):
        main(["collect", "Pendulum-v1", "--mix", f"{run.folder}=1", "--out", str(tmp_path / "e")])
    assert "is of task 'Delivery-v0', not of 'Pendulum-v1'" in capsys.readouterr().err
