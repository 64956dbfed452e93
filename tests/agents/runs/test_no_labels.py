"""Runs that are to learn from labels and get none: they fail in one line, and leave no summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefenvs.cli import main
from prefenvs.datasets.load import load_dataset
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import Preference, make_pairs
from prefenvs.store import Store

from ...command_lines import refused

ONLINE = [
    "--task", "InvertedPendulum-v5", "--steps", "200", "--episodes", "1", "--evaluate-every", "200", "--no-progress",
    "--labels", "8", "--per-session", "4", "--interact", "60", "--unsupervised-steps", "40",
]  # fmt: skip
PEBBLE = ["train", "pebble", *ONLINE, "--preset", "small", "--learning-starts", "40", "--selector", "uniform"]
PREFPPO = ["train", "prefppo", *ONLINE, "--envs", "2"]


@pytest.mark.filterwarnings("ignore:no query could be asked")
@pytest.mark.parametrize("command", [PEBBLE, PREFPPO])
@pytest.mark.parametrize(
    ("rater", "length", "way_out"),
    [("skips", "2", "choose another rater"), ("human", "2", "--wait")],
)
def test_a_run_without_a_label_fails(
    command: list[str],
    rater: str,
    length: str,
    way_out: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if rater == "skips":
        collect = PartialReturnOracle.collect
        monkeypatch.setattr(
            PartialReturnOracle, "collect", lambda self: [Preference(one.query, None) for one in collect(self)]
        )
    people = ["--oracle", "human", "--store", str(tmp_path / "labels.sqlite")] if rater == "human" else []
    run = tmp_path / "run"
    line = refused(capsys, *command, "--segment-length", length, *people, "--folder", str(run))
    assert "got no label" in line
    assert way_out in line
    assert not (run / "summary.json").exists()
    # What was trained is still there, for a longer run or for late answers.
    assert (run / "checkpoint").is_dir()


@pytest.fixture(scope="module")
def skipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and a store of skips of its segments."""
    folder = tmp_path_factory.mktemp("skipped")
    data, store = folder / "data", folder / "skips.sqlite"
    task = "InvertedPendulum-v5"
    main(["collect", task, "--mix", "random=6", "--out", str(data), "--format", "npz", "--no-progress"])
    queries = make_pairs(load_dataset(str(data)).trajectories.sample(8, 3, np.random.default_rng(0)))
    with Store(store) as kept:
        kept.add_preferences([Preference(query, None) for query in queries])
    return data, store


@pytest.mark.parametrize("learner", [["iql"], ["iql", "--reward-model", "transformer"], ["cpl"], ["bc"], ["dppo"]])
def test_skips_alone_are_refused_before_a_folder_is_made(
    learner: list[str], skipped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = skipped
    share = ["--best-share", "0.5"] if learner == ["bc"] else []
    run = tmp_path / "run"
    options = ["--dataset", str(data), "--preferences", str(store), "--preset", "small", "--folder", str(run)]
    assert "skips" in refused(capsys, "train", *learner, *share, *options, "--steps", "20", "--no-progress")
    assert not run.exists()
