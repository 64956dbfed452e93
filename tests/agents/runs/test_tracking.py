"""What is logged goes to CSV, TensorBoard and, where asked for, Weights & Biases; a module of that name stands in."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import prefenvs
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.runs.train import train
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

FAKE = r"""
import json
from pathlib import Path


class Run:
    def __init__(self, given):
        self.file = Path(given["dir"]) / "sent.jsonl"
        self.put("init", given)

    def put(self, kind, what):
        with self.file.open("a") as file:
            file.write(json.dumps([kind, what]) + "\n")

    def define_metric(self, name, step_metric=None):
        self.put("metric", [name, step_metric])

    def log(self, figures):
        self.put("log", figures)

    def finish(self):
        self.put("finish", None)


def init(**given):
    if given["project"] == "refused":
        raise RuntimeError("no API key\nconfigured")
    return Run(given)
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)


def pebble() -> Any:
    reward = RewardConfig(width=8, layers=1, epochs=1)
    config = PebbleConfig(labels=4, per_session=4, interact=50, segment_length=5, unsupervised_steps=190, reward=reward)
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 8, "learning_starts": 10}
    return PEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), lambda first, second: 0, config, seed=0, **small)


def learn(folder: Path, project: str | None = None) -> Run:
    run = Run.create(folder, "train pebble", {"task": "Pendulum-v1"})
    train([pebble()], [run], 210, evaluate_every=100, episodes=1, progress=False, wandb=project)
    return run


def test_a_project_gets_what_the_run_folder_holds(tmp_path: Path, wandb: None) -> None:
    run = learn(tmp_path / "run", "robots")
    sent = [json.loads(line) for line in (run.folder / "sent.jsonl").read_text().splitlines()]
    given = sent[0][1]
    assert (given["project"], given["name"], given["resume"]) == ("robots", "run", "allow")
    assert given["config"] == {"task": "Pendulum-v1", "command": "train pebble"}
    assert sent[-1] == ["finish", None]
    logged = [figures for kind, figures in sent if kind == "log"]
    assert ["metric", ["*", "time/total_timesteps"]] in sent
    last = run.rows("evaluations")[-1]
    assert logged[-1]["evaluation/true_return"] == last["mean_return"]
    assert logged[-1]["time/total_timesteps"] == last["steps"] == 210
    assert any("feedback/labels" in figures for figures in logged)


def test_csv_and_tensorboard_hold_the_last_evaluation(tmp_path: Path) -> None:
    run = learn(tmp_path / "run")
    returns = [row["mean_return"] for row in run.rows("evaluations")]
    with (run.path("log/from-0") / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("evaluation/true_return")]
    assert float(rows[-1]["evaluation/true_return"]) == returns[-1]
    events = EventAccumulator(str(run.path("log/from-0"))).Reload()
    assert events.Scalars("evaluation/true_return")[-1].value == pytest.approx(returns[-1])
    # The hidden reward is in no other figure.
    assert "rollout/ep_rew_mean" not in events.Tags()["scalars"]


def test_what_wandb_refuses_is_one_line(tmp_path: Path, wandb: None) -> None:
    with pytest.raises(PrefenvsError, match=r"wandb refuses the project 'refused'.*wandb login"):
        learn(tmp_path / "run", "refused")


def test_a_missing_package_is_told_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    line = f"train pebble --task Pendulum-v1 --preset small --steps 9000 --folder {tmp_path / 'run'} --wandb robots"
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "--wandb needs the package wandb" in told
    assert not (tmp_path / "run").exists()
