"""What a benchmark tells while it runs: cells that end, and how long the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from threading import Lock
from typing import TextIO

from prefenvs.bench.cells import Cell
from prefenvs.bench.folder import BenchFolder, Outcome

QUIET_SECONDS = 60.0
"""Where the output is no terminal, how often the state is printed while nothing happens."""


class Progress:
    """Prints a line for each cell that ends, and keeps one with the state and an ETA below them."""

    def __init__(
        self,
        folder: BenchFolder,
        cells: Sequence[Cell],
        finished: Sequence[Cell],
        workers: int,
        out: TextIO | None = None,
    ) -> None:
        self.folder, self.workers, self.out = folder, workers, out or sys.stderr
        self.waiting = {cell.name: cell for cell in cells}
        self.running: dict[str, tuple[Cell, float]] = {}
        self.total, self.done, self.failed = len(cells) + len(finished), len(finished), 0
        self.spent = [(cell, folder.outcome(cell).seconds) for cell in finished]
        self._lock, self._printed = Lock(), 0.0

    def start(self, cell: Cell) -> None:
        """Note that a cell has been started."""
        with self._lock:
            self.waiting.pop(cell.name, None)
            self.running[cell.name] = (cell, time.monotonic())

    def end(self, cell: Cell, outcome: Outcome) -> None:
        """Note and print what came of a cell."""
        with self._lock:
            self.waiting.pop(cell.name, None)
            self.running.pop(cell.name, None)
        if outcome.status == "finished":
            self.done += 1
            self.spent.append((cell, outcome.seconds))
            self.say(f"finished {cell.name} in {duration(outcome.seconds)}")
        elif outcome.status == "failed":
            self.failed += 1
            self.say(f"FAILED   {cell.name} after {duration(outcome.seconds)}: {outcome.error}")
        self._printed = 0.0

    def say(self, line: str) -> None:
        """Print a line above the state."""
        self.out.write(f"\r\x1b[K{line}\n" if self.out.isatty() else f"{line}\n")
        self.out.flush()

    def tick(self) -> None:
        """Print the state if it is time to."""
        every = 0.5 if self.out.isatty() else QUIET_SECONDS
        if time.monotonic() - self._printed < every:
            return
        self._printed = time.monotonic()
        self.out.write(f"\r\x1b[K{self.state()}" if self.out.isatty() else f"{self.state()}\n")
        self.out.flush()

    def state(self) -> str:
        """Return how many cells have finished, failed, run and wait, and when all will be done."""
        left = self.seconds_left()
        eta = "no estimate yet" if left is None else f"about {duration(left)} left"
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} cells{failed}, {len(self.running)} running, {eta}"

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the last cell ends; None while nothing is known about any cell's length."""
        with self._lock:
            running, waiting = list(self.running.values()), list(self.waiting.values())
        now = time.monotonic()
        known = list(self.spent)
        for cell, since in running:
            share = self._share(cell)
            if share:
                known.append((cell, (now - since) / share))
        work = 0.0
        for cell, elapsed in [(cell, now - since) for cell, since in running] + [(cell, 0.0) for cell in waiting]:
            length = _expected(cell, known)
            if length is None:
                return None
            work += max(length - elapsed, 0.0)
        return work / max(min(self.workers, len(running) + len(waiting)), 1)

    def _share(self, cell: Cell) -> float:
        """How much of a running cell is done, by its newest evaluation; 0 where that is not known."""
        total = cell.options.get("steps") or cell.options.get("updates")
        path = self.folder.run(cell) / "evaluations.csv"
        if not isinstance(total, int) or not total or not path.exists():
            return 0.0
        try:
            steps = float(path.read_text().splitlines()[-1].split(",")[0])
        except (ValueError, IndexError, OSError):
            return 0.0
        return min(steps / total, 1.0)


def _expected(cell: Cell, known: Sequence[tuple[Cell, float]]) -> float | None:
    """Mean length of the cells most like this one."""
    for alike in (
        lambda other: (other.method, other.task) == (cell.method, cell.task),
        lambda other: other.method == cell.method,
        lambda other: True,
    ):
        lengths = [seconds for other, seconds in known if alike(other)]
        if lengths:
            return sum(lengths) / len(lengths)
    return None


def duration(seconds: float) -> str:
    """Write a time span: 45 s, 3 min 20 s, 2 h 05 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
