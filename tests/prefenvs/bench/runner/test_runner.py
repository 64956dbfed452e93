"""Cells under limits: what crashes, hangs or hogs is told, retried or ended, and hurts no other cell."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread

import psutil
import pytest

from prefenvs.bench import Limits, find_suite
from prefenvs.bench.folder import BenchFolder, DiskFull
from prefenvs.bench.runner.cell import Plan, run_cell
from prefenvs.bench.runner.process import Stop
from prefenvs.errors import PrefenvsError

from ..conftest import Bench
from ..own import own_parts as parts


def cells_of(*methods: str, **settings: object) -> list:
    return parts.make_suite(*(f"own_parts:{name}" for name in methods), **settings).cells()


def test_cells_finish_and_leave_their_provenance(bench: Bench) -> None:
    cells = find_suite("own_parts:GOOD").cells()
    outcomes = bench.run(cells)
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    for cell in cells:
        assert bench.folder.outcome(cell) == outcomes[cell.name]
        assert outcomes[cell.name].provenance["versions"]["numpy"]
        assert outcomes[cell.name].provenance["threads"] == 1
        assert outcomes[cell.name].seconds > 0
        written = time.localtime((bench.folder.run(cell) / "summary.json").stat().st_mtime)
        assert outcomes[cell.name].provenance["finished"] >= time.strftime("%Y-%m-%dT%H:%M:%S%z", written)
        assert f"--seed {cell.seed}" in outcomes[cell.name].lines[0]
    assert bench.text.getvalue().count("finished") == len(cells)


def test_a_crash_is_retried_told_with_its_last_lines_and_hurts_nobody(bench: Bench) -> None:
    cells = find_suite("own_parts:MIXED").cells()
    outcomes = bench.run(cells, retries=2)
    by_method = {
        cell.method.removeprefix("own_parts:"): (cell, outcomes[cell.name]) for cell in cells if cell.seed == 0
    }
    cell, outcome = by_method["CRASH"]
    assert (outcome.status, outcome.attempts) == ("failed", 3)
    assert len(bench.starts(cell)) == 3
    assert "exit status 1" in outcome.error
    assert "RuntimeError: the pendulum fell off" in outcome.error
    assert f"FAILED   {cell.name}" in bench.text.getvalue()
    cell, outcome = by_method["CRASH_ONCE"]
    assert (outcome.status, outcome.attempts, outcome.error) == ("finished", 2, "")
    assert by_method["STEADY"][1].status == "finished"


def test_refused_input_and_silence_are_not_retried(bench: Bench) -> None:
    cells = cells_of("REFUSE", "SILENT", "ABSENT", seeds=(0,))
    outcomes = bench.run(cells, retries=3)
    refused, silent, absent = (outcomes[cell.name] for cell in cells)
    assert "labels must be at least 1, got 0" in refused.error
    assert silent.error == "it ended well but wrote no summary.json and no evaluations.csv"
    assert "'there-is-no-such-program' cannot be started" in absent.error
    assert [len(bench.starts(cell)) for cell in cells] == [1, 1, 0]


def test_a_cell_over_its_time_limit_is_ended_with_its_children(bench: Bench) -> None:
    (cell,) = cells_of("HANG", seeds=(0,), limits=Limits(1.0, 1.0))
    begin = time.monotonic()
    outcome = bench.run([cell])[cell.name]
    assert time.monotonic() - begin < 20
    assert outcome.status == "failed"
    assert outcome.error.startswith("over its time limit of 1 s")
    child = int((bench.folder.cell(cell) / "child.txt").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(bench.starts(cell)) == 1


def test_a_cell_over_its_memory_limit_is_ended(bench: Bench) -> None:
    hog, steady = cells_of("HOG", "STEADY", seeds=(0,), limits=Limits(60, 0.3))
    outcomes = bench.run([hog, steady])
    assert outcomes[hog.name].error.startswith("over its memory limit of 0.3 GB")
    assert 0.3 < outcomes[hog.name].peak_gb < 3
    assert outcomes[steady.name].status == "finished"


def test_a_full_disk_stops_the_run_and_keeps_what_has_finished(bench: Bench) -> None:
    cells = cells_of("STEADY", "FULL", "CRASH_ONCE", seeds=(0,))
    with pytest.raises(DiskFull, match=r"is full .*finished cells are kept"):
        bench.run(cells, workers=1)
    assert [bench.folder.outcome(cell).status for cell in cells] == ["finished", "failed", "missing"]
    with pytest.raises(DiskFull, match=r"GB left, less than 1e\+09"):
        bench.run(cells[2:], min_free_gb=1e9)
    assert bench.starts(cells[2]) == []


def test_gpus_are_dealt_and_threads_are_set(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    def note(line, place, limits, stop):
        seen.append(dict(place.environment))
        time.sleep(0.3)
        return real(line, place, limits, stop)

    from prefenvs.bench.runner import cell

    real = cell.supervise
    monkeypatch.setattr(cell, "supervise", note)
    bench.run(cells_of("STEADY", seeds=(0, 1, 2, 3)), workers=2, gpus=("4", "7"), threads=3)
    assert {environment["CUDA_VISIBLE_DEVICES"] for environment in seen} == {"4", "7"}
    assert {environment["OMP_NUM_THREADS"] for environment in seen} == {"3"}


def test_shared_data_are_made_once(bench: Bench) -> None:
    cells = find_suite("own_parts:WITH_DATA").cells()
    outcomes = bench.run(cells)
    assert {outcome.status for outcome in outcomes.values()} == {"finished"}
    made = bench.folder.data(cells[0].data)
    assert list((made / "episodes").iterdir())
    assert f"--dataset {made}/episodes" in outcomes[cells[0].name].lines[0]
    assert made.with_name("pendulum.txt").read_text().count("episodes") > 0
    stamp = made.stat().st_mtime_ns
    (again,) = cells_of("OFFLINE", seeds=(5,), data=cells[0].data)
    assert bench.run([again])[again.name].status == "finished"
    assert made.stat().st_mtime_ns == stamp


def test_data_that_cannot_be_made_fail_their_cells_only(bench: Bench) -> None:
    cells = find_suite("own_parts:BAD_DATA").cells()[:1] + cells_of("STEADY", seeds=(0,))
    outcomes = bench.run(cells)
    bad, good = (outcomes[cell.name] for cell in cells)
    assert bad.status == "failed"
    assert "unknown task 'NoSuchTask-v0'" in bad.error
    assert good.status == "finished"


def test_data_that_cannot_be_made_for_seeds_together_fail_their_cells_only(bench: Bench) -> None:
    settings = {"dataset": "{data}/x", "data": find_suite("own_parts:BAD_DATA").grids[0].data}
    cells = parts.make_suite("bc", **settings).cells() + cells_of("STEADY", seeds=(0,))
    outcomes = bench.run(cells, workers=1, seeds_at_once=True)
    assert [outcomes[cell.name].status for cell in cells] == ["failed", "failed", "finished"]
    assert "unknown task 'NoSuchTask-v0'" in outcomes[cells[0].name].error


def test_a_cell_that_went_on_by_other_code_says_so(bench: Bench) -> None:
    (cell,) = cells_of("PATIENT", seeds=(0,))
    checkpoint = bench.folder.run(cell) / "checkpoint"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    begun = {"commit": "older", "versions": {"numpy": "0.1"}}
    (bench.folder.run(cell) / "run.json").write_text(json.dumps(begun))
    outcome = bench.run([cell])[cell.name]
    assert (outcome.status, bench.starts(cell)) == ("finished", ["resumed"])
    assert outcome.provenance["commit"].startswith("older then ")
    assert outcome.provenance["versions"]["numpy"].startswith("0.1 then ")


def test_a_program_left_behind_is_ended_before_its_cell_starts_again(bench: Bench) -> None:
    import subprocess
    import sys

    (cell,) = cells_of("STEADY", seeds=(0,))
    bench.folder.begin(cell)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as orphan:
        started = psutil.Process(orphan.pid).create_time()
        (bench.folder.cell(cell) / "process.txt").write_text(f"{orphan.pid} {started}")
        assert bench.run([cell])[cell.name].status == "finished"
        assert orphan.poll() is not None
    # A number that has been given to another program since is left alone.
    (bench.folder.cell(cell) / "process.txt").write_text(f"{os.getpid()} 1.0")
    bench.run([cell])


def test_a_program_hears_ctrl_c_even_where_its_starter_does_not(bench: Bench) -> None:
    (cell,) = cells_of("PATIENT", seeds=(0,))
    stop, outcomes = Stop(), []

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        outcomes.append(run_cell(cell, Plan(bench.folder.folder, Path.cwd(), min_free_gb=0.0), stop))

    thread = Thread(target=work)
    thread.start()
    while not (bench.folder.cell(cell) / "ready").exists():
        time.sleep(0.05)
    begin = time.monotonic()
    stop.set()
    thread.join()
    assert time.monotonic() - begin < 20
    assert outcomes[0].status == "stopped"
    assert (bench.folder.run(cell) / "checkpoint" / "state.json").exists()


def test_another_runner_and_other_definitions_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = find_suite("own_parts:GOOD")
    bench.folder.save_suite(suite)
    at_work = pytest.raises(PrefenvsError, match="another `prefenvs bench run` is at work")
    with bench.folder.locked(), at_work, BenchFolder(bench.folder.folder).locked():
        pass
    with pytest.raises(PrefenvsError, match="holds the suite 'own'"):
        bench.folder.save_suite(find_suite("own_parts:TINY"))
    bench.run(suite.cells()[:1])
    with pytest.raises(PrefenvsError, match="was run with other options"):
        bench.folder.save_suite(parts.make_suite("own_parts:STEADY", options={"score": 7}))
    bench.folder.save_suite(suite)
    monkeypatch.setattr("own_parts.STEADY", replace(parts.STEADY, options={"score": 7}))
    with pytest.raises(PrefenvsError, match="was run with other options"):
        bench.folder.save_suite(suite)
    # Folders of older versions do not know.
    written = bench.folder.cell(suite.cells()[0]) / "cell.json"
    held = json.loads(written.read_text())
    written.write_text(json.dumps({name: held[name] for name in suite.cells()[0].definition}))
    bench.folder.save_suite(suite)


def test_a_failed_cell_is_tried_again_by_the_next_run(bench: Bench) -> None:
    (cell,) = cells_of("CRASH_ONCE", seeds=(0,))
    assert bench.run([cell], retries=0)[cell.name].status == "failed"
    assert bench.run([cell], retries=0)[cell.name].status == "finished"
