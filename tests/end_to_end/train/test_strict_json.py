"""Reports in JSON are strict: a figure that is not a number becomes null."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from prefenvs.cli.look.judge import Judge


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_ranking_with_a_figure_that_is_no_number(
    value: float, tmp_path: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefenvs.runs import Run

    monkeypatch.setattr("prefenvs.oracles.judging.tournament.report", lambda *_: {"waiting": 0, "strength": [value]})
    run = Run.create(tmp_path / "run", "judge", {"task": "InvertedPendulum-v5"})
    tournament: Any = type("Tournament", (), {"names": []})()
    Judge((), json=True)._conclude(tournament, run)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    for text in (capsys.readouterr().out, (run.folder / "ranking.json").read_text()):
        assert json.loads(text, parse_constant=refuse)["strength"] == [None]
