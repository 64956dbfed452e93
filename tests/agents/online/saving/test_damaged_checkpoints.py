"""Files of a checkpoint that are cut off, overwritten or missing: one line that names the file and the way out."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import SubprocVecEnv

from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO, PrefPPOConfig, RewardConfig
from prefenvs.agents.runs.train import load_policy, train
from prefenvs.agents.variants.resets import ResetPEBBLE, ResetsConfig
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

from ...worlds import Point, Rater

SMALL = RewardConfig(width=8, layers=1, epochs=2)
FEEDBACK = {"labels": 10, "per_session": 5, "interact": 50, "segment_length": 8, "reward": SMALL}


def make_pebble() -> PEBBLE:
    config = PebbleConfig(**FEEDBACK, unsupervised_steps=30, reset_updates=2)
    sizes: dict[str, Any] = {"learning_starts": 30, "batch_size": 8, "buffer_size": 500}
    return PEBBLE("MlpPolicy", Point(), Rater(), config, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **sizes)


def make_prefppo() -> PrefPPO:
    config = PrefPPOConfig(**FEEDBACK, unsupervised_steps=50, unsupervised_epochs=1)
    sizes: dict[str, Any] = {"n_steps": 50, "batch_size": 25, "n_epochs": 1}
    return PrefPPO(
        "MlpPolicy", Point(), Rater(), config, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **sizes
    )


MAKERS: dict[str, Callable[[], Any]] = {"pebble": make_pebble, "prefppo": make_prefppo}
COMMON = ("model.zip", "reward.pt", "trajectories.npz", "state.json", "preferences.sqlite", "episodes.npz")
FILES = [("pebble", name) for name in (*COMMON, "replay.npz")]
FILES += [("prefppo", name) for name in (*COMMON, "states_seen.npy")]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    for name, make in MAKERS.items():
        agent = make()
        agent.learn(150)
        agent.save_checkpoint(folder / name)
    return folder


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(len(content)))
    else:
        path.write_bytes(content[: {"empty": 0, "cut": len(content) // 2}[how]])


def check_message(error: pytest.ExceptionInfo[PrefenvsError], name: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert name in message


@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "missing"])
@pytest.mark.parametrize(("algorithm", "name"), FILES)
def test_a_damaged_file_is_named(checkpoints: Path, tmp_path: Path, algorithm: str, name: str, how: str) -> None:
    folder = shutil.copytree(checkpoints / algorithm, tmp_path / "checkpoint")
    damage(folder / name, how)
    agent = MAKERS[algorithm]()
    with pytest.raises(PrefenvsError, match="anew") as error:
        agent.resume(folder)
    check_message(error, name)


@pytest.mark.parametrize("algorithm", MAKERS)
def test_every_file_of_a_checkpoint_is_tried(checkpoints: Path, algorithm: str) -> None:
    names = {path.name for path in (checkpoints / algorithm).iterdir()}
    assert names == {name for kind, name in FILES if kind == algorithm}


@pytest.mark.parametrize("change", [{"counters": {}}, {"feedback": {}}, {"state_entropy": None}, {"total_steps": "x"}])
def test_a_state_with_other_contents_is_named(checkpoints: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = shutil.copytree(checkpoints / "pebble", tmp_path / "checkpoint")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | change))
    with pytest.raises(PrefenvsError, match="damaged") as error:
        make_pebble().resume(folder)
    check_message(error, "state.json")


def test_answers_that_are_gone_are_not_forgotten_in_silence(checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "pebble", tmp_path / "checkpoint")
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"answers": state["answers"] + 1}))
    with pytest.raises(PrefenvsError, match="10 answers of 11"):
        make_pebble().resume(folder)


@pytest.mark.parametrize("how", ["cut", "empty", "garbage", "missing"])
def test_a_policy_that_cannot_be_loaded_is_one_line(checkpoints: Path, tmp_path: Path, how: str) -> None:
    run = Run.create(tmp_path / "run", "train pebble", {})
    shutil.copytree(checkpoints / "pebble", run.checkpoint)
    assert isinstance(load_policy(run), PEBBLE)
    damage(run.checkpoint / "model.zip", how)
    with pytest.raises(PrefenvsError) as error:
        load_policy(run)
    check_message(error, "model.zip")


@pytest.mark.parametrize("content", ["steps,x\n1,2\n", "steps,mean_return\n1,2\n", "steps\n\x00\n", "a,b\n1,2\n"])
def test_damaged_evaluations_are_named_before_the_run_goes_on(checkpoints: Path, tmp_path: Path, content: str) -> None:
    run = Run.create(tmp_path / "run", "train pebble", {})
    run.path("evaluations.csv").write_text(content)
    agent = make_pebble()
    agent.resume(checkpoints / "pebble")
    with pytest.raises(PrefenvsError, match="damaged") as error:
        train([agent], [run], 200, evaluate_every=100, progress=False)
    check_message(error, "evaluations.csv")
    assert agent.num_timesteps == 150


def test_a_saved_agent_without_its_reward_model_does_not_learn_on(checkpoints: Path) -> None:
    agent = PEBBLE.load(checkpoints / "pebble" / "model.zip", env=Point(), oracle=Rater(), device="cpu")
    with pytest.raises(PrefenvsError, match="resume"):
        agent.learn(50)


@pytest.mark.parametrize("moment", ["step", "reset"])
def test_a_worker_that_died_is_one_line(moment: str) -> None:
    recorder = TrajectoryRecorder(SubprocVecEnv([Point, Point], start_method="fork"))
    try:
        recorder.reset()
        process = recorder.unwrapped.processes[0]  # type: ignore[attr-defined]
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(PrefenvsError, match="has died") as error:
            recorder.step(np.zeros((2, 1), np.float32)) if moment == "step" else recorder.reset()
        assert "\n" not in str(error.value)
    finally:
        recorder.close()


def test_a_checkpoint_of_a_relative_is_refused(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "buffer_size": 500, "device": "cpu"}
    relative = ResetPEBBLE("MlpPolicy", Point(), Rater(), ResetsConfig(**FEEDBACK), **settings)
    with pytest.raises(PrefenvsError, match="holds an agent of 'pebble', not 'resets'"):
        relative.resume(make_pebble().save_checkpoint(tmp_path / "checkpoint"))
