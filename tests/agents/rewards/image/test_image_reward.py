"""Rewards on pictures: they learn what only the picture tells, whatever the batches, and survive a file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from prefenvs.agents import IQL, ImageRewardConfig, ImageRewardEnsemble, IQLConfig, relabel
from prefenvs.agents.rewards.image.encoders import ModuleEncoder
from prefenvs.agents.rewards.image.frames import frame_steps
from prefenvs.agents.rewards.image.nets import ConvEnsemble
from prefenvs.cli import main
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.frames.rewards import StateReward
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment

from ...worlds import label_swings, swings

pytest.importorskip("pygame", reason='Pendulum draws itself with pygame: pip install "prefenvs[classic]"')

TASK = "Pendulum-v1"
SMALL = ImageRewardConfig(stride=2, epochs=6, batch_size=16, learning_rate=1e-3, stop_accuracy=1.0)


def accuracy(model: ImageRewardEnsemble, preferences: list[Preference]) -> float:
    beliefs = model.preference_probabilities([preference.query for preference in preferences])
    assert beliefs.shape == (model.config.members, len(preferences), 2)
    assert np.allclose(beliefs.sum(-1), 1.0, atol=1e-5)
    return float(np.mean([b.argmax() == p.best for b, p in zip(beliefs.mean(0), preferences, strict=True)]))


@pytest.fixture(scope="module")
def fitted() -> ImageRewardEnsemble:
    model = ImageRewardEnsemble(TASK, SMALL, seed=0, device="cpu")
    figures = model.fit(label_swings(60, seed=0))
    assert figures["labels"] == figures["decided"] == 60
    assert figures["epochs"] == 6
    return model


def test_convolutions_learn_from_frames(fitted: ImageRewardEnsemble) -> None:
    """Chance is 0.5 on 60 unseen labels of other episodes; five seeds gave 0.92 to 0.97."""
    assert accuracy(fitted, label_swings(60, seed=1)) >= 0.8
    up, down = fitted.score(np.array([[0.0, 0.0], [np.pi, 0.0]]))
    assert up > down


def test_a_frozen_encoder_learns_too_and_stays_frozen(tmp_path: Path) -> None:
    """Chance is 0.5 on 60 unseen labels; five seeds gave 0.80 to 0.97."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Tanh())
    before = [parameter.clone() for parameter in module.parameters()]
    encoder = ModuleEncoder(module, 64, device="cpu")
    model = ImageRewardEnsemble(TASK, replace(SMALL, width=32, epochs=30), encoder, seed=0, device="cpu")
    model.fit(label_swings(60, seed=0))
    assert accuracy(model, label_swings(60, seed=1)) >= 0.7
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    # From a file it goes on as if never stopped, by the scale of features that it has learned with.
    model.save(tmp_path / "reward.pt")
    loaded = ImageRewardEnsemble.load(tmp_path / "reward.pt", "cpu", encoder)
    states = np.array([[0.0, 0.0], [np.pi, 0.0]])
    scores = [one.score(states) for one in (model, loaded) if one.fit(label_swings(5, seed=2))]
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_it_is_a_reward_of_states_whatever_the_batches(fitted: ImageRewardEnsemble) -> None:
    assert isinstance(fitted, StateReward)
    states = swings(3, seed=5).states
    assert states is not None
    together = fitted.predict(states)
    assert together.shape == (3, 60)
    assert together.dtype == np.float32
    alone = np.concatenate([fitted.predict(state[None]) for state in states[:7]], 1)
    assert np.allclose(alone, together[:, :7], atol=1e-5)
    assert np.allclose(fitted.score(states), together.mean(0), atol=1e-6)
    assert fitted.predict(states[:0]).shape == (3, 0)
    assert len({tuple(row) for row in together.round(6).tolist()}) == 3, "the members differ"


def test_a_segment_s_score_is_the_sum_over_the_frames_looked_at(fitted: ImageRewardEnsemble) -> None:
    segments = list(swings(2, seed=3).sample(3, 6, np.random.default_rng(0)))
    rewards = fitted.predict_segments(segments)
    assert rewards.shape == (3, 3, 6)
    assert frame_steps(6, 2).tolist() == [1, 3, 5]
    assert frame_steps(1, 5).tolist() == [0]
    sums = rewards[:, :, [1, 3, 5]].sum(-1)
    assert np.allclose([fitted.score_one(segment) for segment in segments], sums.mean(0), atol=1e-4)
    beliefs = fitted.preference_probabilities([Query(tuple(segments)), Query(tuple(segments[:2]))])
    expected = np.exp(sums) / np.exp(sums).sum(-1, keepdims=True)
    assert np.allclose(beliefs[:, 0], expected, atol=1e-4)
    assert np.all(beliefs[:, 1, 2] == 0.0)


def test_relabelling_gives_a_step_the_reward_of_the_state_it_led_to(fitted: ImageRewardEnsemble) -> None:
    data = swings(2, seed=4, steps=5)
    assert data.states is not None
    values = fitted.score(data.states)
    expected = values[[1, 2, 3, 4, 4, 6, 7, 8, 9, 9]]
    assert np.allclose(relabel(fitted, data), expected, atol=1e-6)


def test_frames_are_rendered_once() -> None:
    model, preferences = ImageRewardEnsemble(TASK, replace(SMALL, epochs=1), device="cpu"), label_swings(6, seed=2)
    model.fit(preferences[:4])
    seen = model.frames.rendered
    assert seen == len(model.table) <= 4 * 2 * 3
    model.fit(preferences[:4])
    assert model.frames.rendered == seen
    model.fit(preferences)
    assert seen < model.frames.rendered == len(model.table)


def test_grouped_convolutions_are_separate_networks() -> None:
    """Each member alone, by PyTorch's own layers, gives what it gives in the ensemble."""
    ensemble = ConvEnsemble(3, 64, (4, 5, 6, 7), "tanh", torch.Generator().manual_seed(0))
    frames = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    together = ensemble(frames)
    for m in range(3):
        x = frames.float() / 127.5 - 1.0
        for i, stride in enumerate((3, 2, 2, 2)):
            weight, bias = (part[i].chunk(3)[m] for part in (list(ensemble.weights), list(ensemble.biases)))
            x = nn.functional.relu(nn.functional.conv2d(x, weight, bias, stride))
        alone = torch.tanh(x.flatten(1) @ ensemble.last[m] + ensemble.last_bias[m])
        assert torch.allclose(together[m], alone, atol=1e-5)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefenvsError, match="frames of 40 pixels are too small"):
        ImageRewardEnsemble(TASK, ImageRewardConfig(size=40), device="cpu")
    with pytest.raises(PrefenvsError, match="stride must be at least 1, got 0"):
        ImageRewardConfig(stride=0)
    model = ImageRewardEnsemble(TASK, SMALL, device="cpu")
    blind = Query((Segment(np.zeros((3, 3)), np.zeros((3, 1)), task=TASK),) * 2)
    with pytest.raises(PrefenvsError, match="carries no simulator states"):
        model.fit([Preference(blind, np.array([1.0, 0.0]))])
    other = Query((Segment(np.zeros((3, 3)), np.zeros((3, 1)), states=np.zeros((3, 2)), task="Ant-v5"),) * 2)
    with pytest.raises(PrefenvsError, match="cannot look at a segment of 'Ant-v5'"):
        model.fit([Preference(other, np.array([1.0, 0.0]))])
    lost = Query((Segment(np.zeros((3, 3)), np.zeros((3, 1)), states=np.full((3, 2), np.nan), task=TASK),) * 2)
    for _ in range(2):
        with pytest.raises(PrefenvsError, match="NaN or infinite"):
            model.fit([Preference(lost, np.array([1.0, 0.0]))])
    assert len(model.table) == 0
    with pytest.raises(PrefenvsError, match="there is no reward model at"):
        ImageRewardEnsemble.load(tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    with pytest.raises(PrefenvsError, match="is not a reward model written by"):
        ImageRewardEnsemble.load(tmp_path / "junk.pt")
    own = ImageRewardEnsemble(TASK, SMALL, ModuleEncoder(nn.AvgPool2d(16), 64, device="cpu"), device="cpu")
    own.save(tmp_path / "own.pt")
    with pytest.raises(PrefenvsError, match="an encoder of your own: pass it"):
        ImageRewardEnsemble.load(tmp_path / "own.pt")
    encoder = ModuleEncoder(nn.AvgPool2d(32), 64, device="cpu")
    with pytest.raises(PrefenvsError, match="fitted with another encoder"):
        ImageRewardEnsemble.load(tmp_path / "own.pt", encoder=encoder, device="cpu")


def test_iql_learns_from_it(fitted: ImageRewardEnsemble) -> None:
    data = OfflineDataset("swings", swings(6, seed=6))
    config = IQLConfig(hidden=(16,), batch_size=16)
    learner = IQL(data, None, config, reward_model=fitted, seed=0, device="cpu")  # type: ignore[arg-type]
    learner.learn(3)
    assert learner.learns_from == "preferences"
    assert learner.preference_accuracy(label_swings(30, seed=1)) >= 0.8


def test_train_iql_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_npz(OfflineDataset("swings", replace(swings(8, seed=7), terminated=np.zeros(8, bool))), tmp_path / "data")
    options = ["--dataset", str(tmp_path / "data"), "--labels", "10", "--segment-length", "5", "--steps", "4"]
    options += ["--preset", "small", "--episodes", "1", "--no-progress", "--folder", str(tmp_path / "run")]
    main(["train", "iql", *options, "--reward-model", "image"])
    assert "reward model: 10 labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["labels"] == 10
    main(["train", "iql", "--resume", str(tmp_path / "run"), "--no-progress"])
    assert "reward model: " not in capsys.readouterr().out, "the fitted reward is read from the run's folder"
    with pytest.raises(SystemExit):
        main(["train", "iql", *options[:-1], str(tmp_path / "other"), "--encoder", "somewhere"])
