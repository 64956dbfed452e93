"""Cells run on this machine, by a pool of workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event

from prefenvs.bench.cells import Cell
from prefenvs.bench.folder import BenchFolder, DiskFull, Outcome
from prefenvs.bench.runner.cell import Plan
from prefenvs.bench.runner.process import Stop
from prefenvs.bench.runner.progress import Progress
from prefenvs.bench.runner.seeds import group_seeds, run_seeds

Futures = dict[Future[list[Outcome]], list[Cell]]


def run_local(
    cells: Sequence[Cell], plan: Plan, workers: int, gpus: Sequence[str], progress: Progress
) -> dict[str, Outcome]:
    """Run cells on this machine, `workers` at a time, and return what came of each.

    gpus: identifiers as CUDA_VISIBLE_DEVICES takes them, dealt to the workers in turn; none leaves the variable alone.
    After Ctrl-C the running cells write their checkpoints; a full disk lets them end and starts no more.
    """
    stop, slots = Stop(), SimpleQueue[int]()
    for slot in range(workers):
        slots.put(slot)

    full = Event()

    def work(job: Sequence[Cell]) -> list[Outcome]:
        slot = slots.get()
        try:
            if full.is_set():
                return [Outcome("missing")] * len(job)
            for cell in job:
                progress.start(cell)
            return run_seeds(job, plan, stop, gpus[slot % len(gpus)] if gpus else None)
        except DiskFull:
            full.set()
            raise
        finally:
            slots.put(slot)

    outcomes: dict[str, Outcome] = {}
    with ThreadPoolExecutor(workers) as pool:
        jobs = group_seeds(cells, BenchFolder(plan.folder)) if plan.seeds_at_once else [[cell] for cell in cells]
        futures = {pool.submit(work, job): job for job in jobs}
        try:
            _follow(futures, outcomes, progress)
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                _stop(futures, stop, progress)
            raise
    return outcomes


def _follow(futures: Futures, outcomes: dict[str, Outcome], progress: Progress) -> None:
    left = set(futures)
    while left:
        done, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in done:
            for cell, outcome in zip(futures[future], future.result(), strict=True):
                outcomes[cell.name] = outcome
                progress.end(cell, outcome)
        progress.tick()


def _stop(futures: Futures, stop: Stop, progress: Progress) -> None:
    progress.say("stopping: running cells write their checkpoints (Ctrl-C again: at once)")
    stop.set()
    # A cell that was still waiting is cancelled and has no end: `wait` would wait for it for ever.
    running = [future for future in futures if not future.cancelled()]
    try:
        wait(running)
    except KeyboardInterrupt:
        stop.hurry = True
        wait(running)
