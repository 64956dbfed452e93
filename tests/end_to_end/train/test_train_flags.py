"""Flags of `prefenvs train`: every field of a configuration, with the defaults of the task and preset."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from prefenvs.agents.registry import ALGORITHMS, Settings, find_algorithm
from prefenvs.cli import main
from prefenvs.cli.train.flags import flags_of, given_flags, keywords_of, restore
from prefenvs.cli.train.offline import DataOptions, LabelOptions, OfflineTraining
from prefenvs.cli.train.online import OnlineTask
from prefenvs.cli.train.options import Training, read_groups, record_of
from prefenvs.cli.train.raters import RaterOptions
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task


def read(name: str, task: str, *words: str) -> tuple[dict[str, Any], Settings]:
    algorithm = find_algorithm(name)
    online: dict[str, Any] = {"environment": OnlineTask(), "rater": RaterOptions()}
    offline: dict[str, Any] = {"data": DataOptions(), "rater": LabelOptions()}
    first, training = (offline, OfflineTraining) if algorithm.source == "offline" else (online, Training)
    return read_groups(algorithm, words, given_flags(words), find_task(task), first, training, None)


def test_defaults_are_the_presets_for_the_task() -> None:
    door = read("pebble", "metaworld-door-close-v3")[1]
    assert (door.options.hidden, door.options.batch_size, door.config.reward.epochs) == ((256, 256, 256), 512, 10)
    walker = read("pebble", "dmc-walker-walk-v0", "--labels", "1000", "--preset", "small")[1]
    assert (walker.options.hidden, walker.config.per_session, walker.config.reward.width) == ((128, 128), 100, 128)
    maze = read("iql", "AntMaze_Medium-v5", "--true-reward")[1]
    assert (maze.config.expectile, maze.config.reward_rule, maze.steps) == (0.9, "none", 1_000_000)
    assert read("cpl", "HalfCheetah-v5", "--variant", "cpl-kl", "--steps", "1000")[1].config.pretrain_updates == 400


@pytest.mark.parametrize("name", ["thompson", "resets", "demonstrations"])
def test_relatives_of_pebble_take_its_switches_and_fit_its_schedule(name: str) -> None:
    words = ["--preset", "reliable", "--steps", "10000", "--labels", "100", "--rime", "--cer", "--horizon-discount"]
    config, options = (s := read(name, "Reacher-v5", *words)[1]).config, s.options
    pebble = read("pebble", "Reacher-v5", *words)[1].config
    assert (config.labels, config.per_session, options.gamma) == (100, pebble.per_session, 0.95)
    assert config.reward.rime is not None
    assert config.value_resets is not None
    assert config.interact < 10_000
    assert config.aggregate == ("mean" if name == "thompson" else pebble.aggregate)


def test_what_is_given_takes_the_place_of_defaults_however_deep() -> None:
    words = ["--surf", "--reward.surf.margin", "7", "--reward.members", "5", "--gamma=0.9", "--hidden", "8", "9"]
    config, options = (s := read("pebble", "Pendulum-v1", *words, "--no-progress")[1]).config, s.options
    assert (config.reward.surf.margin, config.reward.members, options.gamma, options.hidden) == (7, 5, 0.9, (8, 9))
    assert read("pebble", "Pendulum-v1", "--reward.normalise")[1].config.reward.normalise
    assert read("dppo", "Pendulum-v1", "--predictor.shift", "3")[1].config.predictor.shift == 3.0
    model = read("iql", "Pendulum-v1", "--reward-model", "transformer", "--model.layers", "2")[1].options.model
    assert model.layers == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pebble", ["--reward.surf.margin", "7"]),
        ("iql", ["--reward-model", "transformer", "--reward.epochs", "3"]),
        ("iql", ["--model.layers", "2"]),
        ("pebble", ["--preset", "tiny"]),
        ("prefppo", ["--preset", "small"]),
    ],
)
def test_a_flag_without_effect_is_none(name: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(name, "Pendulum-v1", *words)
    assert words[-2] in capsys.readouterr().err


def test_limits_name_the_flag() -> None:
    with pytest.raises(PrefenvsError, match=r"--reward\.flip-rate must be less than 0\.5"):
        read("pebble", "Pendulum-v1", "--reward.flip-rate", "2")
    with pytest.raises(PrefenvsError, match="--tau must be at most 1"):
        read("pebble", "Pendulum-v1", "--tau", "2")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_record_restores_every_setting(name: str) -> None:
    groups, _ = read(name, "Pendulum-v1")
    record = record_of(groups)
    assert {flag.replace("-", "_") for group in groups.values() for flag in flags_of(group) if "." not in flag} <= set(
        record
    )
    for group in groups.values():
        bare = type(group)(**{**{f.name: getattr(group, f.name) for f in dataclasses.fields(group)}})
        assert restore(bare, record) == group


@pytest.mark.parametrize(
    ("name", "words"),
    [("pebble", ["--horizon-discount"]), ("ranksgd", ["--labels", "4", "--candidates", "3", "--top", "3"])],
)
def test_a_preset_takes_what_a_resumed_run_has_kept(name: str, words: list[str]) -> None:
    groups, settings = read(name, "Pendulum-v1", *words)
    kept = {key: value for key, value in record_of(groups).items() if value is not None and key != "task"}
    again = find_algorithm(name).settings(find_task("Pendulum-v1"), kept.pop("preset"), **kept)
    assert (again.config, again.options) == (settings.config, settings.options)


def test_flags_are_read_as_the_parser_reads_them() -> None:
    found = given_flags(["--labels", "5", "--per_session=3", "--no-progress", "--surf", "--task", "x"])
    assert found == {"labels": "5", "per-session": "3", "progress": "false", "surf": "true", "task": "x"}

    def preset(*, labels: int | None = None, surf: bool = False, task: str = "") -> None:
        """A preset."""

    assert keywords_of(preset, found) == {"labels": 5, "surf": True, "task": "x"}
    assert keywords_of(preset, {"labels": "many"}) == {}


def test_an_algorithm_that_is_not_named_or_known(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in ((["train"], "say which algorithm"), (["train", "pebbel"], "Did you mean pebble?")):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
