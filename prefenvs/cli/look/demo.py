"""`prefenvs demo`, the main job: a robot learns a task from preferences, beside what coin flips teach it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefenvs.cli.look.record import record_side_by_side
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.limits import PositiveInt, Seed
from prefenvs.runs import Run

if TYPE_CHECKING:
    from prefenvs.bench import Cell
    from prefenvs.bench.folder import BenchFolder

COLUMNS = {
    "pebble": "labels",
    "pebble-coin": "coin flips",
    "pebble-true-reward-explored": "true reward",
}
"""The methods of the suite `demo`, and what they are called here."""


@dataclass(frozen=True)
class Demo:
    """Teach a robot to run from a simulated rater's preferences, from coin flips and from the true reward, and compare.

    One seed of the suite `demo`, cut to about four minutes: `prefenvs bench run demo` trains ten seeds for 15,000 steps
    each, with exploration alone as a further control.
    """

    seed: Seed = 0
    """Seed."""
    steps: PositiveInt = 12_000
    """Environment steps of each training; the last answers come at step 10,800."""
    folder: Path | None = None
    """Folder of the benchmark; runs/demo-<time> by default. The same folder again goes on where it stopped."""
    workers: PositiveInt = 3
    """Trainings at a time."""

    def run(self) -> None:
        """Train, print the learning curves beside each other, and write a video of the policies side by side."""
        from prefenvs.bench import find_suite
        from prefenvs.bench.folder import BenchFolder
        from prefenvs.cli.bench.suites import BenchRun

        gl_backend()  # a machine that cannot render says so before it trains
        suite = find_suite("demo")
        suite = replace(
            suite,
            grids=tuple(
                replace(grid, methods=tuple(COLUMNS), seeds=(self.seed,), options={**grid.options, "steps": self.steps})
                for grid in suite.grids
            ),
        )
        folder = self.folder or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
        BenchRun("demo", folder=folder, workers=self.workers).run_suite(suite)
        place, cells = BenchFolder(folder.absolute()), {cell.method: cell for cell in suite.cells()}
        print("\n".join(table(place, cells)))
        shown = ("pebble-coin", "pebble")
        video = folder / "side_by_side.mp4"
        captions = tuple(f"after {cells['pebble'].labels:,} {what}" for what in ("coin flips", "labels"))
        print(f"video: {record_side_by_side([Run.open(place.run(cells[m])) for m in shown], captions, video)}")
        print(f"report with curves and label lift: prefenvs bench table {folder}")


def table(place: BenchFolder, cells: Mapping[str, Cell]) -> list[str]:
    """Return the lines of a table: evaluations by environment steps, a column for each rater."""
    curves = {method: Run.open(place.run(cell)).rows("evaluations") for method, cell in cells.items()}
    task = next(iter(cells.values())).task
    lines = [f"{task}: true return of the policy, by what it learned from", ""]
    lines += [f"{'steps':>8} {'labels':>7}" + "".join(f"{COLUMNS[method]:>18}" for method in COLUMNS)]
    for rows in zip(*(curves[method] for method in COLUMNS), strict=True):
        figures = (f"{row['mean_return']:,.0f}" for row in rows)
        steps, labels = (int(rows[0][name]) for name in ("steps", "labels"))
        lines.append(f"{steps:>8,} {labels:>7,}" + "".join(f"{figure:>18}" for figure in figures))
    return [*lines, ""]
