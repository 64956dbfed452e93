"""The types are found in a script of a user, where the package is installed from a checkout or from a wheel."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
# Optuna does not come with the suite.
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem != "sweep_optuna")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy keeps of Python's own types from one check to the next."""
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture(params=["editable", "wheel"])
def installed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder that an editable install writes into a .pth file, or the one into which a wheel is unpacked."""
    if request.param == "editable":
        return ROOT / "src"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["prefenvs"]
    found = settings["packages"]["find"]
    for package in find_packages(str(ROOT / found["where"][0]), include=found["include"]):
        here, there = ROOT / "src" / Path(*package.split(".")), tmp_path / "site" / Path(*package.split("."))
        there.mkdir(parents=True)
        for path in here.glob("*.py"):
            shutil.copy(path, there)
    shutil.copy(ROOT / "prefenvs" / "py.typed", tmp_path / "site" / "prefenvs")
    return tmp_path / "site"


def check(folder: Path, scripts: list[Path], installed: Path, cache: Path, follow: str) -> None:
    """Run mypy as strictly as it can on a user's scripts."""
    command = [sys.executable, "-m", "mypy", "--strict", f"--follow-imports={follow}", "--config-file="]
    command += ["--cache-dir", str(cache), *map(str, scripts)]
    environment = {"MYPYPATH": str(installed), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_finds_every_part_that_the_examples_import(tmp_path: Path, installed: Path, cache: Path) -> None:
    assert [path.name for path in (ROOT / "src").iterdir() if not path.name.endswith(".egg-info")] == ["prefenvs"]
    parts = {"prefenvs.agents", "prefenvs.oracles", "prefenvs.videos"}
    for path in EXAMPLES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("prefenvs"):
                parts.add(node.module)
    script = tmp_path / "script.py"
    script.write_text("".join(f"import {part}\n" for part in sorted(parts)))
    check(tmp_path, [script], installed, cache, "skip")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_examples_are_strictly_typed(tmp_path: Path, installed: Path, cache: Path) -> None:
    """`make types` checks them against the checkout each time."""
    check(tmp_path, EXAMPLES, installed, cache, "silent")
