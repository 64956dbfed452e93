"""A rater of the user's own, from Python and on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prefenvs
from prefenvs import PrefenvsError, Segment
from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO
from prefenvs.cli import main
from prefenvs.cli.rate import BINS
from prefenvs.internal.csv_tables import read_table
from prefenvs.store import Store

TASK = "Pendulum-v1"
RATE = """
def rate(first, second):
    return int(abs(second.actions).sum() < abs(first.actions).sum())
"""


def test_a_function_rates_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "least_torque.py").write_text(RATE)
    monkeypatch.chdir(tmp_path)
    main(["train", "pebble", "--task", TASK, "--oracle", "least_torque:rate", "--preset", "small", "--no-progress",
          "--steps", "420", "--labels", "8", "--per-session", "4", "--interact", "100", "--segment-length", "10",
          "--unsupervised-steps", "100", "--learning-starts", "190", "--episodes", "1"])  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "Pendulum-v1-pebble-least_torque-rate-0"
    with Store(folder / "preferences.sqlite") as store:
        answers = store.preferences()
    assert len(answers) == 8
    assert {answer.oracle for answer in answers} == {"least_torque:rate"}
    for answer in answers:
        assert answer.best == np.argmin([np.abs(segment.actions).sum() for segment in answer.query.segments])
    rate = ["rate", "--oracle", "least_torque:rate", "--task", TASK, "--segment-length", "10", "--out", "rater.csv"]
    main([*rate, "--check", "20"])
    assert "least_torque:rate: 20 queries" in capsys.readouterr().out
    assert [row[1] for row in read_table(Path("rater.csv"), BINS)] == ["5"] * 4
    with pytest.raises(SystemExit):
        main(rate)
    assert "--out rater.csv is for the table of --check N" in capsys.readouterr().err


def test_a_function_that_fails_ends_training_in_one_line() -> None:
    def rate(first: Segment, second: Segment) -> int:
        raise LookupError("no such file")

    config = PebbleConfig(labels=4, per_session=2, interact=50, segment_length=5, unsupervised_steps=10)
    agent = PEBBLE("MlpPolicy", prefenvs.make(TASK), rate, config, learning_starts=250, device="cpu", seed=0)
    assert agent.oracle is not None
    with pytest.raises(PrefenvsError, match=r"rate failed on query \w+ of Pendulum-v1 .*: LookupError: no such file"):
        agent.learn(600)
    with pytest.raises(PrefenvsError, match="a rater is an oracle, a function of two segments"):
        PrefPPO("MlpPolicy", prefenvs.make(TASK), 3)  # type: ignore[arg-type]
