"""Environments that tell no simulator state are filmed while they act; raters and videos then show what was drawn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.cli.look.record import Film, record_run
from prefenvs.cli.raters import looks_at_pictures
from prefenvs.envs import draws_live
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.frames import frames
from prefenvs.frames.clips import decode
from prefenvs.runs import Run
from prefenvs.segments import Segment
from prefenvs.store import Store
from prefenvs.videos import Recorder

from ...awkward import LAMP

MODULE = (
    LAMP
    + """

class Dark(Lamp):
    metadata = {"render_modes": []}

    def __init__(self):
        pass


class Odd(Lamp):
    def render(self):
        return None
"""
)


@pytest.fixture(scope="module", autouse=True)
def lamps(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("lamps")
    (folder / "live_lamps.py").write_text(MODULE)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def shows_its_light(segment: Segment) -> None:
    """A segment's pictures are as bright as its observations say, step by step; H.264 rounds a little."""
    brightness = frames(segment, size=(62, 40)).mean((1, 2, 3))
    np.testing.assert_allclose(brightness, 250 * segment.observations[:, 0], atol=5)


def test_which_tasks_are_filmed() -> None:
    assert draws_live("live_lamps:Lamp")
    assert not draws_live("live_lamps:Dark")
    assert not draws_live("Pendulum-v1")


def test_an_evaluation_films_its_episodes(tmp_path: Path) -> None:
    policy = random_policy(prefenvs.make("live_lamps:Lamp").action_space)
    found = evaluate(policy, "live_lamps:Lamp", 3, num_envs=2, record=3, film=tmp_path).trajectories
    assert found is not None
    for position in range(3):
        shows_its_light(found.episode(position))
    shows_its_light(found.cut([1], [4], 6)[0])
    with Recorder("live_lamps:Lamp", size=40, progress=False) as recorder:
        pictures, fps = decode(recorder.episodes(found, tmp_path / "all.mp4"))
    assert fps == 10
    assert abs(pictures[0].mean() - 250 * found.observations[0, 0]) < 5


def test_training_films_what_raters_are_asked_about(tmp_path: Path) -> None:
    asked: list[Segment] = []

    def brighter(first: Segment, second: Segment) -> int:
        asked.extend((first, second))
        return int(second.observations.sum() > first.observations.sum())

    env = DummyVecEnv([lambda: prefenvs.make("live_lamps:Lamp", render_mode="rgb_array")] * 2)
    reward = RewardConfig(width=8, layers=1, epochs=1)
    config = PebbleConfig(labels=4, per_session=4, interact=50, segment_length=5, unsupervised_steps=60, reward=reward)
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "learning_starts": 10}

    def make() -> Any:
        agent = PEBBLE("MlpPolicy", env, brighter, config, seed=0, **small)
        agent.recorder.film(tmp_path / "recordings")
        return agent

    agent = make()
    agent.learn(90)
    assert len(asked) == 8
    for segment in asked:
        shows_its_light(segment)
    # The store and a checkpoint keep them.
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_preferences(agent.feedback.preferences)
        for answer in store.preferences():
            shows_its_light(answer.query.segments[1])
    agent.save_checkpoint(tmp_path / "checkpoint")
    again = make()
    again.resume(tmp_path / "checkpoint")
    again.learn(60, reset_num_timesteps=False)
    buffer = again.recorder.buffer.trajectories()
    assert len(buffer) > len(agent.recorder.buffer) - 1
    for position in range(len(buffer)):
        shows_its_light(buffer.episode(position))


def test_record_shows_what_was_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task, told in (("live_lamps:Lamp", False), ("live_lamps:Dark", True)):
        agent = PEBBLE("MlpPolicy", prefenvs.make(task), lambda first, second: 0, policy_kwargs={"net_arch": [8]})
        run = Run.create(tmp_path / task, "train pebble", {"task": task})
        agent.save(run.checkpoint / "model.zip")
        pictures, _ = decode(record_run(run, run.path("policy.mp4"), Film(size=64)))
        assert len(pictures) == 12
        # The lamp fills a frame evenly; curves have a ground and lines.
        assert (pictures.std((1, 2, 3)).max() > 12) == told
        assert ("its observations are shown as curves" in capsys.readouterr().out) == told


def test_which_raters_are_shown_pictures() -> None:
    for rater in ("human", "ratings", "rankings"):
        assert looks_at_pictures({"oracle": rater})
    assert looks_at_pictures({"oracle": "hybrid:cheap=oracle,costly=human"})
    assert not looks_at_pictures({"oracle": "mistake"})
    assert not looks_at_pictures({})


def test_what_cannot_be_filmed_is_one_line(tmp_path: Path) -> None:
    recorder = TrajectoryRecorder(DummyVecEnv([lambda: prefenvs.make("live_lamps:Lamp")]))
    with pytest.raises(PrefenvsError, match='make them with render_mode="rgb_array"'):
        recorder.film(tmp_path)
    recorder = TrajectoryRecorder(DummyVecEnv([lambda: prefenvs.make("live_lamps:Odd", render_mode="rgb_array")]))
    recorder.film(tmp_path)
    with pytest.raises(PrefenvsError, match=r"render\(\) gave NoneType"):
        recorder.reset()


def test_picture_observations_show_themselves(tmp_path: Path) -> None:
    seen = np.random.default_rng(0).integers(0, 255, (4, 6, 48, 48), dtype=np.uint8)
    segment = Segment(seen, np.zeros((4, 1)), task="live_lamps:Lamp")
    assert segment.visible
    np.testing.assert_array_equal(frames(segment, size=(48, 48)), np.moveaxis(seen[:, 3:], 1, -1))
    grey = Segment(seen[:, :1], np.zeros((4, 1)))
    assert (frames(grey, [2], size=(48, 48))[0] == seen[2, 0][..., None]).all()
