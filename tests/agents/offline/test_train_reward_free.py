"""`prefenvs train oppo|ipl|dppo` and `train iql --reward-model`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prefenvs.agents.offline import presets_reward_free as published_reward_free
from prefenvs.agents.offline.dppo import DPPOConfig, SegmentScoreConfig
from prefenvs.agents.offline.oppo import OPPOConfig
from prefenvs.agents.rewards.pearl import GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformerConfig
from prefenvs.cli import main
from prefenvs.datasets.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.trajectories import Trajectories

TINY = {"width": 16, "heads": 2, "epochs": 2, "batch_size": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of random Pendulum-like steps, and settings small enough for a test."""
    rng = np.random.default_rng(0)
    steps, ends = 240, np.arange(60, 241, 60)
    arrays = rng.standard_normal((steps, 3)).astype(np.float32), rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    data = Trajectories(*arrays, ends, rng.random(steps), terminated=np.zeros(4, bool), task="Pendulum-v1")
    write_npz(OfflineDataset("random", data), tmp_path / "data")
    small = OPPOConfig(width=16, layers=1, window=5, batch_size=8), 4
    monkeypatch.setattr(published_reward_free, "oppo_settings", lambda preset: small)
    predictor = SegmentScoreConfig(**TINY)
    monkeypatch.setattr(
        published_reward_free, "dppo_settings", lambda preset: (DPPOConfig(predictor=predictor, batch_size=8), 4)
    )
    monkeypatch.setattr(
        published_reward_free, "transformer_settings", lambda preset: PreferenceTransformerConfig(**TINY)
    )
    monkeypatch.setattr(published_reward_free, "gaussian_settings", lambda preset: GaussianRewardConfig(**TINY))
    return tmp_path


@pytest.mark.parametrize("learner", ["oppo", "ipl", "dppo", "iql transformer", "iql gaussian"])
def test_a_run_and_its_continuation(learner: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm, _, reward = learner.partition(" ")
    options = ["--dataset", str(folder / "data"), "--labels", "20", "--segment-length", "8", "--steps", "4"]
    options += ["--preset", "small", "--episodes", "1", "--no-progress", "--folder", str(folder / "run")]
    if reward:
        options += ["--reward-model", reward]
    main(["train", algorithm, *options])
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert (summary["algorithm"], summary["labels"], summary["updates"]) == (algorithm, 20, 4)
    assert np.isfinite(summary["last"]["mean_return"])
    printed = capsys.readouterr().out
    assert "true return, final" in printed
    assert (folder / "run" / "reward.pt").is_file() == bool(reward)
    main(["train", algorithm, "--resume", str(folder / "run"), "--no-progress"])
    assert json.loads((folder / "run" / "summary.json").read_text())["last"] == summary["last"]
    if reward:
        assert "accuracy" not in capsys.readouterr().out, "the reward model of the first start is read, not fitted"


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--dataset", str(folder / "data"), "--labels", "20", "--segment-length", "8"]
    for options, message in (
        (["oppo", *data, "--window", "0"], "window must be at least 1"),
        (["ipl", *data, "--expectile", "1"], "expectile"),
        (["dppo", *data, "--conservatism", "2"], "conservatism"),
        (["oppo"], "--dataset"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["train", *options, "--folder", str(folder / "run")])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (folder / "run").exists()
