"""Run folders of every learner: killed, terminated, taken twice, damaged, and read by others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run, to_json

from ...command_lines import refused

ONLINE = ["--task", "InvertedPendulum-v5", "--episodes", "1", "--evaluate-every", "200", "--no-progress"]
PEBBLE = [
    "train", "pebble", *ONLINE, "--preset", "small", "--labels", "8", "--per-session", "4", "--interact", "60",
    "--segment-length", "2", "--unsupervised-steps", "40", "--learning-starts", "40", "--selector", "uniform",
]  # fmt: skip
PREFPPO = [
    "train", "prefppo", *ONLINE, "--labels", "8", "--per-session", "4", "--segment-length", "2", "--interact", "60",
    "--unsupervised-steps", "40", "--envs", "2",
]  # fmt: skip
BC = ["train", "bc", "--preset", "small", "--evaluate-every", "20", "--episodes", "1", "--no-progress"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "random"
    task = "InvertedPendulum-v5"
    main(["collect", task, "--mix", "random=10", "--out", str(folder), "--format", "npz", "--no-progress"])
    return str(folder)


@pytest.fixture(scope="module", params=["pebble", "bc"])
def command(request: pytest.FixtureRequest, data: str) -> list[str]:
    return {"pebble": [*PEBBLE, "--steps", "200"], "bc": [*BC, "--dataset", data, "--steps", "40"]}[request.param]


@pytest.fixture(scope="module")
def trained(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be copied."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    main([*command, "--folder", str(folder)])
    return folder


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(trained, tmp_path / "run")


def refuse_constants(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


def read_strictly(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse_constants)
    return figures


def remove_checkpoints(folder: Path) -> None:
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoint").iterdir():
        path.unlink()
    (folder / "checkpoint").rmdir()


def test_a_run_killed_before_its_first_checkpoint_starts_anew(
    command: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, summary = finished, read_strictly(finished / "summary.json")
    assert summary["last"]["success"] is None, "it is not known"
    remove_checkpoints(folder)
    with (folder / "evaluations.csv").open("a") as file:
        file.write("300,8,1.0")
    assert "--resume" in refused(capsys, *command, "--folder", str(folder))
    main([*command[:2], "--resume", str(folder)])
    assert "starts anew" in capsys.readouterr().out
    assert read_strictly(folder / "summary.json")["last"]["mean_return"] == summary["last"]["mean_return"]
    assert [row["steps"] for row in Run.open(folder).rows("evaluations")] == (
        [0, 200] if "pebble" in command else [0, 20, 40]
    )


def test_sigterm_leaves_a_checkpoint(command: list[str], tmp_path: Path) -> None:
    """Ctrl-C is pressed in `test_command_line.py` and `test_train_offline.py`, which go on from there."""
    folder = tmp_path / "run"
    line = [sys.executable, "-m", "prefenvs", *command, "--steps", "10000000", "--folder", str(folder)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(line, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: len(Run(folder).rows("evaluations")) > 1, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert Run.open(folder).has_checkpoint
    assert f"--resume {folder}" in (tmp_path / "log").read_text()


def test_a_run_has_one_process_at_a_time(
    command: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished
    before = (folder / "evaluations.csv").read_text()
    capsys.readouterr()
    with Run.open(folder).locked():
        message = refused(capsys, *command[:2], "--resume", str(folder))
    assert f"process {os.getpid()}" in message
    assert (folder / "evaluations.csv").read_text() == before
    main([*command[:2], "--resume", str(folder)])


def test_a_lock_may_be_asked_for_again_by_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    run, other = Run(tmp_path), Run(tmp_path)
    with run.locked(), run.locked(), pytest.raises(PrefenvsError, match="another process"), other.locked():
        pass
    with other.locked():
        pass


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run has ended"
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_null_in_json(value: float, tmp_path: Path) -> None:
    import numpy as np

    written = to_json({"a": value, "b": [np.float32(value), np.array([value, 1.0])], "c": {"d": (value,)}})
    assert json.loads(written, parse_constant=refuse_constants) == {
        "a": None, "b": [None, [None, 1.0]], "c": {"d": [None]}
    }  # fmt: skip


def test_a_list_of_tasks_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "--family", "metaworld", "--json"])
    tasks = json.loads(capsys.readouterr().out, parse_constant=refuse_constants)
    assert {task["family"] for task in tasks} == {"metaworld"}


@pytest.mark.parametrize("name", ["out.csv", "out.json", "labels.parquet", "out.tar.gz", "out.sqlite"])
def test_an_export_is_a_folder_or_a_zip(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefenvs.store import Store

    Store(tmp_path / "store.sqlite").close()
    assert "a folder or a .zip" in refused(
        capsys, "store", "export", str(tmp_path / "store.sqlite"), str(tmp_path / name)
    )
    assert not (tmp_path / name).exists()
    main(["store", "export", str(tmp_path / "store.sqlite"), str(tmp_path / "out-1.5")])
    assert (tmp_path / "out-1.5" / "meta.json").is_file()


@pytest.mark.parametrize(
    ("text", "rows"),
    [("steps,labels\n0,1\n5,2\n", [0, 5]), ("steps,labels\n0,1\n5", [0]), ("steps,labels\n0,1\n5,\n", [0, 5])],
)
def test_a_row_that_a_kill_cut_off_is_left_out(text: str, rows: list[float], tmp_path: Path) -> None:
    (tmp_path / "evaluations.csv").write_text(text)
    run = Run(tmp_path)
    assert [row["steps"] for row in run.rows("evaluations")] == rows
    run.drop_rows_after("evaluations", 4)
    assert [row["steps"] for row in run.rows("evaluations")] == [0]
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize("text", ["steps,labels\nmany,1\n", "steps,labels\n1\n", "a\n1\n", "steps\n1,2\n", "s\0\n\0\n"])
def test_a_damaged_table_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "evaluations.csv").write_text(text)
    for read in (lambda run: run.rows("evaluations"), lambda run: run.drop_rows_after("evaluations", 1)):
        with pytest.raises(PrefenvsError, match=r"evaluations\.csv is damaged") as error:
            read(Run(tmp_path))
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 1, "command": "x"}', "\0", "null"])
def test_a_damaged_record_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(PrefenvsError, match=r"run\.json is damaged"):
        Run.resume(tmp_path, "train pebble")
