"""One cell run as a program of its own; `local_runner` and `ray_runner` run many."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shlex
import shutil
import signal
import site
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import prefenvs
from prefenvs.bench.cells import Cell, Data, Limits
from prefenvs.bench.folder import BenchFolder, DiskFull, Outcome, read_json
from prefenvs.bench.methods import OURS, Method, find_method
from prefenvs.bench.runner.process import Exit, Place, Stop, end_orphan, last_lines, supervise
from prefenvs.errors import PrefenvsError
from prefenvs.runs import provenance

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
FULL = os.strerror(errno.ENOSPC)


class Stopped(Exception):
    """Ctrl-C while a shared data set was made or waited for."""


@dataclass(frozen=True)
class Plan:
    """How cells are run, wherever they are.

    folder: the benchmark's; cwd: where programs start, for methods and tasks of one's own; threads: CPU threads of one
    cell; retries: how often a crashed cell is started again; min_free_gb: disk space below which no cell is started;
    seeds_at_once: train the seeds of a cell in one program where the method can.
    """

    folder: Path
    cwd: Path
    threads: int = 1
    retries: int = 1
    min_free_gb: float = 1.0
    seeds_at_once: bool = False


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_cell(cell: Cell, plan: Plan, stop: Stop, gpu: str | None = None) -> Outcome:
    """Bring one cell to its end, from its checkpoint if it has one, and note and return what came of it.

    A crash is tried again `plan.retries` times; a limit that was passed, and input that was refused, would only be so
    again. A cell that `stop` ended is "stopped". Raises DiskFull.
    """
    folder, method = BenchFolder(plan.folder), find_method(cell.method)
    try:
        folder.check_space(plan.min_free_gb)
        folder.begin(cell)
        place = Place(folder.cell(cell), folder.cell(cell) / "log.txt", plan.cwd, environment_of(plan, gpu))
        end_orphan(place)
        before = folder.outcome(cell)
        outcome = before if before.status == "stopped" else Outcome("missing")
        outcome = replace(outcome, provenance=provenance() | _machine(plan, gpu))
        try:
            data = None if cell.data is None else prepare(cell.data, folder, cell.limits, stop, place)
            tries, again = 0, True
            while again:
                tries += 1
                outcome, again = _attempt(cell, method, folder, data, place, outcome, stop)
                again = again and tries <= plan.retries and not stop.is_set()
        except Stopped:
            outcome = replace(outcome, status="stopped")
        except PrefenvsError as error:
            outcome = replace(outcome, status="failed", error=str(error))
        now = {"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        outcome = replace(outcome, provenance=_since_begun(folder.run(cell), outcome.provenance | now))
        folder.end(cell, outcome)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(_disk_full(plan, cell)) from None
    if outcome.status == "failed" and FULL in outcome.error:
        raise DiskFull(_disk_full(plan, cell))
    return outcome


def _attempt(
    cell: Cell, method: Method, folder: BenchFolder, data: Path | None, place: Place, outcome: Outcome, stop: Stop
) -> tuple[Outcome, bool]:
    """Start or continue a cell once; return what came of it, and whether another try might end better."""
    run = folder.run(cell)
    trained, resume = (run / "summary.json").exists(), method.checkpoints and _has_checkpoint(run)
    if not (trained or resume):
        folder.forget(cell)
    lines, afresh = (method.commands(cell, run, data, go_on) for go_on in (resume, False))
    # What repeats the run: not how this try of it went on, nor that its seeds were trained together.
    outcome = replace(outcome, attempts=outcome.attempts + 1, lines=tuple(shlex.join(line) for line in afresh))
    for line in lines[1:] if trained else lines:
        with place.log.open("a") as log:
            log.write(f"$ {shlex.join(line)}\n")
        end = supervise(line, place, cell.limits, stop)
        outcome = _add(outcome, end)
        if end.reason == "stopped":
            return replace(outcome, status="stopped"), False
        if end.reason or end.code:
            error, again = _explain(end, cell.limits, last_lines(place.log))
            return replace(outcome, status="failed", error=error), again
    missing = [name for name in ("summary.json", "evaluations.csv") if not (run / name).exists()]
    if missing:
        return replace(outcome, status="failed", error=f"it ended well but wrote no {' and no '.join(missing)}"), False
    return replace(outcome, status="finished", error=""), False


def _explain(end: Exit, limits: Limits, output: str) -> tuple[str, bool]:
    """Return why a program failed, and whether another try might end better."""
    if end.reason == "time":
        return f"over its time limit of {limits.seconds:g} s\n{output}", False
    if end.reason == "memory":
        return f"over its memory limit of {limits.memory_gb:g} GB: {end.peak_gb:.2f} GB\n{output}", False
    if end.code < 0:
        return f"ended by {signal.Signals(-end.code).name}\n{output}", True
    refused = end.code == 2 and ("prefenvs: " in output or "rror" in output)
    return f"exit status {end.code}\n{output}", not refused


def _add(outcome: Outcome, end: Exit) -> Outcome:
    return replace(
        outcome,
        seconds=round(outcome.seconds + end.seconds, 1),
        cpu_seconds=round(outcome.cpu_seconds + end.cpu_seconds, 1),
        peak_gb=round(max(outcome.peak_gb, end.peak_gb), 3),
    )


def prepare(data: Data, folder: BenchFolder, limits: Limits, stop: Stop, place: Place) -> Path:
    """Make a shared data set unless it is there, one worker at a time; return its folder.

    Raises PrefenvsError if one of its commands fails, and Stopped after Ctrl-C.
    """
    made = folder.data(data)
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_name(f"{data.name}.lock").open("w") as lock:
        while not _try_lock(lock):
            if stop.wait(0.2):
                raise Stopped
        if made.exists() or not data.commands:
            return made
        new = made.with_name(f"{data.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        for words in data.commands:
            line = [*OURS, *(word.replace("{data}", str(new)) for word in words)]
            end = supervise(line, replace(place, log=made.with_name(f"{data.name}.txt")), limits, stop)
            if end.reason == "stopped":
                raise Stopped
            if end.reason or end.code:
                raise PrefenvsError(
                    f"data set {data.name!r} could not be made by `{shlex.join(line)}`: "
                    f"{_explain(end, limits, last_lines(made.with_name(f'{data.name}.txt'), 3))[0]}"
                )
        new.rename(made)
    return made


def _try_lock(lock: Any) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_checkpoint(run: Path) -> bool:
    places = ("checkpoint/state.json", "checkpoint.old/state.json", "checkpoint/model.zip")
    return (run / "run.json").exists() and any((run / place).exists() for place in places)


def environment_of(plan: Plan, gpu: str | None) -> dict[str, str]:
    """Return what a cell's programs find in their environment beside this process's own."""
    environment = dict.fromkeys(THREADS, str(plan.threads)) | {"PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    root = str(Path(prefenvs.__file__).resolve().parents[1])
    if root not in site.getsitepackages():
        # A checkout, perhaps another than the installed one: programs run the code that started them.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return environment


def _since_begun(run: Path, code: dict[str, Any]) -> dict[str, Any]:
    """Add to provenance the commit and versions by which a run was begun, where it went on by others."""
    path = run / "run.json"
    begun = read_json(path) if path.exists() else {}

    def both(old: str | None, new: str) -> str:
        return new if old in (None, new) else f"{old} then {new}"

    old = begun.get("versions", {})
    versions = {name: both(old.get(name), version) for name, version in code["versions"].items()}
    return code | {"commit": both(begun.get("commit"), code["commit"]), "versions": versions}


def _machine(plan: Plan, gpu: str | None) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "processors": processors(),
        "threads": plan.threads,
        "gpu": gpu if gpu is not None else os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }


def processor_name() -> str:
    """Name of this machine's processor, as its maker calls it where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _disk_full(plan: Plan, cell: Cell) -> str:
    return (
        f"the disk of {plan.folder} is full (noticed by {cell.name}): make room and run the same command again, "
        "finished cells are kept"
    )
