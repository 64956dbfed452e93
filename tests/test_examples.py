"""The examples run as they are, and what they show happens."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from prefenvs.evaluate import evaluate
from prefenvs.store import Event, Store
from prefenvs.videos import decode

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
PARTS = [path.stem for path in EXAMPLES.glob("*.py")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty present folder, in which the scripts find each other as they do beside one another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(EXAMPLES), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    yield tmp_path
    for name in PARTS:
        sys.modules.pop(name, None)


def run(name: str) -> tuple[dict[str, Any], str]:
    """Run a script as a program would be; returns what it defines and what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        made = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return made, printed.getvalue()


def test_every_example_is_listed_and_run() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    tests = Path(__file__).read_text()
    for path in EXAMPLES.iterdir():
        if path.suffix == ".py":
            assert f"[{path.name}]({path.name})" in listed
            assert f'"{path.stem}"' in tests, path.name


def test_an_environment_a_rater_pebble_and_a_video_are_six_lines(folder: Path) -> None:
    script = (EXAMPLES / "quickstart.py").read_text()
    code = [line for line in script.split('"""')[2].splitlines() if line.strip()]
    assert len(code) == 6
    assert "\n".join(code[-3:]) in (ROOT / "docs" / "start" / "index.md").read_text()
    agent = run("quickstart")[0]["agent"]
    assert agent.feedback.labels == 100
    assert len(decode(folder / "policy.mp4")[0]) > 100
    assert evaluate(agent, agent.task, episodes=20).mean_return > -25.0


def test_an_environment_of_one_s_own_keeps_the_contract() -> None:
    _, printed = run("own_environment")
    assert "the learner sees the reward 0.0" in printed
    assert printed.count("ok    ") == 8
    assert "FAILED" not in printed


def test_raters_of_one_s_own_answer() -> None:
    _, printed = run("own_rater")
    labels = [int(line.split(": ")[-1].split()[0]) for line in printed.splitlines()]
    assert labels[:2] == [30, 30]
    assert 0 < labels[2] < 30, "the careful one skips"


def test_a_reward_model_of_one_s_own_tells_better_places() -> None:
    made, _ = run("own_reward_model")
    away, on = made["again"].predict(made["here"], 0 * made["here"][:, :2])[0]
    assert on > away
    assert type(made["agent"].reward_model).__name__ == "Quadratic"


def test_a_selector_and_a_schedule_of_one_s_own() -> None:
    made, _ = run("own_selector")
    feedback = made["agent"].feedback
    assert 20 < feedback.labels < 60, "later sessions are smaller"


def test_labels_from_a_csv_teach() -> None:
    made, _ = run("labels_from_csv")
    with Store("labels.sqlite", create=False) as store:
        assert len(store.preferences()) == len(made["preferences"]) == 400
    assert {answer.annotator for answer in made["preferences"]} == {"a company"}
    learned = evaluate(made["learner"], "own_environment:Reach", episodes=20).mean_return
    assert learned > made["episodes"].returns.mean() + 5.0


def test_people_teach_from_python(folder: Path) -> None:
    people, nearer = importlib.import_module("people"), importlib.import_module("own_environment").nearer
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    over = threading.Event()
    seen: set[int] = set()

    def answer() -> None:
        """Do as the page does, by the log that it writes to: prefer what ends nearer to the square."""
        while not over.wait(0.05):
            # The page is up after the store is made.
            with contextlib.suppress(httpx.HTTPError):
                seen.add(httpx.get(f"http://127.0.0.1:{port}/api/session").status_code)
            if seen:
                with Store("labels.sqlite", create=False) as store:
                    for query in store.pending_queries("reach"):
                        choice = (1.0, 0.0) if nearer(*query.segments) == 0 else (0.0, 1.0)
                        store.add_events(
                            [Event("comparison", query.id, run="reach", probabilities=choice, oracle="human")]
                        )

    person = threading.Thread(target=answer, daemon=True)
    person.start()
    try:
        agent = people.teach(labels=20, port=port)
    finally:
        over.set()
        person.join()
    assert seen == {200}
    assert agent.feedback.labels == 20


def test_stable_baselines3_s_callbacks_see_the_true_return(folder: Path) -> None:
    made, _ = run("sb3_callbacks")
    assert (folder / "best" / "best_model.zip").is_file()
    assert list((folder / "checkpoints").glob("*400*"))
    assert list((folder / "tensorboard").rglob("events*"))
    with np.load(folder / "evaluations" / "evaluations.npz") as file:
        assert (file["results"] < 0.0).all(), "the hidden reward is 0"
    assert made["mean"] < 0.0


def test_a_learner_of_one_s_own_has_a_row_in_a_table(folder: Path) -> None:
    _, printed = run("own_method")
    table = (folder / "bench" / "report" / "tables.md").read_text()
    for row in ("imitation of the preferred segments", "behaviour cloning of all data"):
        assert row in table
        assert row in printed


def test_a_sweep_reports_the_true_return_and_prunes(folder: Path) -> None:
    optuna = pytest.importorskip("optuna")
    sweep, task, storage = importlib.import_module("sweep_optuna"), "own_environment:Reach", "sqlite:///sweep.sqlite"
    sweep.main(f"--task {task} --trials 1 --steps 400 --labels 10 --storage {storage}".split())
    (trial,) = optuna.load_study(study_name=f"pebble-{task}", storage=storage).trials
    assert list(trial.intermediate_values) == [100, 200, 300, 400]
    assert max(*trial.intermediate_values.values(), trial.value) < 0.0, "the hidden reward is 0"
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.0))
    study.optimize(lambda trial: sweep.objective(trial, task, 400, 10), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == [100]


def test_a_sweep_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match="needs the package optuna, which is not installed: pip install optuna"):
        importlib.import_module("sweep_optuna").main([])
