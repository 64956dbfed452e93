"""`prefenvs diagnose RUN` prints figures, findings and a picture; what it cannot judge is one line."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from prefenvs.cli import main
from prefenvs.preferences import Preference
from prefenvs.store import Store

TRAIN = (
    "train pebble --task Pendulum-v1 --steps 800 --labels 20 --per-session 10 --interact 200 --preset small "
    "--unsupervised-steps 200 --learning-starts 200 --episodes 1 --no-progress"
)


def test_a_run_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    main([*TRAIN.split(), "--folder", str(run)])
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


def test_a_run_that_people_taught_is_diagnosed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = tmp_path / "run", tmp_path / "people.sqlite"
    command = [*TRAIN.split(), "--steps", "450", "--labels", "10", "--folder", str(run)]
    command += ["--oracle", "human", "--wait", "--store", str(path)]
    over = threading.Event()

    def answer() -> None:
        with Store(path) as store:
            while not over.wait(0.05):
                queries = store.pending_queries(with_true_rewards=True)
                given = [Preference(query, (1.0, 0.0), "ann", "human") for query in queries]
                store.add_preferences(given, run=run.name)

    person = threading.Thread(target=answer)
    person.start()
    try:
        main(command)
    finally:
        over.set()
        person.join()
    capsys.readouterr()
    main(["diagnose", str(run), "--episodes", "1"])
    assert "Pendulum-v1, 10 answers, 1 new episodes" in capsys.readouterr().out


def test_a_run_without_labels_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    options = ["--true-reward", "--episodes", "1", "--no-progress", "--folder", str(run)]
    main([*["train", "pebble", "--task", "Pendulum-v1", "--steps", "300", "--preset", "small"], *options])
    with pytest.raises(SystemExit) as stopped:
        main(["diagnose", str(run)])
    assert stopped.value.code == 2
    assert "keeps no reward model" in capsys.readouterr().err
