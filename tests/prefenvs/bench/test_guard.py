"""The guard says which method got worse, and by which band."""

import math
from pathlib import Path

import pytest

from prefenvs.bench import find_suite
from prefenvs.bench.folder import BenchFolder
from prefenvs.bench.guard import BANDS, compare, make_bands, read_bands, write_bands
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError

from .synthetic import full, make_results

BEFORE = {
    ("random", "walk"): [100.0],
    ("upper", "walk"): [1000.0, 1010.0],
    ("good", "walk"): [800.0, 820.0],
    ("poor", "walk"): [300.0, 320.0],
}


def test_the_same_results_are_no_regression(tmp_path: Path) -> None:
    write_bands(make_bands(full()), tmp_path / "bands.json")
    verdicts = compare(full(), read_bands(tmp_path / "bands.json"))
    assert len(verdicts) == 6
    assert not any(verdict.worse for verdict in verdicts)


def test_the_method_that_got_worse_is_named() -> None:
    bands = make_bands(make_results(BEFORE))
    now = make_results(BEFORE | {("good", "walk"): [500.0, 520.0], ("poor", "walk"): [600.0, 620.0]})
    verdicts = {verdict.name: verdict for verdict in compare(now, bands)}
    assert [name for name, verdict in verdicts.items() if verdict.worse] == ["good on walk"]
    # Slack: a tenth of the way from random actions, as the spread of two close seeds is small.
    # A run's score is the mean of its last two evaluations, here the last one and that plus 5.
    assert "WORSE   good on walk: 512.5 over 2 seeds; accepted 741.2 to 883.8" in verdicts["good on walk"].sentence
    assert "make new ones with --update" in verdicts["poor on walk"].sentence


def test_a_band_that_reaches_random_actions_is_called_blind() -> None:
    wide = BEFORE | {("poor", "walk"): [120.0, 600.0]}
    bands = make_bands(make_results(wide))["bands"]
    assert [name for name, band in bands.items() if band["blind"]] == ["poor on walk"]


def test_a_result_that_is_missing_is_a_regression_and_makes_no_band() -> None:
    bands = make_bands(make_results(BEFORE))
    now = make_results(BEFORE | {("good", "walk"): [None, None]})
    assert [verdict.name for verdict in compare(now, bands) if verdict.worse] == ["good on walk"]
    with pytest.raises(PrefenvsError, match="walk--good--0 has not finished"):
        make_bands(now)


def test_a_score_of_nan_is_a_regression_and_makes_no_band() -> None:
    bands = make_bands(make_results(BEFORE))
    now = make_results(BEFORE | {("good", "walk"): [math.nan, 800.0]})
    assert [verdict.name for verdict in compare(now, bands) if verdict.worse] == ["good on walk"]
    with pytest.raises(PrefenvsError, match="good on walk was measured as NaN"):
        make_bands(now)


def test_bands_of_another_suite_or_method_are_refused(tmp_path: Path) -> None:
    bands = make_bands(make_results(BEFORE))
    with pytest.raises(PrefenvsError, match="no band for good on push"):
        compare(make_results(BEFORE | {("random", "push"): [0.0], ("good", "push"): [1.0]}), bands)
    with pytest.raises(PrefenvsError, match="are of the suite 'synthetic'"):
        compare(make_results(BEFORE, name="other"), bands)
    (tmp_path / "half").write_text('{"suite": "guard"}')
    with pytest.raises(PrefenvsError, match="half is damaged"):
        read_bands(tmp_path / "half")
    with pytest.raises(PrefenvsError, match="there are no bands at"):
        read_bands(tmp_path / "bands.json")


def test_the_package_has_bands_for_its_own_guard() -> None:
    cells = [cell for cell in find_suite("guard").cells() if cell.method != "random"]
    assert set(read_bands(BANDS)["bands"]) == {f"{cell.method} on {cell.problem}" for cell in cells}


def test_the_command_makes_bands_and_fails_on_a_regression(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["bench", "guard", "--suite", "own_parts:GOOD", "--folder", str(tmp_path / "run")]
    line += ["--bands", str(tmp_path / "bands.json")]
    with pytest.raises(SystemExit):
        main(line)
    # What would fail in the end is told before anything runs.
    assert "there are no bands" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    main([*line, "--update"])
    main(line)
    assert "none of 2 got worse" in capsys.readouterr().out
    bands = read_bands(tmp_path / "bands.json")
    bands["bands"]["own_parts:STEADY on Pendulum-v1"] |= {"low": 90.0, "high": 110.0}
    write_bands(bands, tmp_path / "bands.json")
    with pytest.raises(SystemExit):
        main([*line, "--keep"])
    told = capsys.readouterr()
    assert "WORSE   own_parts:STEADY on Pendulum-v1: 1.1 over 2 seeds; accepted 90.0 to 110.0" in told.out
    assert told.err.splitlines()[-1] == "prefenvs: 1 of 2 got worse: own_parts:STEADY on Pendulum-v1"


def test_the_command_empties_no_folder_that_holds_something_else(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").touch()
    line = ["bench", "guard", "--folder", str(folder)]
    with pytest.raises(SystemExit):
        main(line)
    assert "something else than a benchmark" in capsys.readouterr().err
    (folder / "suite.json").write_text('{"name": "learning"}')
    with pytest.raises(SystemExit):
        main(line)
    assert "holds the suite 'learning' and would be emptied" in capsys.readouterr().err
    (folder / "suite.json").write_text('{"name": "guard"}')
    with BenchFolder(folder).locked(), pytest.raises(SystemExit):
        main(line)
    assert "another `prefenvs bench run` is at work" in capsys.readouterr().err
    assert (folder / "file").exists()
