"""`prefenvs diagnose RUN` prints figures, findings and a picture; what it cannot judge is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from prefenvs.cli import main

TRAIN = "train pebble --task Pendulum-v1 --steps 800 --labels 20 --per-session 10 --interact 200 --preset small"


def test_a_run_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main(
        [
            *TRAIN.split(),
            "--unsupervised-steps",
            "200",
            "--learning-starts",
            "200",
            "--episodes",
            "1",
            "--no-progress",
            "--folder",
            str(run),
        ]
    )
    capsys.readouterr()
    main(["diagnose", str(run), "--episodes", "2"])
    text = capsys.readouterr().out
    assert "Pendulum-v1, 20 answers, 2 new episodes" in text
    assert "pairs of the final policy's segments rightly" in text
    with Image.open(run / "diagnosis.png") as picture:
        assert picture.size[0] > 1000
    with pytest.raises(SystemExit):
        main(["diagnose", str(run), "--out", str(tmp_path / "x.doc")])
    assert "x.doc is no picture: end its name with .png" in capsys.readouterr().err


def test_a_run_without_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    options = ["--true-reward", "--episodes", "1", "--no-progress", "--folder", str(run)]
    main([*["train", "pebble", "--task", "Pendulum-v1", "--steps", "300", "--preset", "small"], *options])
    with pytest.raises(SystemExit) as stopped:
        main(["diagnose", str(run)])
    assert stopped.value.code == 2
    assert "keeps no reward model" in capsys.readouterr().err
