"""Suites, methods and tasks: what is named exists, and what is one's own joins by its name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from tyro.conf import OmitSubcommandPrefixes

import prefenvs
from prefenvs.agents.registry import find_algorithm
from prefenvs.bench import Cell, Grid, Suite, find_method, find_suite, list_methods, list_suites
from prefenvs.bench.folder import cell_from, select
from prefenvs.bench.methods import OURS
from prefenvs.bench.report.published import published_figures
from prefenvs.cli import Command
from prefenvs.cli.train.flags import given_flags
from prefenvs.cli.train.offline import DataOptions, LabelOptions, OfflineTraining
from prefenvs.cli.train.online import OnlineTask, RewardTraining
from prefenvs.cli.train.options import Training, read_groups
from prefenvs.cli.train.raters import RaterOptions
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task


@pytest.mark.parametrize("suite", list_suites(), ids=lambda suite: suite.name)
def test_a_suite_names_methods_and_tasks_that_exist(suite: Suite) -> None:
    cells = suite.cells()
    assert len({cell.name for cell in cells}) == len(cells) > 1
    methods = {name: find_method(name) for name in {cell.method for cell in cells}}
    present = {(cell.method, cell.problem) for cell in cells}
    bounds = [name for name, method in methods.items() if method.upper_bound]
    for cell in cells:
        find_task(cell.task)
        method = methods[cell.method]
        assert (cell.labels > 0) == method.asks
        assert suite.measure_of(cell) in ("success", "mean_return", "normalised_score")
        assert not method.upper or any((bound, cell.problem) in present for bound in bounds)
        assert bool(cell.dataset) or not method.offline


def parse(words: list[str], task: str) -> Any:
    """Read a command line without carrying it out."""
    if words[0] != "train":
        return tyro.cli(Command, args=words, config=(OmitSubcommandPrefixes,))
    algorithm, rest = find_algorithm(words[1]), words[2:]
    online: dict[str, Any] = {"environment": OnlineTask(), "rater": RaterOptions()}
    offline: dict[str, Any] = {"data": DataOptions(), "rater": LabelOptions()}
    learned = algorithm.takes_reward_model and not {"--true-reward", "--exploration-only"} & {*rest}
    first, training = (online, RewardTraining if learned else Training)
    if algorithm.source == "offline":
        first, training = offline, OfflineTraining
    groups, _ = read_groups(algorithm, rest, given_flags(rest), prefenvs.find_task(task), first, training, None)
    return groups["training"]


@pytest.mark.parametrize("suite", list_suites(), ids=lambda suite: suite.name)
def test_every_method_of_a_suite_is_a_command_line_that_exists(suite: Suite, tmp_path) -> None:
    for cell in {cell.method: cell for cell in suite.cells()}.values():
        for line in find_method(cell.method).commands(cell, tmp_path / "run", tmp_path / "data"):
            assert line[: len(OURS)] == list(OURS)
            command = parse(line[len(OURS) :], cell.task)
            assert getattr(command, "seed", cell.seed) == cell.seed or "measure" in line
        for line in cell.data.commands if cell.data else ():
            parse(list(line), cell.task)


def test_names_of_methods_are_unique() -> None:
    names = [method.name for method in list_methods()]
    assert len(set(names)) == len(names)
    assert all(not method.upper or find_method(method.upper).upper_bound for method in list_methods())


def test_a_grid_asks_nobody_for_methods_that_learn_from_no_labels() -> None:
    grid = Grid(("pebble", "pebble-true-reward", "random"), ("Reacher-v5",), ("oracle", "noisy"), (10, 20), (0, 1))
    cells = list(grid.cells())
    by_method = {name: [cell for cell in cells if cell.method == name] for name in grid.methods}
    assert {name: len(found) for name, found in by_method.items()} == {
        "pebble": 2 * 2 * 2,
        "pebble-true-reward": 2,
        "random": 1,
    }


def test_all_first_seeds_come_before_the_second_ones() -> None:
    seeds = [cell.seed for cell in find_suite("smoke").cells()]
    assert seeds == sorted(seeds)
    assert len(set(seeds)) > 1


def test_a_part_of_a_suite_is_its_most_important_part() -> None:
    grids = (Grid(("random",), ("Reacher-v5",), priority=1), Grid(("pebble",), ("Reacher-v5",), priority=0))
    cells = Suite("x", "x", grids).cells()
    assert [(cell.method, cell.seed) for cell in cells] == [("pebble", 0), ("pebble", 1), ("pebble", 2), ("random", 0)]


def test_definitions_survive_json() -> None:
    for suite in list_suites():
        cell = suite.cells()[-1]
        assert cell_from(json.loads(json.dumps(cell.definition))).definition == cell.definition


def test_options_become_words() -> None:
    cell = Cell("pebble-surf", "Reacher-v5", "noisy", 40, 3, {"steps": 100, "wait": True})
    line = " ".join(find_method("pebble-surf").commands(cell, "F", None)[0])
    for words in ("train pebble", "--task Reacher-v5", "--seed 3", "--oracle noisy", "--labels 40", "--steps 100"):
        assert words in line
    assert "--surf" in line
    assert "--no-progress" in line
    assert "--wait" in line
    raw = find_method("pebble-raw-inputs").commands(cell, "F", None)[0]
    assert "--reward.no-normalise" in raw


@pytest.mark.parametrize(
    ("look", "message"),
    [
        (lambda: find_method("peble"), "unknown method 'peble'. Did you mean pebble"),
        (lambda: find_suite("smoek"), "unknown suite 'smoek'. Did you mean smoke"),
        (lambda: find_suite("no_such_module:SUITE"), "module 'no_such_module' cannot be imported"),
        (lambda: find_suite("own_parts:NOTHING"), "has no Suite called 'NOTHING'; it holds GOOD"),
        (lambda: find_suite("own_parts:STEADY"), "has no Suite called 'STEADY'"),
        (lambda: find_suite("own_parts:TWICE").cells(), "twice with different options"),
        (lambda: Suite("x", "x", (Grid(("pebble",), ("Recher-v5",)),)).cells(), "unknown task 'Recher-v5'.*Reacher"),
        (lambda: Suite("x", "x", (Grid(("nothing",), ("Reacher-v5",)),)).cells(), "unknown method 'nothing'"),
        (
            lambda: Suite("x", "x", (Grid(("pebble",), ("Reacher-v5",), options={"preset": "tiny"}),)).cells(),
            "the method pebble has no preset 'tiny', only published, small, reliable",
        ),
        (
            lambda: list(Grid(("pebble",), ("Reacher-v5",), method_options={"peble": {"steps": 1}}).cells()),
            "unknown method 'peble'. Did you mean pebble",
        ),
        (lambda: Grid("pebble", ("Reacher-v5",)), r"methods of a grid are several: write methods=\('pebble',\)"),
        (lambda: Grid(("pebble",), ("Reacher-v5",), labels=500), r"write labels=\(500,\) for 500 alone"),
        (
            lambda: Suite("x", "x", (), measure="retrun").measure_of(Cell("pebble", "Reacher-v5")),
            "the suite 'x' has no measure 'retrun': choose success, return, d4rl, or None",
        ),
        (lambda: select(find_suite("smoke").cells(), method=("iql",)), "no cell of the suite has method 'iql'"),
        (lambda: find_task("own_parts:GOOD"), "has no prefenvs.Task, environment class or function called 'GOOD'"),
    ],
)
def test_a_wrong_name_is_told(own, look, message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        look()


def test_methods_and_tasks_of_ones_own_join_by_their_path(own) -> None:
    method = find_method("own_parts:UPPER")
    assert method.name == "own_parts:UPPER"
    assert method.upper_bound
    env = prefenvs.make("own_parts:TASK")
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3] for _ in range(20)]
    assert ends == [False] * 19 + [True]
    env.close()
    assert prefenvs.make("own_parts:TASK").spec.id == "prefenvs/own_parts.TASK"


def test_options_of_a_method_are_found_by_every_name_that_it_has() -> None:
    path = "prefenvs.agents.offline.iql:ALGORITHM"
    for name, other in ((path, f"{path}:iql"), (f"{path}:iql", path), (f"{path}:iql", f"{path}:iql")):
        (cell,) = Grid((name,), ("Reacher-v5",), seeds=(0,), method_options={other: {"steps": 3}}).cells()
        assert cell.options == {"steps": 3}


def test_an_installed_package_offers_suites_methods_and_tasks(own, tmp_path, monkeypatch) -> None:
    information = tmp_path / "others-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[prefenvs.suites]\ngood = own_parts:GOOD\n[prefenvs.methods]\nsteady = own_parts:STEADY\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(own)
    assert find_suite("own").sentence == "Whether the machinery works."
    assert find_method("own-steady").title == "Own, steady"
    (information / "entry_points.txt").write_text("[prefenvs.suites]\ngood = own_parts:STEADY\n")
    with pytest.raises(PrefenvsError, match="gives no Suite"):
        list_suites()


@pytest.mark.parametrize("first", ["prefenvs", "parts"])
def test_one_module_of_an_installed_package_offers_a_task_and_a_suite(first: str, tmp_path: Path) -> None:
    information = tmp_path / "parts-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: parts\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[prefenvs.suites]\nparts = parts:SUITE\n[prefenvs.tasks]\nturn = parts:TURN\n"
    )
    (tmp_path / "parts.py").write_text(
        "import prefenvs\nfrom prefenvs.bench import Grid, Suite\n"
        "TURN = prefenvs.Task('Turn-v0', 'own', 'It turns.', 20, 5, fps=10, source='Reacher-v5')\n"
        "SUITE = Suite('parts', 'Turning.', (Grid(('random',), ('Turn-v0',), seeds=(0,)),))\n"
    )
    code = f"import {first}, prefenvs; from prefenvs.bench import find_suite\n"
    code += "print(find_suite('parts').cells()[0].task, prefenvs.make('Turn-v0').reset(seed=0)[0].shape)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(prefenvs.__file__).parents[1])])}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.stdout == "Turn-v0 (10,)\n", run.stderr


@pytest.mark.parametrize(
    "suite", [find_suite(name) for name in ("cpu", "cpl", "d4rl", "d4rl-maze")], ids=lambda s: s.name
)
def test_offline_learners_that_are_compared_get_the_same_labels(suite: Suite) -> None:
    asking = [cell for cell in suite.cells() if find_method(cell.method).offline and cell.labels]
    for problem in {cell.problem for cell in asking}:
        sources: dict[str, set[tuple[object, ...]]] = {}
        for cell in asking:
            if cell.problem == problem:
                form = cell.options.get("regret_form") if cell.oracle.startswith("regret") else None
                labels = cell.oracle, form, cell.labels, cell.options.get("segment_length")
                sources.setdefault(cell.method, set()).add(labels)
        assert set.intersection(*sources.values()), problem


def test_the_suite_cpl_has_cpls_labels() -> None:
    for cell in find_suite("cpl").cells():
        if cell.labels:
            assert cell.oracle.startswith("regret:")
            assert (cell.options["regret_form"], cell.options["segment_length"]) == ("visited", 64)
    told = {figure.differs for figure in published_figures() if figure.suite == "cpl"}
    assert not any("partial return" in text for text in told)


def test_controls_get_the_steps_seeds_and_exploration_of_the_labelled_runs() -> None:
    options = {"steps": 1_000, "unsupervised_steps": 100, "per_session": 10}
    methods = ("pebble", *find_method("pebble").controls, find_method("pebble").bound)
    cells = Suite("x", "x", (Grid(methods, ("Reacher-v5",), ("mistake", "skip"), (50,), (0,), options),)).cells()
    assert [(cell.method, cell.oracle) for cell in cells] == [
        ("pebble", "mistake"),
        ("pebble", "skip"),
        ("pebble-coin", "coin"),
        ("pebble-no-labels", "none"),
        ("pebble-true-reward-explored", "none"),
    ]
    assert all(cell.options["steps"] == 1_000 for cell in cells)
    assert cells[2].options == cells[0].options
    assert cells[4].options["unsupervised_steps"] == 100
    lines = [find_method(cell.method).commands(cell, Path("run"), None)[0] for cell in cells]
    assert lines[2][lines[2].index("--oracle") + 1] == "coin"
    assert "--exploration-only" in lines[3]
    assert {"--true-reward", "--explore-first"} <= set(lines[4])


def test_every_method_that_asks_in_our_suites_stands_beside_its_controls() -> None:
    for suite in list_suites():
        if suite.name == "guard":  # which compares with its own figures of before
            continue
        for grid in suite.grids:
            for method in map(find_method, grid.methods):
                others = {name for other in suite.grids if set(other.tasks) & set(grid.tasks) for name in other.methods}
                assert {*method.controls, method.bound} - {""} <= others, f"{suite.name}: {method.name}"
