"""Rewards of recorded pictures: learned from labels on frozen features, which are computed once, and shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from PIL import Image
from torch import nn

from prefenvs import PrefenvsError, Trajectories
from prefenvs.agents import ImageRewardConfig, ImageRewardEnsemble, relabel
from prefenvs.agents.rewards.image.encoders import ModuleEncoder, load_encoder
from prefenvs.agents.rewards.image.features import FeatureCache
from prefenvs.frames import Camera, Recording
from prefenvs.preferences import Preference, make_pairs

TASK = "recorded:make it bright"
EPISODES, LENGTH = 12, 10
SMALL = ImageRewardConfig(stride=2, epochs=60, batch_size=16, width=16, layers=1, learning_rate=3e-3, stop_accuracy=1.0)


class Corner(nn.Module):
    """The mean colours of four squares of a picture; counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.frames += len(pixels)
        return self.scale * nn.functional.adaptive_avg_pool2d(pixels, 2)


def make_encoder() -> ModuleEncoder:
    return ModuleEncoder(Corner(), 16, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Episodes of pictures with a brightness of their own, by two cameras; the true reward is the brightness."""
    root, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    levels, recordings = [], []
    for episode in range(EPISODES):
        level = np.clip(rng.uniform(40, 200) + np.cumsum(rng.normal(0, 8, LENGTH)), 0, 255)
        for camera in ("top", "wrist"):
            folder = root / f"{camera}{episode}"
            folder.mkdir()
            for step, value in enumerate(level):
                Image.new("RGB", (20, 16), (int(value), 50, 50)).save(folder / f"{step}.png")
        cameras = tuple(Camera(name, f"{name}{episode}") for name in ("top", "wrist"))
        recordings.append(Recording(cameras, np.arange(LENGTH) / 10, str(root)))
        levels.append(level)
    rewards = np.concatenate(levels) / 255
    observations = np.stack([rewards, rng.standard_normal(len(rewards))], 1).astype(np.float32)
    ends = LENGTH * np.arange(1, EPISODES + 1)
    return Trajectories(
        observations, np.zeros((len(rewards), 1)), ends, rewards, task=TASK, source="set", recordings=tuple(recordings)
    )


def labels(data: Trajectories, count: int = 40, seed: int = 0) -> list[Preference]:
    queries = make_pairs(data.sample(2 * count, 4, np.random.default_rng(seed)))
    best = [int(np.argmax([segment.true_rewards.sum() for segment in query.segments])) for query in queries]
    return [Preference(query, np.eye(2)[i]) for query, i in zip(queries, best, strict=True)]


def accuracy(model: ImageRewardEnsemble, preferences: list[Preference]) -> float:
    beliefs = model.preference_probabilities([preference.query for preference in preferences]).mean(0)
    return float(np.mean(beliefs.argmax(1) == [preference.best for preference in preferences]))


@pytest.mark.parametrize("cameras", [(), ("top", "wrist")])
def test_it_learns_from_recorded_frames(data: Trajectories, cameras: tuple[str, ...], tmp_path: Path) -> None:
    model = ImageRewardEnsemble(TASK, replace(SMALL, cameras=cameras), make_encoder(), device="cpu", features=tmp_path)
    model.fit(labels(data))
    assert accuracy(model, labels(data, seed=1)) >= 0.9
    rewards = relabel(model, data)
    assert np.corrcoef(rewards, np.concatenate([data.true_rewards[1:], data.true_rewards[-1:]]))[0, 1] > 0.7
    # A step's reward is that of the picture that it led to, within its own episode.
    inside = model.score_segment(data.episode(3))
    np.testing.assert_allclose(rewards[3 * LENGTH : 4 * LENGTH], np.append(inside[1:], inside[-1]), atol=1e-6)


def test_convolutions_see_recordings_too(data: Trajectories) -> None:
    config = replace(SMALL, size=48, channels=(4, 4, 4, 4), cameras=("top", "wrist"), epochs=2)
    model = ImageRewardEnsemble(TASK, config, device="cpu")
    figures = model.fit(labels(data, 8))
    assert figures["labels"] == 8
    assert model.predict_segments([data.episode(0), data.episode(1)]).shape == (3, 2, LENGTH)


def test_proprioception_joins_the_features(data: Trajectories, tmp_path: Path) -> None:
    config = replace(SMALL, proprioception=True)
    model = ImageRewardEnsemble(TASK, config, make_encoder(), device="cpu", observation_size=2, features=tmp_path)
    model.fit(labels(data))
    assert accuracy(model, labels(data, seed=1)) >= 0.9
    model.save(tmp_path / "reward.pt")
    again = ImageRewardEnsemble.load(tmp_path / "reward.pt", "cpu", make_encoder(), features=tmp_path)
    np.testing.assert_array_equal(relabel(again, data), relabel(model, data))
    with pytest.raises(PrefenvsError, match="name an encoder, and data with observations"):
        ImageRewardEnsemble(TASK, config, make_encoder(), device="cpu")


def test_features_are_computed_once_and_go_on_where_they_stopped(data: Trajectories, tmp_path: Path) -> None:
    encoder = make_encoder()
    cache = FeatureCache(tmp_path, encoder, ("top", "wrist"))
    folder = cache.fill(data, progress=False)
    assert encoder.module.frames == 2 * EPISODES * LENGTH
    kept = sorted(folder.glob("*.npz"))
    assert len(kept) == EPISODES
    for path in kept[:3]:
        path.unlink()
    again = make_encoder()
    cache = FeatureCache(tmp_path, again, ("top", "wrist"))
    cache.fill(data, progress=False)
    assert (again.module.frames, cache.computed) == (3 * 2 * LENGTH, 3)
    segment = data.cut(np.array([4]), np.array([3]), 5)[0]
    found = cache.rows(segment, np.array([0, 4]))
    assert again.module.frames == 3 * 2 * LENGTH
    expected = FeatureCache(tmp_path / "none", make_encoder(), ("top", "wrist")).rows(segment, np.array([0, 4]))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    other = make_encoder()
    with torch.no_grad():
        other.module.scale.fill_(2.0)
    assert FeatureCache(tmp_path, other, ("top", "wrist")).folder != folder


def test_encoders_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_encoder.py").write_text(
        "from torch import nn\n\nnet = nn.AvgPool2d(8)\nnet.size, number = 16, 3\n\n\ndef make():\n    return net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_encoder:net", "own_encoder:make"):
        encoder = load_encoder(name, "cpu")
        assert encoder(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, 12)
        assert encoder.name == name
    with pytest.raises(PrefenvsError, match=r"own_encoder:number is neither an nn\.Module nor an encoder"):
        load_encoder("own_encoder:number", "cpu")
    with pytest.raises(PrefenvsError, match=r"(transformers has no model|needs the package transformers)"):
        load_encoder(f"transformers:{tmp_path / 'nothing'}", "cpu")


def write_labelled(data: Trajectories, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Trajectories:
    """Work in a folder with the data in LeRobot's format, their labels and an encoder; return them as read."""
    from prefenvs.datasets import OfflineDataset, load_dataset, write_lerobot
    from prefenvs.store import Store

    monkeypatch.chdir(folder)
    (folder / "own_encoder.py").write_text("from torch import nn\n\nnet = nn.AvgPool2d(8)\nnet.size = 16\n")
    monkeypatch.syspath_prepend(str(folder))
    write_lerobot(OfflineDataset("set", data), "set", size=32, progress=False)
    recorded = load_dataset("set").trajectories
    with Store("labels.sqlite") as store:
        store.add_preferences(labels(recorded), run="people")
    return recorded


def test_the_command_learns_reports_and_exports(
    data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefenvs.cli import main

    recorded = write_labelled(data, tmp_path, monkeypatch)
    command = ["reward", "set", "--preferences", "labels.sqlite", "--encoder", "own_encoder:net"]
    main([*command, "--held-out", "0.3", "--progress-to", "progress.parquet", "--chunk", "4"])
    assert "of held-out episodes" in capsys.readouterr().out
    figures = json.loads(Path("reward/metrics.json").read_text())
    assert figures["training_labels"] + figures["held_out_labels"] < 40
    assert figures["training_accuracy"] >= 0.9
    means = [segment.true_rewards.mean() for segment in map(recorded.episode, range(EPISODES))]
    assert len(figures["best_episodes"]) == EPISODES // 2
    assert np.mean([means[i] for i in figures["best_episodes"]]) > np.mean(means)
    assert "Best segments" in Path("reward/report.html").read_text()
    assert Path("progress.parquet").is_file()
    before = Path("reward/reward.pt").stat().st_mtime_ns
    main([*command, "--held-out", "0.3"])
    assert Path("reward/reward.pt").stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        main([*command, "--held-out", "0.3", "--cameras", "wrist"])
    assert "holds a reward with cameras=[], not ['wrist']" in capsys.readouterr().err


def test_labels_of_episodes_that_are_damaged_since(
    data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefenvs.cli import main

    write_labelled(data, tmp_path, monkeypatch)
    path = Path("set/data/chunk-000/file-000.parquet")
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).take([1, 0, *range(2, len(data.observations))]), path)
    command = ["reward", "set", "--preferences", "labels.sqlite", "--encoder", "own_encoder:net", "--held-out", "0"]
    with pytest.warns(UserWarning, match="1 of 12 episodes of set are left out: episode 0: .* rows out of order"):
        main([*command, "--skip-damaged"])
    gone = sum(any(one.episode == 0 for one in label.query.segments) for label in labels(data))
    assert f"in training, none of held-out episodes; left out: {gone} of damaged episodes" in capsys.readouterr().out


def test_a_reward_without_an_opinion_predicts_half_of_the_labels(data: Trajectories, tmp_path: Path) -> None:
    """As everywhere: a predicted tie is half a hit."""
    from prefenvs.cli.reward import Reward
    from prefenvs.cli.train.labels import Labels

    class Undecided:
        def preference_probabilities(self, queries: Any) -> Any:
            return np.full((1, len(queries), 2), 0.5)

    found = Reward("set", "labels.sqlite")._measure(Undecided(), Labels(labels(data), [], {}))
    assert found["training_accuracy"] == 0.5
    (tmp_path / "config.json").write_text('{"dataset": ')
    with pytest.raises(PrefenvsError, match=r"config\.json is damaged"):
        Reward("set", "labels.sqlite", folder=tmp_path)._check_folder()


def test_pictures_become_observations_with_their_labels(
    data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefenvs.agents import CPL, CPLConfig
    from prefenvs.cli import main
    from prefenvs.datasets import load_dataset
    from prefenvs.store import Store

    recorded = write_labelled(data, tmp_path, monkeypatch)
    words = ["features", "set", "--encoder", "own_encoder:net", "--out", "encoded", "--cameras", "top", "wrist"]
    main([*words, "--preferences", "labels.sqlite", "--labels-to", "encoded.sqlite"])
    assert "26 entries, 2 of them the data's own" in capsys.readouterr().out
    encoded = load_dataset("encoded")
    np.testing.assert_array_equal(encoded.trajectories.observations[:, :2], recorded.observations)
    # The red of a picture is its episode's brightness, on which every feature of that channel agrees.
    red = encoded.trajectories.observations[:, 2:6]
    assert np.abs(red - data.true_rewards[:, None]).max() <= 0.03
    with Store("encoded.sqlite") as store:
        answers = store.preferences()
    assert len(answers) == 40
    config = CPLConfig(hidden=(8, 8), batch_size=8, pretrain_updates=1, warmup_updates=0)
    learner = CPL(encoded, answers, config, device="cpu", action_space=spaces.Box(-1.0, 1.0, (1,), np.float32))
    learner.learn(3)
    assert np.isfinite(learner.predict(encoded.trajectories.observations[:2])[0]).all()
