"""The same cells as Ray tasks: on a cluster, or on a Ray of this machine."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefenvs.bench.cells import Cell
from prefenvs.bench.folder import BenchFolder, Outcome
from prefenvs.bench.runner.cell import Plan, run_cell
from prefenvs.bench.runner.process import Stop
from prefenvs.bench.runner.progress import Progress
from prefenvs.errors import PrefenvsError, failure_told, import_extra

SMALL = 20_000_000
"""Bytes of a file that a node sends back where it does not share the benchmark's folder."""
KEPT = ("run.json", "summary.json", "evaluations.csv", "reward.json", "learning_curve.png")


def run_on_ray(
    cells: Sequence[Cell], plan: Plan, address: str, gpus_per_cell: float, progress: Progress
) -> dict[str, Outcome]:
    """Run cells as tasks of the Ray cluster at `address`, and return what came of each.

    address: host:port, "auto", or "local" for a Ray that is started here and ends with this run. Every node needs
    prefenvs; where nodes do not share the folder, figures come back but checkpoints and data sets stay there.
    """
    ray = _import_ray()
    _connect(ray, address)
    token = secrets.token_hex(8)
    (plan.folder / ".token").write_text(token)
    task = ray.remote(_run_there).options(num_cpus=plan.threads, num_gpus=gpus_per_cell, max_retries=0)
    outcomes: dict[str, Outcome] = {}
    left: dict[Any, Cell] = {}
    try:
        left = {task.remote(cell, plan, token): cell for cell in cells}
        while left:
            done, _ = ray.wait(list(left), timeout=0.5)
            for reference in done:
                cell = left.pop(reference)
                outcomes[cell.name] = _receive(ray, reference, cell, plan)
                progress.end(cell, outcomes[cell.name])
            _note_started(left.values(), plan, progress)
            progress.tick()
    finally:
        if left:
            progress.say("stopping: running cells write their checkpoints")
            for reference in left:
                ray.cancel(reference, force=False)
            ray.wait(list(left), num_returns=len(left), timeout=90)
        ray.shutdown()
    return outcomes


def _run_there(cell: Cell, plan: Plan, token: str) -> tuple[Outcome, dict[str, bytes]]:
    """Run one cell on whatever node this is; return its files where the folder is not shared with the driver."""
    mark = plan.folder / ".token"
    shared = mark.exists() and mark.read_text() == token
    plan.folder.mkdir(parents=True, exist_ok=True)
    if not plan.cwd.is_dir():
        plan = replace(plan, cwd=Path.cwd())
    outcome = run_cell(cell, plan, Stop())
    run = BenchFolder(plan.folder).run(cell)
    files = [] if shared else [run / name for name in KEPT if (run / name).exists()]
    return outcome, {path.name: path.read_bytes() for path in files if path.stat().st_size <= SMALL}


def _receive(ray: Any, reference: Any, cell: Cell, plan: Plan) -> Outcome:
    """Take a task's result, and note a task that was lost with its node as a failed cell."""
    folder = BenchFolder(plan.folder)
    try:
        found: tuple[Outcome, dict[str, bytes]] = ray.get(reference)
    except PrefenvsError:
        raise
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, PrefenvsError):
            raise type(cause)(str(cause)) from None
        found = Outcome("failed", f"lost by Ray: {str(error).strip().splitlines()[-1]}"), {}
        folder.begin(cell)
        folder.end(cell, found[0])
    outcome, files = found
    if files:
        folder.begin(cell)
        folder.run(cell).mkdir(exist_ok=True)
        for name, content in files.items():
            (folder.run(cell) / name).write_bytes(content)
        folder.end(cell, outcome)
    return outcome


def _note_started(cells: Iterable[Cell], plan: Plan, progress: Progress) -> None:
    folder = BenchFolder(plan.folder)
    for cell in cells:
        if cell.name in progress.waiting and (folder.cell(cell) / "process.txt").exists():
            progress.start(cell)


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return import_extra("ray", "--ray")


def _connect(ray: Any, address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address not in ("auto", "local"):
        if not host or not port.isdigit():
            raise PrefenvsError(f"--ray {address!r} is no address: give host:port, auto or local")
        try:
            # Ray itself would try for minutes.
            socket.create_connection((host, int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            raise PrefenvsError(
                f"no Ray cluster answers at {address}: {error}; `ray start --head` starts one"
            ) from None
    with failure_told(f"no Ray cluster can be used at {address!r}"):
        started = {"include_dashboard": False} if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **started)
