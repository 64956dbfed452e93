"""The command line as a user meets it: results, run folders, and one clear line for bad input."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from PIL import Image

from prefenvs.bench import find_suite
from prefenvs.cli import main
from prefenvs.cli.train.online import run_side_by_side
from prefenvs.runs import Run

from ..command_lines import refused

QUICK = ["--steps", "900", "--labels", "20", "--per-session", "10", "--interact", "100", "--unsupervised-steps", "200"]
QUICK += ["--evaluate-every", "400", "--episodes", "2", "--preset", "small", "--no-progress"]
TASK = ["--task", "InvertedPendulum-v5", "--segment-length", "5"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished PEBBLE run."""
    folder = tmp_path_factory.mktemp("runs") / "pebble"
    main(["train", "pebble", *TASK, *QUICK, "--learning-starts", "100", "--folder", str(folder)])
    return folder


def test_a_run_folder_holds_what_was_run_and_what_came_out(run_folder: Path) -> None:
    record = json.loads((run_folder / "run.json").read_text())
    assert record["command"] == "train pebble"
    assert record["config"]["task"] == "InvertedPendulum-v5"
    assert record["versions"]["mujoco"] == "3.3.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|", record["commit"])
    summary = json.loads((run_folder / "summary.json").read_text())
    assert (summary["steps"], summary["labels"], summary["learns_from"]) == (900, 20, "preferences")
    with (run_folder / "evaluations.csv").open() as file:
        assert [float(row["steps"]) for row in csv.DictReader(file)] == [0, 400, 800, 900]
    names = {path.name for path in run_folder.iterdir()}
    assert {"checkpoint", "learning_curve.png", "preferences.sqlite", "log"} <= names
    logs = {path.name.split(".")[0] for path in (run_folder / "log" / "from-0").iterdir()}
    assert logs == {"progress", "events"}


def test_evaluate_and_record_a_run(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["evaluate", str(run_folder), "--episodes", "3", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert figures["episodes"] == 3
    assert figures["min_return"] <= figures["mean_return"] <= figures["max_return"]
    main(["record", str(run_folder), "--size", "64"])
    video = Path(capsys.readouterr().out.strip())
    assert video.read_bytes()[4:8] == b"ftyp"


def test_several_runs_are_recorded_next_to_each_other(
    run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    twice, out = [str(run_folder), str(run_folder)], str(tmp_path / "both.webp")
    main(["record", *twice, "--captions", "labels", "coin flips", "--size", "64", "--speed", "4", "--out", out])
    assert capsys.readouterr().out.strip() == out
    with Image.open(out) as picture:
        assert picture.width == 64 + 8 + 64
        assert picture.height > 64, "captions stand under the pictures"
        assert picture.n_frames > 1
    assert "one episode each" in refused(capsys, "record", *twice, "--episodes", "2")
    assert "leave it out" in refused(capsys, "record", str(run_folder), "--steps", "9")
    assert "leave them out" in refused(capsys, "record", str(run_folder), "--captions", "labels")
    assert "end its name with .mp4" in refused(capsys, "record", str(run_folder), "--out", str(tmp_path / "film.avi"))
    assert "1 captions were given for 2 runs" in refused(capsys, "record", *twice, "--captions", "labels")


def test_the_demo_shows_labels_beside_coin_flips_and_the_true_reward(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a smaller task; the same folder again trains nothing twice."""
    demo = find_suite("demo")
    options = {"steps": 450, "per_session": 10, "interact": 60, "learning_starts": 60, "evaluate_every": 150}
    options |= {"preset": "reliable", "unsupervised_steps": 60, "segment_length": 5, "episodes": 1}
    grid = replace(demo.grids[0], tasks=("InvertedPendulum-v5",), labels=(20,), options=options)
    monkeypatch.setattr("prefenvs.bench.find_suite", lambda name: replace(demo, grids=(grid,)))
    main(["demo", "--seed", "3", "--steps", "300", "--folder", str(tmp_path / "demo")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["steps", "labels", "labels", "coin", "flips", "true", "reward"]
    rows = [line.split() for line in lines[3:6]]
    assert [row[0] for row in rows] == ["0", "150", "300"]
    assert len(set(rows[0][2:])) == 1, "before training all are one policy"
    video = tmp_path / "demo" / "side_by_side.mp4"
    assert f"video: {video}" in lines
    assert video.read_bytes()[4:8] == b"ftyp"
    main(["demo", "--seed", "3", "--steps", "300", "--folder", str(tmp_path / "demo")])
    printed = capsys.readouterr()
    assert "3 finished already" in printed.err
    assert printed.out.splitlines()[:6] == lines[:6]


def test_labels_of_a_run_are_in_its_store(run_folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = str(run_folder / "preferences.sqlite")
    main(["store", "stats", store])
    assert "20" in capsys.readouterr().out
    main(["store", "export", store, str(tmp_path / "labels.zip")])
    main(["store", "import", str(tmp_path / "copy.sqlite"), str(tmp_path / "labels.zip")])
    capsys.readouterr()
    main(["store", "stats", str(tmp_path / "copy.sqlite")])
    assert "20" in capsys.readouterr().out


def test_tasks_are_listed_as_table_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["tasks", "--family", "metaworld", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 50
    assert all(row["horizon"] == 500 and row["sentence"].endswith(".") for row in rows)
    main(["tasks"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("HalfCheetah-v5 ") for line in lines)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("arguments", [["--help"], ["tasks"], ["train", "--help"]])
def test_a_command_starts_without_what_it_does_not_use(arguments: list[str]) -> None:
    """Each of these takes from a third of a second to several to import."""
    heavy = {"torch", "mujoco", "stable_baselines3", "pandas", "sqlalchemy", "scipy", "sklearn", "matplotlib", "av"}
    heavy |= {"pyarrow", "h5py", "openai", "fastapi", "transformers", "tensorboard", "jinja2"}
    code = f"""
import sys
from prefenvs.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert not end.code, end.code
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_doctor_checks_the_installation_and_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert "all checks passed" in capsys.readouterr().out
    main(["doctor", "--task", "Pendulum-v1"])
    assert "all checks passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "HalfCheeta-v5"], "Did you mean HalfCheetah-v5"),
        ([], "--task ID"),
        (["--task", "HalfCheetah-v5", "--segment-length", "2000"], "longer than the horizon"),
        (["--task", "HalfCheetah-v5", "--labels", "10", "--per-session", "20"], "smaller than one session"),
        (["--task", "HalfCheetah-v5", "--oracle", "orcale"], "orcale"),
        (["--task", "HalfCheetah-v5", "--selector", "random"], "random"),
        (["--task", "HalfCheetah-v5", "--steps", "5000", "--unsupervised-steps", "4000"], "first session"),
        (["--task", "HalfCheetah-v5", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused(capsys, "train", "pebble", *arguments, "--folder", str(tmp_path / "run"), "--no-progress")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_bad_folders_are_named(capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path) -> None:
    assert "already holds a run" in refused(
        capsys, "train", "pebble", *TASK, *QUICK, "--learning-starts", "100", "--folder", str(run_folder)
    )
    assert "not a run folder" in refused(capsys, "evaluate", str(tmp_path))
    other = tmp_path / "other"
    shutil.copytree(run_folder, other)
    state = json.loads((other / "checkpoint" / "state.json").read_text())
    (other / "checkpoint" / "state.json").write_text(json.dumps(state | {"task": "Hopper-v5"}))
    assert "Hopper-v5" in refused(capsys, "train", "pebble", "--resume", str(other))
    assert "train pebble" in refused(capsys, "train", "prefppo", "--resume", str(other))


def test_no_gl_backend_is_one_line_and_status_2(run_folder: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "prefenvs", "record", str(run_folder)],
        env=os.environ | {"MUJOCO_GL": "nonsense"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "MUJOCO_GL" in result.stderr


@pytest.mark.parametrize(
    "moment", ["session", *(pytest.param(one, marks=pytest.mark.slow) for one in ("evaluation", "any"))]
)
def test_ctrl_c_keeps_what_is_done_and_resume_finishes_it(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "prefenvs", "train", "pebble"]
    # The first session comes after 300 steps.
    steps = 900 if moment == "session" else 1600
    process = subprocess.Popen(
        [*command, *TASK, *QUICK, "--steps", str(steps), "--learning-starts", "100", "--folder", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def reached() -> bool:
        if moment == "session":
            # The answers are on the disk before the learner has noted them.
            return (folder / "preferences.sqlite").exists() and holds_labels(folder)
        evaluations = folder / "evaluations.csv"
        lines = {"evaluation": 3, "any": 2}[moment]
        return evaluations.exists() and len(evaluations.read_text().splitlines()) >= lines

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not reached():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert f"--resume {folder}" in output
    main(["train", "pebble", "--resume", str(folder), "--no-progress"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == steps
    assert summary["labels"] == 20
    rows = (folder / "evaluations.csv").read_text().splitlines()[1:]
    steps = [int(row.split(",")[0]) for row in rows]
    assert steps == sorted(set(steps))


def holds_labels(folder: Path) -> bool:
    """Whether the store has a label, asked so often that opening it as a store would take a processor."""
    with contextlib.closing(sqlite3.connect(folder / "preferences.sqlite")) as database:
        try:
            return database.execute("SELECT 1 FROM events WHERE kind = 'comparison' LIMIT 1").fetchone() is not None
        except sqlite3.OperationalError:  # its tables are being made
            return False


def test_seeds_train_in_processes_to_what_each_reaches_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "pebble", "--task", "InvertedPendulum-v5", "--preset", "small", "--steps", "360",
               "--labels", "12", "--per-session", "6", "--interact", "100", "--unsupervised-steps", "60",
               "--learning-starts", "100",
               "--segment-length", "5", "--evaluate-every", "180", "--episodes", "2", "--no-progress"]  # fmt: skip
    main([*options, "--seeds", "0", "1", "--folder", str(tmp_path / "{seed}" / "run"), "--evaluate-async"])
    main([*options, "--seed", "1", "--folder", str(tmp_path / "alone")])
    rows = [Run.open(folder).rows("evaluations") for folder in (tmp_path / "1" / "run", tmp_path / "alone")]
    assert [row["steps"] for row in rows[0]] == [0, 180, 360]
    for together, alone in zip(*rows, strict=True):
        assert (together["labels"], together["mean_return"]) == (alone["labels"], alone["mean_return"])
    assert (tmp_path / "0" / "run" / "summary.json").exists()
    store = str(tmp_path / "labels.sqlite")
    for extra, message in (
        (["--seeds", "2", "2"], "--seeds names a seed twice: 2 2"),
        (["--seeds", "2", "3", "--oracle", "human", "--store", store], "--seeds goes with simulated raters"),
        (["--seeds", "2", "--resume", str(tmp_path / "alone")], "leave out --seeds"),
        (["--seeds", "2", "3", "--learning-starts", "400"], "the first session comes after 460 steps"),
        (["--seeds", "2", "3", "--oracle", "no_such_module:rate"], "cannot be imported"),
        (["--seeds", "0", "3", "--folder", str(tmp_path / "{seed}" / "run")], "already holds a run"),
    ):
        with pytest.raises(SystemExit):
            main([*options, "--folder", str(tmp_path / "no"), *extra])
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("no*"))
    assert not (tmp_path / "3").exists()


def test_ctrl_c_stops_every_seed_where_it_can_be_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefenvs", "train", "pebble"]
    folders = [tmp_path / "0", tmp_path / "1"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, *TASK, *QUICK, "--steps", "5000", "--learning-starts", "100", "--seeds", "0", "1",
             "--folder", str(tmp_path / "{seed}")],
            stdout=output, stderr=output,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not all((folder / "evaluations.csv").exists() for folder in folders):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    told = (tmp_path / "output").read_text()
    for folder in folders:
        run = Run.open(folder)
        assert f"to continue: prefenvs train pebble --resume {folder}" in told
        assert run.has_checkpoint
        with run.locked():
            pass  # nobody is at work in it any more
        assert not run.path("summary.json").exists()
    config = json.loads((folders[1] / "run.json").read_text())
    steps = int(re.findall(r"stopped after (\d+) steps", told)[0])
    config["config"]["steps"] = steps + 300
    (folders[1] / "run.json").write_text(json.dumps(config))
    main(["train", "pebble", "--resume", str(folders[1]), "--no-progress"])
    assert json.loads((folders[1] / "summary.json").read_text())["steps"] == steps + 300


STUBBORN = """
import pathlib, signal, sys, time
def note(*_):
    counted.write_text(counted.read_text() + "x")
    if len(counted.read_text()) == 2:
        sys.exit(1)
counted = pathlib.Path(sys.argv[1])
counted.write_text("")
signal.signal(signal.SIGTERM, note)
while True:
    time.sleep(0.01)
"""


def test_a_second_ctrl_c_reaches_the_seeds_too(tmp_path: Path) -> None:
    counted = tmp_path / "counted"

    def press(times: int) -> None:
        for number in range(times):
            deadline = time.monotonic() + 60
            while not (counted.exists() and len(counted.read_text()) == number) and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=press, args=(2,))
    user.start()
    with pytest.raises(KeyboardInterrupt):
        run_side_by_side([[sys.executable, "-c", STUBBORN, str(counted)], ["false"]], most=1)
    user.join()
    assert counted.read_text() == "xx"


SEEDS = "import sys; from prefenvs.cli.train.online import run_side_by_side; run_side_by_side([sys.argv[1:]] * 2, 2)"
COLLECT = ["-m", "prefenvs", "collect", "Pendulum-v1", "--mix", "random=4000", "--workers", "2", "--no-progress"]


@pytest.mark.parametrize("line", [["-c", SEEDS, "sleep", "600"], [*COLLECT, "--out", "data"]], ids=["seeds", "collect"])
def test_what_a_command_started_ends_when_it_is_killed(line: list[str], tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, *line], cwd=tmp_path, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 120
    while len(started) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
        found = psutil.Process(command.pid).children()
        started = [one for one in found if one.name() == "sleep" or "spawn_main" in " ".join(one.cmdline())]
    command.kill()
    command.wait()
    gone, alive = psutil.wait_procs(started, timeout=60)
    for one in alive:
        one.kill()
    assert (len(gone), alive) == (2, [])
