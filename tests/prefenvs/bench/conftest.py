"""Cells of scripted programs in a folder of their own."""

import io
from pathlib import Path

import pytest

from prefenvs.bench import Cell
from prefenvs.bench.folder import BenchFolder, Outcome
from prefenvs.bench.runner.cell import Plan
from prefenvs.bench.runner.local import run_local
from prefenvs.bench.runner.progress import Progress

OWN = Path(__file__).parent / "own"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the folder that holds own_parts.py, as its author would."""
    monkeypatch.chdir(OWN)
    return OWN


class Bench:
    """Runs cells in a folder and keeps what was printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = BenchFolder(folder), io.StringIO()

    def run(
        self, cells: list[Cell], workers: int = 2, gpus: tuple[str, ...] = (), **plan: object
    ) -> dict[str, Outcome]:
        settings = Plan(self.folder.folder, OWN, **{"min_free_gb": 0.0, **plan})
        return run_local(cells, settings, workers, gpus, Progress(self.folder, cells, [], workers, self.text))

    def starts(self, cell: Cell) -> list[str]:
        """How a cell's program was started, once for each time."""
        path = self.folder.cell(cell) / "starts.txt"
        return path.read_text().split() if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path, own: Path) -> Bench:
    return Bench(tmp_path / "bench")
