"""Ctrl-C and kill -9: finished cells stay, running ones go on from where they were."""

import contextlib
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from prefenvs.bench import find_suite
from prefenvs.bench.folder import BenchFolder
from prefenvs.bench.methods import OURS
from prefenvs.cli import main


def start(folder: Path, own: Path, suite: str, workers: int = 2) -> subprocess.Popen:
    line = [*OURS, "bench", "run", suite, "--folder", str(folder), "--workers", str(workers)]
    line += ["--min-free-gb", "0"]
    return subprocess.Popen(line, cwd=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(program: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(program).status() != psutil.STATUS_ZOMBIE
    return False


def marks(folder: BenchFolder, cell) -> list[str]:
    return (folder.cell(cell) / "starts.txt").read_text().split()


def test_after_ctrl_c_the_same_command_goes_on(tmp_path: Path, own: Path) -> None:
    folder = BenchFolder(tmp_path / "bench")
    steady, patient = find_suite("own_parts:WAITING").cells()
    first = start(folder.folder, own, "own_parts:WAITING")
    wait_for(lambda: (folder.cell(patient) / "ready").exists() and folder.outcome(steady).status == "finished")
    first.send_signal(signal.SIGINT)
    output = first.communicate(timeout=60)[0]
    assert first.returncode == 130
    assert "running cells write their checkpoints" in output
    assert folder.outcome(patient).status == "stopped"
    assert (folder.folder / "results.parquet").exists()
    second = start(folder.folder, own, "own_parts:WAITING")
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0, output
    assert "1 finished already" in output
    assert marks(folder, steady) == ["started"]
    assert marks(folder, patient) == ["started", "resumed"]
    outcome = folder.outcome(patient)
    assert (outcome.status, outcome.attempts) == ("finished", 2)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stops_while_cells_still_wait_for_a_worker(tmp_path: Path, own: Path, ending: signal.Signals) -> None:
    folder = BenchFolder(tmp_path / "bench")
    patient, waiting = find_suite("own_parts:QUEUED").cells()
    program = start(folder.folder, own, "own_parts:QUEUED", workers=1)
    wait_for(lambda: (folder.cell(patient) / "ready").exists())
    program.send_signal(ending)
    output = program.communicate(timeout=60)[0]
    assert program.returncode == 130, output
    assert folder.outcome(patient).status == "stopped"
    assert folder.outcome(waiting).status == "missing"


def test_after_kill_9_the_same_command_goes_on(tmp_path: Path, own: Path) -> None:
    folder = BenchFolder(tmp_path / "bench")
    steady, patient = find_suite("own_parts:WAITING").cells()
    first = start(folder.folder, own, "own_parts:WAITING")
    wait_for(lambda: (folder.cell(patient) / "ready").exists() and folder.outcome(steady).status == "finished")
    program = int((folder.cell(patient) / "process.txt").read_text().split()[0])
    assert psutil.pid_exists(program)
    first.kill()
    first.communicate(timeout=60)
    # It ends by itself, as after Ctrl-C: nothing trains on that nobody waits for.
    wait_for(lambda: not runs(program))
    assert (folder.run(patient) / "checkpoint" / "state.json").exists()
    second = start(folder.folder, own, "own_parts:WAITING")
    output = second.communicate(timeout=60)[0]
    assert second.returncode == 0, output
    assert marks(folder, steady) == ["started"]
    assert marks(folder, patient) == ["started", "resumed"]


def test_failed_cells_are_named_at_the_end(tmp_path: Path, own: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "bench")
    with pytest.raises(SystemExit) as end:
        main(["bench", "run", "own_parts:MIXED", "--folder", folder, "--min-free-gb", "0"])
    last = capfd.readouterr().err.splitlines()[-1]
    assert end.value.code == 2
    assert "2 of 6 cells failed" in last
    assert "exit status 1" in last
    main(["bench", "table", folder])
    told = capfd.readouterr().out
    assert "exit status 1" in told
    assert "| Own, crash (10 labels) | missing |" in told
