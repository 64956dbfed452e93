"""The safety test: its bounds by hand, its false passes, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest

from prefenvs import PrefenvsError
from prefenvs.cli import main
from prefenvs.metrics.safety import check_safety


def test_bounds_are_those_of_the_books() -> None:
    costs = np.array([1.0, 2.0, 4.0, 5.0])
    found = check_safety(costs, 10.0, 0.05, "hoeffding", (0.0, 6.0))
    assert found.upper == pytest.approx(3.0 + 6.0 * np.sqrt(np.log(20.0) / 8.0))
    # t_{0.95, 3} = 2.3534 from a table; the sample deviation is sqrt(10 / 3).
    assert check_safety(costs, 10.0).upper == pytest.approx(3.0 + np.sqrt(10 / 3) * 2.3534 / 2, abs=1e-3)
    assert found.passed
    assert not check_safety(costs, 3.1).passed
    # A length of 1 in float32.
    assert check_safety(np.full(50, 1.0 + 1e-7), 2.0, 0.1, "hoeffding", (0.0, 1.0)).passed


def test_false_passes_stay_below_delta() -> None:
    rng = np.random.default_rng(0)
    normal, skewed = rng.normal(1.0, 0.5, (1_000, 40)), rng.beta(2.0, 3.0, (1_000, 40))
    passes = np.mean([check_safety(row, 1.0, 0.1).passed for row in normal])
    assert passes <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 1_000)
    assert passes > 0.05
    assert np.mean([check_safety(row, 0.4, 0.1, "hoeffding", (0, 1)).passed for row in skewed]) <= 0.1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (([1.0], 1.0), "2 episodes or more"),
        (([1.0, np.nan], 1.0), "finite costs"),
        (([1.0, 2.0], 1.0, 0.0), "between 0 and 1, got 0.0"),
        (([1.0, 2.0], 1.0, 0.1, "hoeffding"), "needs the range"),
        (([1.0, 2.0], 1.0, 0.1, "hoeffding", (0.0, 1.5)), "costs of 1 to 2 leave the range 0 to 1.5"),
        (([1.0, 2.0], 1.0, 0.1, "chebyshev"), "hoeffding or student-t"),
    ],
)
def test_what_cannot_be_tested_is_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(PrefenvsError, match=reason):
        check_safety(*arguments)


def test_the_command_passes_and_fails_a_policy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "run")
    quick = ["--steps", "200", "--evaluate-every", "200", "--episodes", "1", "--no-progress", "--seed", "1"]
    main(["train", "dqn", "--task", "Delivery-v0", *quick, "--folder", folder])
    capsys.readouterr()
    # One-hot actions: an effort of exactly 1 at every step.
    command = ["evaluate", folder, "--episodes", "4", "--safety", "effort"]
    main([*command, "--limit", "1.5", "--bound", "hoeffding", "--cost-range", "0.9", "1.1", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert found["mean"] == pytest.approx(1.0)
    with pytest.raises(SystemExit) as stop:
        main([*command, "--limit", "0.5"])
    assert stop.value.code == 1
    assert "not passed" in capsys.readouterr().out
    for more, reason in (
        (["--seed", "1", "--limit", "1"], "episodes that training itself"),
        ([], "--limit"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*command, *more])
        assert stop.value.code == 2
        assert reason in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", folder, "--limit", "1"])
    assert "--limit belongs to the safety test" in capsys.readouterr().err
    for command in ("evaluate", "diagnose"):
        with pytest.raises(SystemExit):
            main([command, folder, "--seed", "1"])
        assert "--seed 1 is that of" in capsys.readouterr().err
    # What a task without a true reward returns is nothing, not 0.
    main(["evaluate", folder, "--episodes", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["mean_return"] is not None
    monkeypatch.setattr("prefenvs.cli.look.evaluate.has_reward", lambda _: False)
    main(["evaluate", folder, "--episodes", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["mean_return"] is None
