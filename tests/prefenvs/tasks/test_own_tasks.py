"""A task of one's own has one identity, `module:NAME`, in every process and every place that keeps it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import prefenvs
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run
from prefenvs.tasks import is_same_task

MODULE = """
import prefenvs
REACH = prefenvs.Task(
    "MyReach-v0", "classic_control", "The pole stays up.", horizon=40, segment_length=10, fps=50,
    source="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
)
"""


def prefenvs_command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = str(Path(prefenvs.__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "prefenvs", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_what_one_process_collects_another_finds(tmp_path: Path) -> None:
    (tmp_path / "own_tasks_a.py").write_text(MODULE)
    done = prefenvs_command(
        tmp_path, "collect", "own_tasks_a:REACH", "--episodes", "4", "--format", "npz", "--no-progress"
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "data").iterdir()
    assert folder.name == "own_tasks_a-REACH-0"
    assert Run.open(folder).config["task"] == "own_tasks_a:REACH"
    read = (
        "from prefenvs.datasets import load_dataset; import prefenvs; d = load_dataset(r'%s');"
        "print(d.task, prefenvs.make(d.task).unwrapped.__class__.__name__)"
    )
    code = [sys.executable, "-c", read % folder]
    env = os.environ | {"PYTHONPATH": str(Path(prefenvs.__file__).parents[1])}
    found = subprocess.run(code, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert found.stdout.split() == ["own_tasks_a:REACH", "CartPoleEnv"], found.stderr
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    lost = subprocess.run(code, cwd=elsewhere, env=env, capture_output=True, text=True, check=False)
    last = lost.stderr.strip().splitlines()[-1]
    assert "own_tasks_a" in last
    assert "PYTHONPATH" in last


def test_one_identity_whatever_the_author_called_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_tasks_b.py").write_text(MODULE.replace("MyReach-v0", "Mine-v0"))
    monkeypatch.chdir(tmp_path)
    task = prefenvs.find_task("own_tasks_b:REACH")
    assert task.id == "own_tasks_b:REACH"
    assert prefenvs.find_task("Mine-v0") is prefenvs.find_task("prefenvs/own_tasks_b:REACH") is task
    assert is_same_task("Mine-v0", "prefenvs/own_tasks_b:REACH")
    assert not is_same_task("own_tasks_b:REACH", "CartPole-v1")
    assert "own_tasks_b:REACH" not in [row.id for row in prefenvs.list_tasks()]
    env = prefenvs.make(task.id)
    env.reset(seed=0)
    env.close()


@pytest.mark.parametrize("text", ["1 +", "import no_such_package", "raise RuntimeError('two\\nlines')", "x = 1"])
def test_a_module_that_does_not_load_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    name = f"own_tasks_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for path in (f"{name}:REACH", ":REACH", ".x:REACH"):
        with pytest.raises(PrefenvsError) as error:
            prefenvs.find_task(path)
        assert "\n" not in str(error.value)
