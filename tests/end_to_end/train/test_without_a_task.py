"""Data that tell no task: learners train, are saved, loaded and resumed; nothing is evaluated, and the run says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from prefenvs.agents.runs.train import load_policy
from prefenvs.cli import main
from prefenvs.datasets import OfflineDataset, write_npz
from prefenvs.runs import Run
from prefenvs.trajectories import Trajectories

from ...command_lines import refused

QUICK = ["--steps", "30", "--evaluate-every", "10", "--no-progress", "--segment-length", "5"]
LABELS = ["--labels", "12"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty episodes of a robot that no task here describes."""
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((400, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    rewards, ends = -np.abs(observations[:, 0]), np.arange(1, 21) * 20
    trajectories = Trajectories(observations, actions, ends, rewards, terminated=np.zeros(20, bool))
    return str(write_npz(OfflineDataset("robot", trajectories), tmp_path_factory.mktemp("data") / "my robot"))


@pytest.mark.parametrize(
    "learner",
    [
        ["iql", "--held-out", "0.25"],
        ["iql", "--true-reward", "--seeds", "0", "1"],
        ["cpl", "--evaluate-async"],
        ["bc"],
        ["oppo", "--batch-size", "8", "--width", "16", "--layers", "1", "--window", "10"],
        ["ipl"],
        ["dppo", "--batch-size", "8", "--predictor.width", "16", "--predictor.heads", "2", "--predictor.epochs", "2"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_learner_trains_without_an_evaluation(
    learner: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = [] if learner[0] == "bc" or "--true-reward" in learner else LABELS
    main(["train", *learner, "--dataset", data, *QUICK, *labels])
    printed = capsys.readouterr().out
    assert "tells no task to act in, so nothing is evaluated" in printed
    assert "not evaluated" in printed
    for folder in (tmp_path / "runs").iterdir():
        assert re.fullmatch(rf"my-robot-{learner[0]}-[\w-]+-[01]", folder.name)
        summary = json.loads((folder / "summary.json").read_text())
        assert (summary["task"], summary["updates"]) == ("", 30)
        assert summary["first"] is summary["last"] is summary["best"] is summary["evaluation_horizon"] is None
        assert ("held_out_accuracy" in summary) == ("--held-out" in learner)
        assert not {"evaluations.csv", "learning_curve.png"} & {path.name for path in folder.iterdir()}
        actions, _ = load_policy(Run.open(folder)).predict(np.zeros((4, 3), np.float32), deterministic=True)
        assert actions.shape == (4, 2)


def test_a_task_known_from_recordings_is_not_evaluated(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["train", "iql", "--dataset", data, "--task", "recorded:fold the towel", *QUICK, *LABELS])
    out = capsys.readouterr().out
    assert "not evaluated" in out
    assert "next: prefenvs export RUN" in out
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("recorded-fold-the-towel-iql")
    assert json.loads((folder / "summary.json").read_text())["last"] is None
    with pytest.raises(SystemExit):
        main(["evaluate", str(folder)])
    assert "known from recordings alone" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["diagnose", str(folder)])
    assert "nothing can act in 'recorded:fold the towel': train with --task ID" in capsys.readouterr().err


def test_such_a_run_resumes(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    main(["train", "iql", "--dataset", data, *QUICK, *LABELS, "--folder", str(folder)])
    record = json.loads((folder / "run.json").read_text())
    record["config"]["steps"] = 50
    (folder / "run.json").write_text(json.dumps(record))
    main(["train", "iql", "--resume", str(folder), "--no-progress"])
    assert json.loads((folder / "summary.json").read_text())["updates"] == 50


def test_its_evaluation_needs_a_task(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "run")
    main(["train", "bc", "--dataset", data, *QUICK, "--folder", folder])
    capsys.readouterr()
    for words in (["evaluate", folder], ["record", folder], ["judge", folder, folder]):
        assert "which tells no task" in refused(capsys, *words)
    learned = str(tmp_path / "learned")
    main(["train", "iql", "--dataset", data, *QUICK, *LABELS, "--preset", "small", "--folder", learned])
    capsys.readouterr()
    for words in (["diagnose", learned], ["bench", "measure", learned]):
        assert "which tells no task" in refused(capsys, *words)
    assert "observation space" in refused(
        capsys, "evaluate", folder, "--task", "InvertedPendulum-v5", "--episodes", "1"
    )
    lengths = ["--steps", "30", "--no-progress", "--folder", str(tmp_path / "other")]
    assert "give its raters --segment-length" in refused(capsys, "train", "cpl", "--dataset", data, *lengths)
    assert not (tmp_path / "other").exists()


def test_a_task_can_be_named_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((40, 4)).astype(np.float32), rng.uniform(-3, 3, (40, 1)).astype(np.float32)
    data = str(write_npz(OfflineDataset("pole", Trajectories(*arrays, np.array([20, 40]))), tmp_path / "pole"))
    main(["train", "bc", "--dataset", data, *QUICK, "--folder", str(tmp_path / "run")])
    capsys.readouterr()
    main(["evaluate", str(tmp_path / "run"), "--task", "InvertedPendulum-v5", "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["task"] == "InvertedPendulum-v5"
