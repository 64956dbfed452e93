"""`prefenvs train oppo|ipl|dppo` and `train iql --reward-model`, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prefenvs.cli import main
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Preference
from prefenvs.trajectories import Trajectories

SMALL = {
    "oppo": "--width 16 --layers 1 --window 5 --batch-size 8",
    "ipl": "--hidden 16 16",
    "dppo": "--batch-size 8 --predictor.width 16 --predictor.heads 2 --predictor.epochs 2 --predictor.batch-size 16",
    "iql": "--hidden 16 16 --model.width 16 --model.heads 2 --model.epochs 2 --model.batch-size 16",
    "own": "--hidden 16 16",
}


class First:
    """A reward of one's own: the first observation, once it was fitted."""

    fits = 0

    def __init__(self, observation_size: int, action_size: int, seed: int = 0) -> None:
        self.scale = 0.0

    def predict(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return (self.scale * observations[:, 0])[None]

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        self.scale, First.fits = 1.0, First.fits + 1
        return {}

    def save(self, path: str | Path) -> None:
        Path(path).write_text(json.dumps(self.scale))

    @classmethod
    def load(cls, path: str | Path) -> First:
        model = cls(3, 1)
        model.scale = json.loads(Path(path).read_text())
        return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set of random Pendulum-like steps."""
    rng = np.random.default_rng(0)
    steps, ends = 240, np.arange(60, 241, 60)
    arrays = rng.standard_normal((steps, 3)).astype(np.float32), rng.uniform(-2, 2, (steps, 1)).astype(np.float32)
    data = Trajectories(*arrays, ends, rng.random(steps), terminated=np.zeros(4, bool), task="Pendulum-v1")
    write_npz(OfflineDataset("random", data), tmp_path / "data")
    return tmp_path


@pytest.mark.parametrize("learner", ["oppo", "ipl", "dppo", "iql transformer", "iql gaussian", f"iql {__name__}:First"])
def test_a_run_and_its_continuation(learner: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm, _, reward = learner.partition(" ")
    options = ["--dataset", str(folder / "data"), "--labels", "20", "--segment-length", "8", "--steps", "4"]
    options += ["--preset", "small", "--episodes", "1", "--no-progress", "--folder", str(folder / "run")]
    options += SMALL["own" if ":" in reward else algorithm].split()
    First.fits = 0
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
        assert First.fits == (":" in reward)
        assert "accuracy" not in capsys.readouterr().out, "the reward model of the first start is read, not fitted"


def test_bad_input_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--dataset", str(folder / "data"), "--labels", "20", "--segment-length", "8"]
    for options, message in (
        (["iql", *data, "--reward-model", "transfomer"], "'transfomer' is unknown: choose ensemble, mlp, transformer"),
        (["oppo", *data, "--window", "0"], "--window must be at least 1"),
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
