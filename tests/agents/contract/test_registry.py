"""The registry: every algorithm keeps its contract, and one from outside costs one file and one line."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefenvs
from prefenvs.agents.registry import (
    ALGORITHMS,
    Algorithm,
    Offline,
    Online,
    Settings,
    describe_algorithm,
    find_algorithm,
    list_algorithms,
)
from prefenvs.agents.runs.contract import check_algorithm
from prefenvs.agents.runs.train import load_policy
from prefenvs.bench.claims.delivery import drive, soft_policy
from prefenvs.bench.methods import find_method, methods_of
from prefenvs.bench.suite import Cell
from prefenvs.cli import main
from prefenvs.cli.train.command import algorithm_table
from prefenvs.cli.train.flags import flags_of
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs.delivery.board import find_board
from prefenvs.errors import PrefenvsError
from prefenvs.limits import limits_of
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import Preference, Query
from prefenvs.runs import Run
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

from ..conftest import make_point_data, prefer_by_return

NETS: dict[str, Any] = {"hidden": (16, 16), "batch_size": 8}
TINY: dict[str, dict[str, Any]] = {
    "pebble": {"labels": 8, "per_session": 4, "interact": 30, "segment_length": 5, "unsupervised_steps": 20},
    "prefppo": {"labels": 8, "per_session": 4, "interact": 30, "segment_length": 5, "unsupervised_steps": 20},
    "thompson": {"labels": 8, "per_session": 4, "interact": 30, "segment_length": 5, "unsupervised_steps": 20},
    "resets": {"labels": 8, "per_session": 4, "interact": 30, "segment_length": 5, "unsupervised_steps": 20},
    "demonstrations": {
        **{"labels": 8, "per_session": 4, "interact": 30, "segment_length": 5, "unsupervised_steps": 0},
        "clone_updates": 5,
    },
    "spo": {"labels": 8, "queue": 4, "opponents": 1},
    "ranksgd": {"labels": 8, "candidates": 2, "top": 2, "steps_tried": 1},
    "parl": {"labels": 8, "per_session": 2, "explore": 60, "updates": 2, "sweeps": 2},
    "rlif": {"expert": f"{__name__}:Still", "trigger": "action", "threshold": 0.5},
    "barfi": {"heuristic": "prefenvs.bench.claims.tabular:coins", "sweeps": 2},
    "bc": NETS,
    "cpl": {"pretrain_updates": 4, "warmup_updates": 2, "pretrain_batch": 8, **NETS},
    "iql": NETS,
    "ipl": {"pairs": 4, "segment_steps": 5, **NETS},
    "dppo": NETS,
    "oppo": {"width": 8, "layers": 1, "encoder_heads": 2, "heads": 2, "window": 8, "batch_size": 4},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "pebble": {"learning_starts": 20, "hidden": (16, 16), "batch_size": 8, "buffer_size": 500},
    # gSDE draws its noise before a callback can write a checkpoint, so that a resumed rollout has another.
    "thompson": {"learning_starts": 20, "hidden": (16, 16), "batch_size": 8, "buffer_size": 500},
    "resets": {"learning_starts": 20, "hidden": (16, 16), "batch_size": 8, "buffer_size": 500},
    "demonstrations": {"learning_starts": 40, "hidden": (16, 16), "batch_size": 8, "buffer_size": 500},
    "rlif": {"learning_starts": 20, "hidden": (16, 16), "batch_size": 8, "buffer_size": 500},
    "spo": {"n_steps": 200, "envs": 1, "n_epochs": 1, "batch_size": 50, "hidden": (16,)},
    "prefppo": {"use_sde": False, "n_steps": 40, "envs": 1, "n_epochs": 1, "batch_size": 20, "hidden": (16,)},
}
# These make rollouts and rounds of whole episodes, between which alone there are checkpoints.
STEPS = {"spo": 200, "ranksgd": 800, "parl": 400}
PARTS: dict[str, dict[str, Any]] = {
    "reward": {"width": 16, "layers": 1, "epochs": 2},
    "predictor": {"width": 8, "heads": 2, "epochs": 1},
}


def tiny(algorithm: Algorithm) -> Settings:
    """The small preset with networks and batches for a test."""
    task = find_task("Pendulum-v1")
    settings = algorithm.settings(task, algorithm.presets[-1], steps=100)
    parts: dict[str, Any] = {
        name: dataclasses.replace(getattr(settings.config, name), **values)
        for name, values in PARTS.items()
        if hasattr(settings.config, name)
    }
    if algorithm.name == "demonstrations":
        parts["demonstrations"] = write_demonstrations()
    config = dataclasses.replace(settings.config, **TINY.get(algorithm.name, {}), **parts)
    options = settings.options
    if algorithm.name in OPTIONS:
        options = dataclasses.replace(options, **OPTIONS[algorithm.name])
    return Settings(config, 100, options)


@cache
def write_demonstrations() -> str:
    """A data set of Pendulum in a folder that outlives the test."""
    rng = np.random.default_rng(0)
    seen, done = rng.normal(size=(20, 3)).astype(np.float32), rng.uniform(-2, 2, (20, 1)).astype(np.float32)
    data = Trajectories(seen, done, np.array([20]), terminated=np.zeros(1, bool), task="Pendulum-v1")
    return str(write_npz(OfflineDataset("shown", data), Path(tempfile.mkdtemp()) / "shown"))


class Still:
    """Takes over, and does nothing."""

    def predict(self, observations: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.zeros((len(observations), 1), np.float32), None


def prefer_by_length(driven: Trajectories) -> list[Preference]:
    """Labels of the first moves of pairs of episodes, by how long these are."""
    batch = driven.cut(np.arange(4), np.zeros(4, np.int64), 2)
    return [
        Preference(Query((batch[i], batch[i + 1])), np.eye(2)[int(driven.lengths[i + 1] < driven.lengths[i])])
        for i in range(3)
    ]


class Height:
    """A reward of states: the pole's height."""

    def score(self, states: np.ndarray, scenes: np.ndarray | None = None) -> np.ndarray:
        return np.asarray(np.cos(states[:, 0]), np.float32)


def given(algorithm: Algorithm) -> Any:
    if algorithm.source == "offline":
        dataset = make_point_data()
        if algorithm.name in ("dcppo", "barfi"):
            board = find_board(4)
            driven = drive(board, soft_policy(board, 1.0), 5, np.random.default_rng(0))
            labels = prefer_by_length(driven) if algorithm.name == "barfi" else None
            return Offline(OfflineDataset("person", driven), labels, device="cpu")
        return Offline(dataset, prefer_by_return(dataset, 20), device="cpu")
    others = {"dqn": "CartPole-v1", "parl": "Delivery-v0"}
    task = find_task(others.get(algorithm.name, "Pendulum-v1"))
    oracle = algorithm.signal == "labels"
    reward: Any = Height() if algorithm.signal == "states" else None
    return lambda: Online(task, PartialReturnOracle(seed=0) if oracle else None, device="cpu", reward=reward)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_keeps_its_contract(name: str, tmp_path: Path) -> None:
    algorithm = find_algorithm(name)
    settings = tiny(algorithm)
    if algorithm.signal == "states":
        config = dataclasses.replace(settings.config, learning_starts=20, hidden=(16, 16), batch_size=8, train_freq=10)
        settings = dataclasses.replace(settings, config=config)
    steps = STEPS.get(name, 6 if algorithm.source == "offline" else 80)
    check_algorithm(algorithm, settings, given(algorithm), tmp_path, steps)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_declaration_tells_all_that_others_need(name: str) -> None:
    algorithm = find_algorithm(name)
    assert algorithm.learner.name == name
    assert describe_algorithm(ALGORITHMS[name]).endswith(".")
    for task in ("HalfCheetah-v5", "metaworld-door-close-v3", "AntMaze_Medium-v5"):
        for preset in algorithm.presets:
            settings = algorithm.settings(find_task(task), preset, steps=123)
            assert settings.steps == 123
            assert type(settings.config) is algorithm.config
            assert algorithm.options is None or type(settings.options) is algorithm.options
            parts = [settings.config] + ([] if settings.options is None else [settings.options])
            flags = [flag for part in parts for flag in flags_of(part)]
            assert len(flags) == len(set(flags)), "one flag for two fields"
    for method in methods_of(algorithm):
        assert method.command == ("train", name)
        assert find_method(method.upper).upper_bound


def fields(kind: type[Any]) -> list[tuple[str, Any]]:
    import typing

    return list(typing.get_type_hints(kind, include_extras=True).items())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_number_of_a_configuration_declares_its_limits(name: str) -> None:
    algorithm = find_algorithm(name)
    settings = algorithm.settings(find_task("HalfCheetah-v5"))
    parts = [part for part in (settings.config, settings.options) if part is not None]
    while parts:
        part = parts.pop()
        hints = dict(fields(type(part)))
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if dataclasses.is_dataclass(value):
                parts.append(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                assert limits_of(hints[field.name]) is not None, f"{type(part).__name__}.{field.name}"


def test_unknown_and_taken_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PrefenvsError, match=r"unknown algorithm 'pebbel'. Did you mean pebble"):
        find_algorithm("pebbel")
    with pytest.raises(PrefenvsError, match="no Algorithm called 'nope'"):
        find_algorithm("prefenvs.agents.offline.bc:nope")
    assert find_algorithm("prefenvs.agents.offline.bc:ALGORITHM").learner is prefenvs.agents.BC
    monkeypatch.setitem(ALGORITHMS, "bcc", ALGORITHMS["bc"])
    with pytest.raises(PrefenvsError, match="the algorithm 'bcc' is"):
        find_algorithm("bcc")


def test_the_docs_have_the_table_of_the_registry() -> None:
    page = (Path(__file__).parents[3] / "docs" / "learners" / "algorithms.md").read_text()
    assert algorithm_table() in page


TOY = '''"""A toy that imitates by a linear policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.limits import PositiveFloat


@dataclass(frozen=True)
class ToyConfig(OfflineConfig):
    """Settings of the toy."""

    rate: PositiveFloat = 0.1
    """Adam's learning rate."""


class Toy(OfflineLearner[ToyConfig]):
    """A linear policy by squared errors."""

    name = "toy"
    config_type = ToyConfig

    def _build(self):
        self.policy = nn.Linear(self.observation_size, self.action_size).to(self.device)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), lr=self.config.rate)

    def _load(self, dataset, preferences):
        self.labels = len(preferences or ())

    def _update(self):
        rows = torch.randint(len(self.data.observations), (8,), generator=self.generator)
        loss = (self.policy(self.data.observations[rows]) - self.data.actions[rows]).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return {"loss": loss.detach()}

    def _act(self, observations, deterministic):
        return self.policy(observations)

    def _modules(self):
        return {"policy": self.policy}

    def _optimisers(self):
        return {"adam": self.optimiser}


def preset(task, name="published", *, steps=None, **_):
    return Settings(ToyConfig(rate=0.2 if task.family == "classic_control" else 0.1), steps or 20)


ALGORITHM = Algorithm(
    name="toy",
    title="a toy",
    source="offline",
    learner=Toy,
    config=ToyConfig,
    preset=preset,
    rows=(Row("toy", "a toy"),),
    upper="iql-true-reward",
)
'''
LINE = "[prefenvs.algorithms]\ntoy = toy_package:ALGORITHM\n"


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on Python's path with a package of one file, and of one line in its entry points; and a data set."""
    (tmp_path / "toy_package.py").write_text(TOY)
    info = tmp_path / "toy_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(LINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((240, 3)).astype(np.float32), rng.uniform(-2, 2, (240, 1)).astype(np.float32)
    ends = np.arange(60, 241, 60)
    data = Trajectories(*arrays, ends, rng.random(240), terminated=np.zeros(4, bool), task="Pendulum-v1")
    write_npz(OfflineDataset("random", data), tmp_path / "data")
    yield tmp_path
    sys.modules.pop("toy_package", None)


def test_a_learner_from_outside_costs_one_file_and_one_line(
    toy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_algorithms()["toy"] == "toy_package:ALGORITHM"
    main(["train", "--help"])
    assert re.search(r"^ +toy +A toy that imitates by a linear policy\.$", capsys.readouterr().out, re.MULTILINE)
    folder = toy / "run"
    line = ["train", "toy", "--dataset", str(toy / "data"), "--steps", "6", "--evaluate-every", "3", "--episodes", "1"]
    line += ["--labels", "10", "--segment-length", "8", "--no-progress"]
    main([*line, "--folder", str(folder)])
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["algorithm"], summary["labels"], summary["updates"]) == ("toy", 10, 6)
    run = Run.open(folder)
    assert run.config["rate"] == 0.2, "the default is the preset's for the task"
    # Resumed from a checkpoint in the middle, it ends where the uninterrupted run does.
    main([*line[:5], "3", *line[6:], "--folder", str(toy / "half")])
    record = json.loads((toy / "half" / "run.json").read_text())
    record["config"]["steps"] = 6
    (toy / "half" / "run.json").write_text(json.dumps(record))
    main(["train", "toy", "--resume", str(toy / "half"), "--no-progress"])
    policies = [load_policy(Run.open(toy / name)) for name in ("run", "half")]
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    np.testing.assert_array_equal(*(policy.predict(observation)[0] for policy in policies))
    capsys.readouterr()
    record["config"]["nonsense"] = 1
    (toy / "half" / "run.json").write_text(json.dumps(record))
    for arguments, message in (
        ([], "another version (it has the setting 'nonsense'"),
        (["--rate", "1"], "--rate comes"),
    ):
        with pytest.raises(SystemExit):
            main(["train", "toy", "--resume", str(toy / "half"), *arguments])
        (told,) = capsys.readouterr().err.strip().splitlines()
        assert message in told
    main(["evaluate", str(folder), "--episodes", "1"])
    assert "true return" in capsys.readouterr().out
    main(["train", "toy_package:ALGORITHM", *line[2:], "--folder", str(toy / "own")])
    np.testing.assert_array_equal(
        load_policy(Run.open(toy / "own")).predict(observation)[0], policies[0].predict(observation)[0]
    )
    method = find_method("toy")
    cell = Cell("toy", "Pendulum-v1", "oracle", 10, 0, {"steps": 6}, str(toy / "data"))
    assert method.commands(cell, toy / "cell", None)[0][4:6] == ["train", "toy"]
    (toy / "toy_rows.py").write_text(
        "from dataclasses import replace\nfrom prefenvs.agents.registry import Row\nimport toy_package\n"
        "ROWS = replace(toy_package.ALGORITHM, rows=(Row('ours', 'ours', controls=('coin',), upper='best'),"
        " Row('coin', 'coin', {'rate': 1.0}, rater='coin'), Row('best', 'best', {'rate': 2.0}, upper='best')))\n"
        "BARE = replace(toy_package.ALGORITHM, rows=())\n"
    )
    ours, best = find_method("toy_rows:ROWS"), find_method("toy_rows:ROWS:best")
    assert (ours.title, ours.controls, ours.upper) == ("ours", ("toy_rows:ROWS:coin",), "toy_rows:ROWS:best")
    assert best.upper_bound
    assert best.commands(cell, toy / "cell", None)[0][4:6] == ["train", "toy_rows:ROWS"]
    assert find_method("toy_rows:BARE").title == "a toy"
    with pytest.raises(
        PrefenvsError, match="toy_rows:ROWS has no row 'coyn': it has toy_rows:ROWS, toy_rows:ROWS:coin"
    ):
        find_method("toy_rows:ROWS:coyn")


@pytest.mark.slow
def test_it_has_the_contract_and_a_row_in_a_table(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    algorithm = find_algorithm("toy")
    check_algorithm(algorithm, algorithm.settings(find_task("Pendulum-v1")), given(algorithm), toy / "contract")
    (toy / "toy_suite.py").write_text(
        "from prefenvs.bench import Grid, Suite\n"
        f"GRID = Grid(('toy', 'bc'), ('Pendulum-v1',), labels=(10,), seeds=(0,), dataset={str(toy / 'data')!r},\n"
        "    options={'steps': 4, 'evaluate_every': 2, 'episodes': 1, 'segment_length': 8, 'preset': 'small'})\n"
        "SUITE = Suite('toys', 'Toys.', (GRID,))\n"
    )
    main(["bench", "run", "toy_suite:SUITE", "--folder", str(toy / "bench"), "--workers", "1", "--min-free-gb", "0"])
    main(["bench", "table", str(toy / "bench"), "--resamples", "10"])
    assert "a toy" in (toy / "bench" / "report" / "tables.md").read_text()


def test_the_list_of_algorithms_needs_no_torch() -> None:
    code = (
        "import sys; from prefenvs.agents.registry import *; "
        "print(*map(describe_algorithm, list_algorithms().values()), sep='\\n'); "
        "assert 'torch' not in sys.modules and 'stable_baselines3' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(out.strip().splitlines()) >= len(ALGORITHMS)
