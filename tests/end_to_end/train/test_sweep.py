"""The sweep example, with a module in the place of Optuna; and what it says without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FAKE = """
class TrialPruned(Exception):
    pass


class Trial:
    def __init__(self, number):
        self.number, self.reports = number, []

    def suggest_int(self, name, low, high):
        return low

    def suggest_float(self, name, low, high, log=False):
        return high

    def suggest_categorical(self, name, choices):
        return choices[0]

    def report(self, value, step):
        self.reports.append((step, value))

    def should_prune(self):
        return self.number == 1


class Study:
    def optimize(self, objective, n_trials):
        self.values = []
        for number in range(n_trials):
            trial = Trial(number)
            try:
                self.values.append(objective(trial))
                print("finished", number, [step for step, _ in trial.reports])
            except TrialPruned:
                print("pruned", number, [step for step, _ in trial.reports])
        self.best_value, self.best_params = max(self.values), {"per_session": 5}


def create_study(direction, study_name, storage, load_if_exists):
    assert direction == "maximize"
    return Study()
"""
LINE = [sys.executable, str(ROOT / "examples" / "sweep_optuna.py"), "--trials", "2", "--steps", "400", "--labels", "10"]


def run(folder: Path) -> subprocess.CompletedProcess[str]:

    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(LINE, env=env, cwd=folder, capture_output=True, text=True, timeout=240)


def test_trials_report_and_are_pruned(tmp_path: Path) -> None:
    (tmp_path / "optuna.py").write_text(FAKE)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["finished 0 [100, 200, 300, 400]", "pruned 1 [100]"]
    assert lines[2].startswith("best true return -")


def test_without_optuna_it_says_what_to_install(tmp_path: Path) -> None:
    try:
        import optuna  # noqa: F401
    except ImportError:
        done = run(tmp_path)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "needs the package optuna, which is not installed: pip install optuna" in done.stderr
    else:
        pytest.skip("Optuna is installed")
