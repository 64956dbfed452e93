"""Cells as tasks of a real Ray, started here; what answers nothing is told in one line."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from prefenvs.bench import find_suite
from prefenvs.bench.folder import BenchFolder
from prefenvs.bench.methods import OURS
from prefenvs.bench.results import read_results
from prefenvs.cli import main

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory):
    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80_000_000,
        _temp_dir=f"/tmp/{tmp_path_factory.mktemp('ray').name}-ray",
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()


def test_the_same_cells_run_on_a_cluster(cluster: str, own: Path, tmp_path: Path) -> None:
    folder = BenchFolder(tmp_path / "bench")
    line = [*OURS, "bench", "run", "own_parts:MIXED", "--ray", cluster, "--folder", str(folder.folder)]
    run = subprocess.run(
        [*line, "--min-free-gb", "0"], cwd=own, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert "2 of 6 cells failed" in run.stderr.splitlines()[-1]
    cells = find_suite("own_parts:MIXED").cells()
    for cell in cells:
        crashed = cell.method == "own_parts:CRASH"
        assert folder.outcome(cell).status == ("failed" if crashed else "finished")
        assert folder.outcome(cell).attempts == (1 if cell.method == "own_parts:STEADY" else 2)
    results = read_results(folder.folder / "results.parquet")
    assert results.finished["cell"].nunique() == 4


def test_addresses_that_nobody_answers_are_told(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for address, message in (
        (f"127.0.0.1:{port}", f"no Ray cluster answers at 127.0.0.1:{port}: [Errno 111]"),
        ("nowhere", "--ray 'nowhere' is no address"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["bench", "run", "own_parts:GOOD", "--ray", address, "--folder", str(tmp_path / "bench")])
        assert end.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    assert sys.executable
