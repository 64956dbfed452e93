"""The whole road with our own command line: a suite of one's own, real learners, a table."""

import json
from pathlib import Path

import pytest

from prefenvs.bench import find_suite
from prefenvs.bench.folder import BenchFolder
from prefenvs.bench.results import read_results
from prefenvs.cli import main
from prefenvs.runs import Run


def test_from_a_suite_of_ones_own_to_a_report(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = BenchFolder(tmp_path / "bench")
    line = ["bench", "run", "own_parts:TINY", "--folder", str(folder.folder), "--workers", "2", "--min-free-gb", "0"]
    main(line)
    first = capsys.readouterr().err
    assert "all 3 cells have finished" in first
    results = read_results(folder.folder / "results.parquet")
    pebble = results.frame[results.frame["method"] == "pebble-min"]
    assert list(pebble["steps"]) == [0, 100, 200, 260]
    assert pebble["labels"].iloc[-1] == 8
    assert json.loads(pebble["config"].iloc[0])["aggregate"] == "min"
    assert pebble["learned_return"].notna().any()
    assert 0 <= pebble["accuracy"].iloc[-1] <= 1
    assert 0 <= pebble["starc"].iloc[-1] <= 1
    # Evaluations are by the true return of the task of one's own: at most 0 in 20 steps, and not a constant.
    assert (results.finished["mean_return"] < 0).all()
    outcomes = [folder.outcome(cell) for cell in find_suite("own_parts:TINY").cells()]
    assert all(outcome.peak_gb > 0.05 and outcome.cpu_seconds > 0 for outcome in outcomes)
    main(line)
    assert "3 finished already" in capsys.readouterr().err
    assert [folder.outcome(cell) for cell in find_suite("own_parts:TINY").cells()] == outcomes
    main(["bench", "table", str(folder.folder / "results.parquet"), "--out", str(tmp_path / "report")])
    told = capsys.readouterr().out
    assert "PEBBLE, worst case of the ensemble (8 labels)" in told
    assert "A single seed" in told
    assert (tmp_path / "report" / "report.html").stat().st_size > 50_000


def test_a_choice_of_cells_and_a_dry_run(tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "bench"
    line = ["bench", "run", "smoke", "--folder", str(folder), "--methods", "pebble", "--seeds", "1", "--dry-run"]
    main(line)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "train pebble --task Reacher-v5 --seed 1" in lines[0]
    assert "bench measure" in lines[1]
    assert not folder.exists()
    main(["bench", "run", "half-an-hour", "--dry-run", "--oracles", "skip", "coin", "--labels", "200", "--seeds", "0"])
    trained = [line for line in capsys.readouterr().out.splitlines() if " train " in line]
    assert len(trained) == 4
    assert all("--labels 200" in line and ("--oracle skip" in line or "--oracle coin" in line) for line in trained)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["run", "smoek"], "unknown suite 'smoek'. Did you mean smoke"),
        (["run", "smoke", "--methods", "iql"], "no cell of the suite has method 'iql'"),
        (["run", "smoke", "--oracles", "skipp"], "no cell of the suite has oracle 'skipp'"),
        (["run", "smoke", "--labels", "7"], "no cell of the suite has labels 7: there are 0, 100"),
        (
            ["run", "smoke", "--methods", "random", "--oracles", "coin", "--labels", "0"],
            "no cell of the suite has method random, oracle coin, labels 0 together",
        ),
        (["run", "own_parts:GOOD", "--workers", "-1"], "--workers must be at least 1, got -1"),
        (["run", "own_parts:GOOD", "--min-free-gb", "1e9"], "GB left, less than 1e+09"),
        (["table", "nothing-here"], "nothing-here holds no benchmark"),
        (["measure", "nothing-here"], "nothing-here is not a run folder"),
    ],
)
def test_bad_input_is_one_line(
    line: list[str], message: str, tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if line[0] == "run":
        line = [*line, "--folder", str(tmp_path / "bench")]
    with pytest.raises(SystemExit) as end:
        main(["bench", *line])
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("prefenvs: ")
    assert message in last


def test_baselines_write_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "random", "--task", "Pendulum-v1", "--folder", str(tmp_path / "random"), "--episodes", "2"])
    summary = json.loads((tmp_path / "random" / "summary.json").read_text())
    assert summary["last"]["mean_return"] < -200
    main(["bench", "random", "--task", "Reacher-v5", "--folder", str(tmp_path / "still"), "--still"])
    still = json.loads((tmp_path / "still" / "summary.json").read_text())
    assert still["algorithm"] == "still"
    assert -15 < still["last"]["mean_return"] < -8
    with pytest.raises(SystemExit):
        main(["bench", "random", "--task", "CartPole-v1", "--folder", str(tmp_path / "cart"), "--still"])
    assert "standing still needs actions with a range" in capsys.readouterr().err
    assert not (tmp_path / "cart").exists()
    pytest.importorskip("imitation")
    folder = tmp_path / "comparisons"
    line = ["bench", "comparisons", "--task", "Pendulum-v1", "--folder", str(folder), "--episodes", "1"]
    main([*line, "--steps", "100", "--labels", "10", "--initial-epoch-multiplier", "1"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["labels"] == 10
    assert summary["last"]["mean_return"] < -100
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*line[:5], str(tmp_path / "noisy"), "--oracle", "noisy"])
    assert "know the rater 'oracle' only" in capsys.readouterr().err


@pytest.mark.slow
def test_seeds_train_in_one_program_to_the_same_end(
    tmp_path: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = find_suite("own_parts:SEEDS").cells()
    alone = [cell for cell in cells if cell.seed == 1]
    found = []
    for name, mine, options in (("apart", alone, ["--seeds", "1"]), ("together", cells, ["--seeds-at-once"])):
        folder = BenchFolder(tmp_path / name)
        main(["bench", "run", "own_parts:SEEDS", "--folder", str(folder.folder), "--min-free-gb", "0", *options])
        assert f"all {len(mine)} cells have finished" in capsys.readouterr().err
        found.append({cell.name: Run.open(folder.run(cell)).rows("evaluations") for cell in mine})
        outcomes = [folder.outcome(cell) for cell in mine]
        assert all(outcome.seconds > 0 and outcome.peak_gb > 0.05 for outcome in outcomes)
        # The line told repeats one cell, however it was trained.
        for cell, outcome in zip(mine, outcomes, strict=True):
            assert f"--seed {cell.seed} " in outcome.lines[0]
            assert "--resume" not in outcome.lines[0]
    # Each cell's run was begun by the program of its group.
    arguments = [Run.open(folder.run(cell)).record["arguments"] for cell in cells]
    assert all(line[line.index("--seeds") :][1:4] == ["0", "1", "2"] for line in arguments)
    apart, together = found
    assert len(apart) == 2, "one cell of each method"
    for name, rows in apart.items():
        assert [row["steps"] for row in together[name]] == [0, 20, 40]
        for one, other in zip(rows, together[name], strict=True):
            assert other["mean_return"] == pytest.approx(one["mean_return"], rel=0.02)
    assert len({json.dumps(rows[-1]["mean_return"]) for rows in together.values()}) == 6
