"""The seeds of a cell trained in one program, where the method's learners can share their gradient steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefenvs.bench.cells import Cell
from prefenvs.bench.folder import BenchFolder, Outcome
from prefenvs.bench.methods import find_method
from prefenvs.bench.runner.cell import Plan, Stopped, environment_of, prepare, run_cell
from prefenvs.bench.runner.process import Exit, Place, Stop, supervise
from prefenvs.errors import PrefenvsError


def group_seeds(cells: Sequence[Cell], folder: BenchFolder) -> list[list[Cell]]:
    """Return cells in groups that differ in their seeds alone, of methods that train seeds together.

    What has been begun already goes on by itself, from its own checkpoint.
    """
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        together = find_method(cell.method).seeds_together and not folder.run(cell).exists()
        key = repr(replace(cell, seed=0)) if together else cell.name
        groups.setdefault(key, []).append(cell)
    return list(groups.values())


def run_seeds(cells: Sequence[Cell], plan: Plan, stop: Stop, gpu: str | None = None) -> list[Outcome]:
    """Bring the cells of a group to their ends; a single cell is run as `run_cell` does.

    One program trains all. Whatever comes of it, each cell is then completed by itself: measured if it is trained, else
    continued from its checkpoint or begun anew. Time of the program counts in equal parts.
    """
    if len(cells) == 1:
        return [run_cell(cells[0], plan, stop, gpu)]
    end = _train(cells, plan, stop, gpu)
    folder, outcomes = BenchFolder(plan.folder), []
    for cell in cells:
        outcome = Outcome("stopped") if stop.is_set() else run_cell(cell, plan, stop, gpu)
        outcome = replace(
            outcome,
            seconds=round(outcome.seconds + end.seconds / len(cells), 1),
            cpu_seconds=round(outcome.cpu_seconds + end.cpu_seconds / len(cells), 1),
            peak_gb=round(max(outcome.peak_gb, end.peak_gb), 3),
        )
        folder.end(cell, outcome)
        outcomes.append(outcome)
    return outcomes


def _train(cells: Sequence[Cell], plan: Plan, stop: Stop, gpu: str | None) -> Exit:
    """Run the one program; what went wrong shows again where each cell is completed, and is explained there."""
    folder, first = BenchFolder(plan.folder), cells[0]
    folder.check_space(plan.min_free_gb)
    for cell in cells:
        folder.begin(cell)
    place = Place(folder.cell(first), folder.cell(first) / "log.txt", plan.cwd, environment_of(plan, gpu))
    limits = replace(first.limits, seconds=len(cells) * first.limits.seconds)
    nothing = Exit(0, "", 0.0, 0.0, 0.0)
    try:
        data = None if first.data is None else prepare(first.data, folder, limits, stop, place)
    except (Stopped, PrefenvsError):
        return nothing
    # The names of the cells differ in their last part, the seed.
    name = first.name.removesuffix(str(first.seed)) + "{seed}"
    run: Path = folder.cell(first).with_name(name) / folder.run(first).name
    line = find_method(first.method).commands(first, run, data)[0]
    at = line.index("--seed")
    line[at : at + 2] = ["--seeds", *(str(cell.seed) for cell in cells)]
    return supervise(line, place, limits, stop)
