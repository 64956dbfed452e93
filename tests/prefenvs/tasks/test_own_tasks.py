"""A task of one's own has one identity, `module:NAME`, in every process and every place that keeps it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest

import prefenvs
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run
from prefenvs.tasks import is_same_task
from prefenvs.tasks.files import write_task

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


def test_a_task_file_is_read_where_and_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(prefenvs.find_task("CartPole-v1"), source="gymnasium.envs.classic_control:CartPoleEnv")
    folders = [tmp_path / name for name in ("first", "second")]
    for folder, horizon in zip(folders, (20, 30), strict=True):
        folder.mkdir()
        write_task(dataclasses.replace(row, horizon=horizon, segment_length=5), folder / "same_name.json")
    limits = []
    for folder in folders:
        monkeypatch.chdir(folder)
        limits.append(prefenvs.make("same_name.json").get_wrapper_attr("spec").max_episode_steps)
    path = write_task(dataclasses.replace(row, horizon=40, segment_length=5), folders[1] / "same_name.json")
    limits.append(prefenvs.make("same_name.json").get_wrapper_attr("task").horizon)
    # A folder and a name with a dot are Gymnasium's name alike.
    write_task(dataclasses.replace(row, horizon=50, segment_length=5), tmp_path / "second.same_name.json")
    monkeypatch.chdir(tmp_path)
    alike = ("second/same_name.json", "second.same_name.json")
    limits += [prefenvs.make(name).get_wrapper_attr("spec").max_episode_steps for name in alike]
    assert limits == [20, 30, 40, 40, 50]
    path.unlink()
    with pytest.raises(PrefenvsError, match="there is no task file"):
        prefenvs.make("second/same_name.json")


def test_a_row_or_module_that_was_edited_is_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "gymnasium.envs.classic_control.cartpole:CartPoleEnv"
    for horizon in (20, 30):
        row = prefenvs.Task("Edited", "own", "The pole stays up.", horizon, 5, 50, source)
        assert prefenvs.make(row).get_wrapper_attr("spec").max_episode_steps == horizon
        assert prefenvs.find_task("Edited") == row
    with pytest.raises(PrefenvsError, match="give it another id"):
        prefenvs.make(dataclasses.replace(prefenvs.find_task("CartPole-v1"), horizon=60))

    own = "from gymnasium.envs.classic_control.cartpole import CartPoleEnv\nclass Pole(CartPoleEnv):\n    horizon = "
    path = tmp_path / "own_tasks_edited.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for horizon in (20, 300):
        path.write_text(own + f"{horizon}\n{MODULE.replace('horizon=40', f'horizon={horizon}')}")
        import own_tasks_edited  # type: ignore[import-not-found]

        module = importlib.reload(own_tasks_edited)
        for given in (module.Pole, "own_tasks_edited:Pole", "own_tasks_edited:REACH", "MyReach-v0"):
            assert prefenvs.make(given).get_wrapper_attr("spec").max_episode_steps == horizon, given
        assert type(prefenvs.make(module.Pole).unwrapped) is module.Pole


def test_a_reward_is_not_hidden_twice() -> None:
    for given in (prefenvs.make("CartPole-v1"), lambda: prefenvs.make("CartPole-v1")):
        with pytest.raises(PrefenvsError, match="hides its reward already"):
            prefenvs.make(given)
    assert prefenvs.make(gymnasium.make("CartPole-v1")).get_wrapper_attr("task") == prefenvs.find_task("CartPole-v1")
