"""The suite of claims: every demonstration is there, figures are kept, and the table says what held."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from prefenvs import PrefenvsError
from prefenvs.bench.claims import claim as claims
from prefenvs.bench.claims.claim import Claim, Measured, find_claims, make_table, run_claims
from prefenvs.bench.claims.groups import rand_index
from prefenvs.bench.folder import BenchFolder
from prefenvs.cli import main

CALLS: list[int] = []


def lucky(seed: int) -> Measured:
    """A figure that beats its control on every seed but 3."""
    CALLS.append(seed)
    return Measured(1.0 + seed, 4.0 if seed == 3 else 0.5)


TOY = Claim("toy", "Toy", "counts", "the seed", "half", f"{__name__}:lucky")


def test_every_claim_has_its_demonstration_and_a_name_of_its_own() -> None:
    found = find_claims()
    assert len({one.name for one in found}) == len(found)
    for one in found:
        module, _, function = one.place.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), one.name


def test_a_claim_holds_where_every_seed_is_better_than_its_control() -> None:
    assert TOY.holds([Measured(2.0, 1.0), Measured(1.1, 1.0)])
    assert not TOY.holds([Measured(2.0, 1.0), Measured(1.0, 1.0)])
    assert not TOY.holds([])
    lower = Claim("toy", "Toy", "", "", "", "", "lower")
    assert lower.holds([Measured(1.0, 2.0)])
    assert not lower.holds([Measured(2.0, 1.0)])


def test_figures_are_kept_and_each_seed_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "CLAIMS", (TOY,))
    CALLS.clear()
    run_claims(tmp_path, (), (0, 1), say=lambda _: None)
    table = run_claims(tmp_path, ("toy",), (0, 1, 3), say=lambda _: None)
    assert CALLS == [0, 1, 3]
    assert "1, 2, 4 | half: 0.5, 0.5, 4 | **no** (3 of 5 seeds run) |" in table
    assert (tmp_path / "claims.md").read_text() == table + "\n"
    # Figures of another commit are measured anew.
    kept = json.loads((tmp_path / "claims.json").read_text())
    kept["toy"]["1"]["commit"] = "older"
    (tmp_path / "claims.json").write_text(json.dumps(kept))
    run_claims(tmp_path, (), (0, 1), say=lambda _: None)
    assert CALLS == [0, 1, 3, 1]


def test_two_runs_of_claims_do_not_lose_each_others_figures(tmp_path: Path) -> None:
    with BenchFolder(tmp_path).locked(), pytest.raises(PrefenvsError, match="another `prefenvs bench run` is at work"):
        run_claims(tmp_path, ("unsure",), (0,))


def test_what_was_not_run_is_said_and_a_damaged_file_named(tmp_path: Path) -> None:
    assert make_table([TOY], {}).endswith("| not run |")
    for damaged in ("{", '{"toy": {"0": {"commit": ""}}}', '{"toy": {"x": {"figure": 1, "control": 0, "commit": ""}}}'):
        (tmp_path / "claims.json").write_text(damaged)
        with pytest.raises(PrefenvsError, match=r"claims.json cannot be read"):
            run_claims(tmp_path, ("unsure",), (0,))


def test_the_command_names_claims(capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "run", "claims", "--methods", "unsure", "--seeds", "7", "--dry-run"])
    assert "unsure: prefenvs.bench.claims.raters:unsure of seeds 7" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["bench", "run", "claims", "--methods", "unsur"])
    assert "there is no claim 'unsur'" in capsys.readouterr().err


def test_two_groupings_agree_on_pairs() -> None:
    # Of six pairs, (a, b) is together in both, (a, d), (b, d) and (c, d) are apart in both.
    assert rand_index([0, 0, 0, 1], [1, 1, 0, 2]) == pytest.approx(4 / 6)
    assert rand_index([0, 1, 1], [5, 2, 2]) == 1.0
