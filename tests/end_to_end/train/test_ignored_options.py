"""Options that would have no effect on a training run are refused in one line, and no folder is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefenvs.cli import main

TASK = ["--task", "InvertedPendulum-v5", "--no-progress"]
VLM = [["--vlm-model", "m"], ["--vlm-url", "http://localhost:1/v1"], ["--vlm-size", "64"], ["--vlm-replay"]]
CLIP = [["--clip-model", "m"], ["--clip-goal", "a pole"], ["--clip-alpha", "0.5"], ["--clip-hide-robot"]]
LABELS = [
    ["--oracle", "mistake"], ["--labels", "100"], ["--per-session", "10"], ["--interact", "100"],
    ["--segment-length", "5"], ["--selector", "uniform"], ["--schedule", "decreasing"], ["--lists", "lire"],
    ["--cer"], ["--bonus", "0.1"], ["--aggregate", "min"], ["--std-weight", "2"],
]  # fmt: skip
CASES = [([], option) for option in (*VLM, *CLIP)] + [(["--oracle", "mistake"], option) for option in (*VLM, *CLIP)]
EXPLORATION = [["--unsupervised-steps", "100"], ["--neighbour", "3"], ["--entropy-states", "100"]]
CASES += [(["--true-reward"], option) for option in (*VLM, *CLIP, *LABELS, *EXPLORATION, ["--expert", "run"])]
CASES += [(["--oracle", "hybrid", "--cheap", "mistake", "--costly", "oracle"], option) for option in (*VLM, *CLIP)]


@pytest.mark.parametrize("algorithm", ["pebble", "prefppo"])
@pytest.mark.parametrize(("rater", "option"), CASES)
def test_an_option_of_another_rater_is_refused(
    algorithm: str, rater: list[str], option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main(["train", algorithm, *TASK, *rater, *option, "--folder", str(run)])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert option[0] in line
    assert "leave it out" in line
    assert not run.exists()


@pytest.mark.parametrize("option", [*VLM, *CLIP, ["--expert", "run"], ["--costly", "human"]])
def test_rate_refuses_an_option_of_another_rater(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["rate", "--task", "InvertedPendulum-v5", "--check", "4", "--oracle", "mistake", *option])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert option[0] in line
    assert "not with --oracle mistake: leave it out" in line
