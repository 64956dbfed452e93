"""`prefenvs store stats | export | import`, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prefenvs.cli.data.accuracy import LabelsAccuracy
from prefenvs.cli.data.store import StoreExport, StoreImport, StoreStats
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import Store


@pytest.fixture
def labels(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    pieces = [Segment(rng.random((4, 2)), rng.random((4, 1)), rng.random(4), task="t") for _ in range(8)]
    queries = [Query((one, other)) for one, other in zip(pieces[::2], pieces[1::2], strict=True)]
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_queries(queries, run="night")
        answers = [np.array([1.0, 0.0]), np.array([0.5, 0.5]), None]
        store.add_preferences(
            [Preference(query, p, "ana", "human") for query, p in zip(queries, answers, strict=False)], run="night"
        )
    return str(tmp_path / "labels.sqlite")


def test_stats_show_the_counts(labels: str, capsys: pytest.CaptureFixture[str]) -> None:
    StoreStats(labels).run()
    table = capsys.readouterr().out
    for row in (
        ("queries", "4", "1 waiting"),
        ("labels", "3", "2 comparisons, 1 of them ties; 1 skips"),
        ("segments", "8", "8 with true rewards"),
        ("annotator ana", "3", "100.0%"),
        ("run night", "3"),
    ):
        assert any(all(part in line for part in row) for line in table.splitlines()), (row, table)
    StoreStats(labels, json=True).run()
    assert json.loads(capsys.readouterr().out)["by_oracle"] == {"human": 3}


def test_export_then_import(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    StoreExport(labels, tmp_path / "out.zip").run()
    assert "4 queries" in capsys.readouterr().out
    for new in (4, 0):
        StoreImport(str(tmp_path / "copy.sqlite"), tmp_path / "out.zip").run()
        assert f"{new} queries" in capsys.readouterr().out
    StoreExport(labels, tmp_path / "public", true_rewards=False).run()
    assert not (tmp_path / "public" / "true_rewards.npz").exists()


def test_accuracy_is_measured_on_the_answers_of_either_database(
    location: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    pieces = [Segment(rng.random((4, 2)), rng.random((4, 1)), np.full(4, float(i)), task="t") for i in range(12)]
    pairs = zip(pieces[::2], pieces[1::2], strict=True)
    second = np.array([0.0, 1.0])
    with Store(location) as store:
        store.add_preferences([Preference(Query(pair), second, "ana", "human") for pair in pairs])
    LabelsAccuracy(location, models=("return",), folds=2, out=tmp_path / "accuracy.csv").run()
    assert "| 100.0%" in capsys.readouterr().out


def test_a_wrong_path_makes_no_store(tmp_path: Path) -> None:
    for command in (
        StoreStats(str(tmp_path / "no.sqlite")),
        StoreExport(str(tmp_path / "no.sqlite"), tmp_path / "out"),
    ):
        with pytest.raises(PrefenvsError, match="there is no store at"):
            command.run()
    assert not list(tmp_path.iterdir())
