"""Results: everything that was measured, where it came from, and no silent mixture of versions."""

import json
import sys

import numpy as np
import pytest

from prefenvs.bench import find_suite
from prefenvs.bench.folder import write_json
from prefenvs.bench.results import Results, collect, read_results
from prefenvs.errors import PrefenvsError

from .conftest import Bench


@pytest.fixture
def results(bench: Bench) -> Results:
    suite = find_suite("own_parts:GOOD")
    bench.folder.save_suite(suite)
    bench.run(suite.cells()[:-1])
    return collect(bench.folder.folder)


def test_one_row_for_each_evaluation_and_one_for_what_is_missing(results: Results) -> None:
    frame = results.frame
    assert frame["cell"].nunique() == 4
    assert sorted(frame.groupby("cell").size()) == [1, 3, 3, 3]
    missing = frame[frame["status"] == "missing"].iloc[0]
    assert np.isnan(missing["mean_return"])
    seed = frame[(frame["method"] == "own_parts:STEADY") & (frame["seed"] == 1)]
    assert list(seed["mean_return"]) == [0.0, 1.0, 2.0]
    assert list(seed["labels"]) == [0, 5, 10]
    assert json.loads(seed["versions"].iloc[0])["numpy"] == np.__version__
    # What ran, without where on this machine it lay.
    assert "python own_program.py" in seed["command"].iloc[0]
    assert "--folder cells/" in seed["command"].iloc[0]
    assert sys.executable not in seed["command"].iloc[0]
    assert seed["wall_seconds"].iloc[0] > 0


def test_parquet_gives_back_what_it_was_given(results: Results) -> None:
    again = read_results(results.write())
    assert again.suite == results.suite
    assert list(again.frame.columns) == list(results.frame.columns)
    for name in again.frame:
        np.testing.assert_array_equal(again.frame[name].to_numpy(), results.frame[name].to_numpy())


def test_two_versions_are_not_mixed_unless_asked(bench: Bench, results: Results) -> None:
    results.check_versions()
    cell = find_suite("own_parts:GOOD").cells()[0]
    path = bench.folder.cell(cell) / "outcome.json"
    outcome = json.loads(path.read_text())
    outcome["provenance"]["commit"] = "0123abc"
    outcome["provenance"]["versions"]["torch"] = "1.0"
    write_json(path, outcome)
    mixed = collect(bench.folder.folder)
    with pytest.raises(PrefenvsError, match=r"the results mix versions: commit .*0123abc \(1 cells\); torch .*--mixed"):
        mixed.check_versions()
    mixed.check_versions(mixed=True)
    assert set(mixed.versions()) == {"commit", "torch"}


def test_what_is_no_benchmark_is_told(tmp_path) -> None:
    with pytest.raises(PrefenvsError, match=r"holds no benchmark: there is no suite.json"):
        collect(tmp_path)
    with pytest.raises(PrefenvsError, match=r"there is no .*absent.parquet"):
        read_results(tmp_path / "absent.parquet")
    (tmp_path / "other.parquet").write_text("PAR1 but not really")
    with pytest.raises(PrefenvsError, match=r"holds no results of `prefenvs bench run`"):
        read_results(tmp_path / "other.parquet")
