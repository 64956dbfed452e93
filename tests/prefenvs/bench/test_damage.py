"""A benchmark whose files are damaged, whose disk is full, or whose programs leave something running."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefenvs.agents.registry import find_algorithm
from prefenvs.bench import Cell, find_suite, list_methods, list_suites
from prefenvs.bench.methods import GRID
from prefenvs.bench.results import collect
from prefenvs.cli.bench.suites import BenchRun
from prefenvs.errors import PrefenvsError

from .conftest import Bench
from .own import own_parts as parts


@pytest.fixture
def finished(bench: Bench) -> Bench:
    """Two finished cells, written without running them."""
    suite = find_suite("own_parts:GOOD")
    bench.folder.save_suite(suite)
    for cell in suite.cells()[:2]:
        bench.folder.begin(cell)
        run = bench.folder.run(cell)
        run.mkdir()
        (run / "evaluations.csv").write_text("steps,labels,mean_return\n0,0,1.0\n10,5,2.0\n")
        (run / "summary.json").write_text("{}")
        outcome = bench.folder.outcome(cell)
        bench.folder.end(cell, dataclasses.replace(outcome, status="finished"))
    return bench


DAMAGE = {
    "a word in a table": ("run/evaluations.csv", b"steps,labels,mean_return\n0,0,much\n"),
    "no column": ("run/evaluations.csv", b"a\n1\n"),
    "no row": ("run/evaluations.csv", b"steps,labels,mean_return\n"),
    "an empty table": ("run/evaluations.csv", b""),
    "bytes in a table": ("run/evaluations.csv", b"\xff\xfe\0"),
    "an empty outcome": ("outcome.json", b""),
    "half an outcome": ("outcome.json", b'{"status": "fini'),
    "a list for an outcome": ("outcome.json", b"[]"),
    "a foreign outcome": ("outcome.json", b'{"status": "splendid", "lines": []}'),
    "an outcome of other fields": ("outcome.json", b'{"state": 1}'),
    "a damaged judgement": ("run/reward.json", b"{"),
    "a judgement of words": ("run/reward.json", b'{"accuracy": "good"}'),
    "a damaged record": ("run/run.json", b"\0"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_hides_no_other_cell(name: str, finished: Bench) -> None:
    path, content = DAMAGE[name]
    cells = find_suite("own_parts:GOOD").cells()
    (finished.folder.cell(cells[0]) / path).write_bytes(content)
    results = collect(finished.folder.folder)
    status = dict(zip(results.frame["cell"], results.frame["status"], strict=True))
    assert (status[cells[0].name], status[cells[1].name]) == ("failed", "finished")
    reason = str(results.frame[results.frame["cell"] == cells[0].name]["reason"].iloc[0])
    assert len(reason.splitlines()) == 1
    assert "damaged" in reason or "holds no row" in reason
    assert results.write().is_file()


def test_a_table_that_is_gone_is_told(finished: Bench) -> None:
    cell = find_suite("own_parts:GOOD").cells()[0]
    (finished.folder.run(cell) / "evaluations.csv").unlink()
    frame = collect(finished.folder.folder).frame
    assert "is missing" in str(frame[frame["cell"] == cell.name]["reason"].iloc[0])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "own", "cells": [{"method": 1}]}'])
def test_a_damaged_suite_is_one_line_and_written_anew(content: str, finished: Bench) -> None:
    path = finished.folder.folder / "suite.json"
    path.write_text(content)
    with pytest.raises(PrefenvsError, match=r"suite\.json is damaged") as error:
        collect(finished.folder.folder)
    assert len(str(error.value).splitlines()) == 1
    if content != "{}":
        finished.folder.save_suite(find_suite("own_parts:GOOD"))
        assert (collect(finished.folder.folder).frame["status"] == "finished").sum() == 4


def test_a_damaged_outcome_is_run_again(finished: Bench) -> None:
    cell = find_suite("own_parts:GOOD").cells()[0]
    (finished.folder.cell(cell) / "outcome.json").write_text("")
    assert finished.folder.outcome(cell).status == "failed"
    assert finished.run([cell])[cell.name].status == "finished"


def test_a_full_disk_is_one_line_and_does_not_hide_why_a_run_ended(
    finished: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    def write_table(table: Any, where: Path) -> None:
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", write_table)
    with pytest.raises(PrefenvsError, match=r"results\.parquet cannot be written \(No space left on device\)"):
        collect(finished.folder.folder).write()
    assert not list(finished.folder.folder.glob("results*"))
    command = BenchRun("own_parts:GOOD", folder=finished.folder.folder, workers=1, min_free_gb=1e9)
    with pytest.raises(PrefenvsError, match="GB left, less than 1e"):
        command.run()


def test_what_leaves_its_program_ends_with_the_cell(bench: Bench) -> None:
    (cell,) = parts.make_suite("own_parts:DAEMON", seeds=(0,)).cells()
    assert bench.run([cell])[cell.name].status == "finished"
    child = int((bench.folder.cell(cell) / "child.txt").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def flags(name: str) -> set[str]:
    """Names of the options of a training, with the algorithm's own."""
    from prefenvs.cli.train.offline import DataOptions, LabelOptions, OfflineTraining
    from prefenvs.cli.train.online import OnlineTask, RewardTraining
    from prefenvs.cli.train.options import Training
    from prefenvs.cli.train.raters import RaterOptions

    algorithm = find_algorithm(name)
    online: list[Any] = [OnlineTask, RaterOptions, RewardTraining if algorithm.takes_reward_model else Training]
    kinds = [DataOptions, LabelOptions, OfflineTraining] if algorithm.source == "offline" else online
    kinds += [kind for kind in (algorithm.config, algorithm.options) if kind is not None]
    return {field.name for kind in kinds for field in dataclasses.fields(kind)}


@pytest.fixture(scope="module")
def given() -> dict[str, list[tuple[str, Cell]]]:
    """Every cell of every suite, with the suite's name, by its method."""
    cells: dict[str, list[tuple[str, Cell]]] = {}
    for suite in list_suites():
        for cell in suite.cells():
            cells.setdefault(cell.method, []).append((suite.name, cell))
    return cells


@pytest.mark.parametrize("name", [m.name for m in list_methods() if m.command[0] == "train"])
def test_a_method_takes_every_option_that_suites_give_it(name: str, given: dict[str, list[tuple[str, Cell]]]) -> None:
    (method,) = [method for method in list_methods() if method.name == name]
    known = flags(method.command[1])
    assert {option.partition(".")[0] for option in method.options} <= known | {"reward"}
    for suite, cell in given.get(name, []):
        top = {option.partition(".")[0] for option in cell.options}
        assert top <= known | {"reward"}, f"{suite}: {cell.name}"


@pytest.mark.parametrize("option", GRID)
def test_every_option_of_sessions_is_one_of_the_command_line(option: str) -> None:
    assert option in flags("pebble")
