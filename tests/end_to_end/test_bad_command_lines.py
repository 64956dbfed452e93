"""Bad command lines, hundreds of them: each ends with one clear message and status 2, none with a traceback."""

import contextlib
import dataclasses
import json
import math
import subprocess
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from prefenvs.agents.registry import find_algorithm, list_algorithms
from prefenvs.cli import Command, main
from prefenvs.cli.train.offline import DataOptions, LabelOptions, OfflineTraining
from prefenvs.cli.train.options import Training
from prefenvs.limits import Device, Range, limits_of

# What a command needs before its other options are looked at.
NEEDED = {
    "collect": ["InvertedPendulum-v5"],
    "evaluate": ["run"],
    "record": ["run"],
    "label": ["--store", "store.sqlite"],
    "critic": ["expert.zip"],
    "judge": ["run", "run"],
    "labels accuracy": ["labels"],
    "labels report": ["labels"],
    "labels import": ["labels"],
    "labels export": ["store.sqlite", "out.csv"],
    "ask": ["data", "--store", "store.sqlite"],
    "rate": ["--store", "store.sqlite"],
    "bench run": ["smoke"],
    "bench table": ["folder"],
    "bench random": ["--task", "InvertedPendulum-v5", "--folder", "out"],
    "bench comparisons": ["--task", "InvertedPendulum-v5", "--folder", "out"],
    "bench measure": ["run"],
    "store stats": ["store.sqlite"],
    "store agreement": ["store.sqlite"],
    "store export": ["store.sqlite", "out"],
    "store import": ["store.sqlite", "out"],
}


NESTED = ("reward", "predictor")
"""Parts of a configuration whose flags begin with their name."""


def commands(kind: Any = Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, type]]:
    """Every command with its class."""
    if get_origin(kind) is Annotated:
        inner, *extras = get_args(kind)
        path = (*path, *(extra.name for extra in extras if getattr(extra, "name", None)))
        yield from commands(inner, path)
    elif get_origin(kind) in (types.UnionType, typing.Union):
        for member in get_args(kind):
            yield from commands(member, path)
    elif path == ("train",):
        for name in list_algorithms():
            algorithm = find_algorithm(name)
            offline = [DataOptions, LabelOptions, OfflineTraining]
            for part in offline if algorithm.source == "offline" else [Training]:
                yield f"train {name}", part
            for part in (algorithm.config, algorithm.options):
                if part is not None:
                    yield f"train {name}", part
    else:
        yield " ".join(path), kind


def numbers(kind: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every number that a command takes: its flag and its type, those of groups of options included."""
    for name, annotation in get_type_hints(kind, include_extras=True).items():
        if name not in {field.name for field in dataclasses.fields(kind)}:
            continue
        bare, extras = annotation, ()
        if get_origin(annotation) is Annotated:
            bare, extras = annotation.__origin__, annotation.__metadata__
        if dataclasses.is_dataclass(bare):
            assert isinstance(bare, type)
            yield from numbers(bare, f"{name}." if prefix or name in NESTED else "")
        elif {int, float} & {bare, *get_args(bare)} or limits_of(annotation) is not None:
            named = next((extra.name for extra in extras if getattr(extra, "name", None)), name)
            yield f"--{prefix}{named.replace('_', '-')}", annotation


NUMBERS = [(command, flag, kind) for command, found in commands() for flag, kind in numbers(found)]


@pytest.mark.parametrize(
    ("command", "flag", "kind"), NUMBERS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_number_declares_its_limits(command: str, flag: str, kind: Any) -> None:
    assert limits_of(kind) is not None, f"{command} {flag}"


def bad_values(kind: Any) -> Iterator[str]:
    limits = limits_of(kind)
    if isinstance(limits, Device):
        yield from ("cuda:77", "gpu")
        return
    if limits is None:
        return  # test_every_number_declares_its_limits names it
    assert isinstance(limits, Range)
    whole = "float" not in str(kind)
    if limits.low > -math.inf:
        yield f"{limits.low - 1:g}" if not limits.above else f"{limits.low:g}"
    if not whole:
        yield "nan"
        yield "inf"
    elif limits.high < math.inf:
        yield str(int(limits.high) + 1)


def some_bad_values(numbers: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Every bad value for the first flag of each kind, and one for others: a line takes a third of a second."""
    seen = set()
    for command, flag, kind in numbers:
        values = list(bad_values(kind))
        for value in values if str(kind) not in seen else values[:1]:
            yield command, flag, value
        seen.add(str(kind))


def choices(kind: type, prefix: str = "") -> Iterator[str]:
    """Every flag of a command that takes one of a few words, those of groups of options included."""
    for name, annotation in get_type_hints(kind).items():
        if dataclasses.is_dataclass(annotation):
            assert isinstance(annotation, type)
            yield from choices(annotation, f"{name}." if prefix or name in NESTED else "")
        elif Literal in {get_origin(member) for member in (annotation, *get_args(annotation))}:
            yield f"--{prefix}{name.replace('_', '-')}"


# Once each flag: what follows from a flag's type is the same for every command.
CHOICES = {flag: command for command, found in commands() for flag in choices(found)}
LINES = [[*command.split(), *NEEDED.get(command, []), flag, value] for command, flag, value in some_bad_values(NUMBERS)]
TRAINING = [["train", name] for name in ("pebble", "prefppo", "dqn", "clip")]
OFFLINE = [["train", name] for name in ("iql", "cpl", "bc", "oppo", "ipl", "dppo")]
DATA = ["--dataset", "data"]
SMALL = ["--task", "InvertedPendulum-v5"]
WRONG = [
    *([*line, "--task", name] for line in TRAINING for name in
      ("", "nope", "HalfCheetah", "no_module:Task", "json:dumps")),
    *([*line, *SMALL, "--resume", name] for line in TRAINING for name in ("missing", "file.txt", "folder", "damaged")),
    *([*line, "--resume", name] for line in OFFLINE for name in ("missing", "file.txt", "folder", "damaged")),
    *([*line, "--dataset", name] for line in OFFLINE for name in ("", "missing", "file.txt", "folder", "d4rl/nope-v2")),
    *([*line, *DATA, "--preferences", name] for line in OFFLINE[:2] for name in
      ("nope", "oracle:nope", "regret:missing", "regret", "file.txt", "folder", "missing.sqlite", "broken.sqlite")),
    *([*line, *DATA, "--labels", "3", "--segment-length", "100000"] for line in OFFLINE[:2]),
    *([*line, *DATA, "--task", "nope"] for line in OFFLINE),
    *([*line, *DATA, "--seeds", "1", "1"] for line in OFFLINE[:3]),
    *([*line, *SMALL, "--oracle", name] for line in TRAINING[:2] for name in
      ("nope", "crowd-nope", "regret", "regret-nope", "human", "ratings", "vlm", "clip", "hybrid", "")),
    *([*line, *SMALL, *rest] for line in TRAINING[:2] for rest in (
        ["--selector", "nope"], ["--labels", "1", "--per-session", "50"], ["--segment-length", "99999"],
        ["--steps", "10"], ["--store", "x.sqlite"], ["--wait"], ["--expert", "missing", "--oracle", "regret"],
        ["--expert", "file.txt", "--oracle", "regret"], ["--expert", "missing"], ["--aggregate", "max"],
        ["--true-reward", "--store", "x.sqlite"], ["--seeds", "1", "1"], ["--oracle", "human", "--store", "folder"],
        ["--oracle", "human", "--store", "nowhere/x.sqlite"], ["--oracle", "human", "--store", "mysql://a/b"],
        ["--oracle", "human", "--store", "broken.sqlite"], ["--unsupervised-steps", "999999999"])),
    ["train"], ["nope"], ["train", "nope"], ["train", "pebble", "--nope"], ["tasks", "--family", "nope"],
    ["train", "bc", *DATA, "--true-reward"], ["train", "iql", *DATA, "--encoder", "x"],
    ["train", "iql", *DATA, "--reward-model", "image"], ["train", "cpl", *DATA, "--dense", "--preferences", "labels"],
    ["doctor", "--task", "nope"], ["doctor", "--task", "no_module:Task"],
    *([command, name] for command in ("evaluate", "record", "critic") for name in
      ("missing", "file.txt", "folder", "damaged")),
    ["judge", "missing", "missing"], ["judge", "run"], ["judge"], ["judge", "file.txt", "folder"],
    ["collect"], ["collect", "nope"], ["collect", *SMALL[1:], "--mix", "nope=1"],
    ["collect", *SMALL[1:], "--mix", "random"],
    ["collect", *SMALL[1:], "--mix", "random=-1"], ["collect", *SMALL[1:], "--mix", "random:nan=1"],
    ["collect", *SMALL[1:], "--mix", "random=0"], ["collect", *SMALL[1:], "--mix", "scripted=1"],
    ["collect", *SMALL[1:], "--mix", "random:0.1:2=1"], ["collect", *SMALL[1:], "--mix", "random=1", "--out", "folder"],
    ["collect", *SMALL[1:], "--mix", "file.txt=1"], ["collect", *SMALL[1:], "--resume", "missing"],
    ["collect", *SMALL[1:], "--format", "nope"], ["collect", *SMALL[1:], "--out", "minari/x", "--format", "npz"],
    *(["store", "stats", name] for name in ("missing.sqlite", "folder", "file.txt", "broken.sqlite", "", "mysql://a/b",
      "postgresql://127.0.0.1:1/nope", "postgresql://", "://")),
    ["store", "export", "missing.sqlite", "out"], ["store", "export", "store.sqlite", "folder"],
    ["store", "export", "store.sqlite", "file.txt"], ["store", "import", "store.sqlite", "missing"],
    ["store", "import", "store.sqlite", "file.txt"], ["store", "import", "store.sqlite", "folder"],
    ["store", "import", "store.sqlite", "bad.zip"],
    ["rate"], ["rate", "--store", "missing.sqlite"], ["rate", "--store", "missing.sqlite", "--oracle", "noisy"],
    ["rate", "--check", "5"], ["rate", "--check", "5", "--task", "nope", "--oracle", "noisy"],
    ["rate", "--check", "5", "--store", "missing.sqlite", "--oracle", "noisy"],
    ["rate", "--check", "5", "--store", "missing.sqlite", "--oracle", "noisy", *SMALL],
    ["rate", "--store", "store.sqlite", "--oracle", "nope"], ["rate", "--dataset", "missing", "--oracle", "noisy"],
    ["rate", "--store", "missing.sqlite", "--audit"], ["rate", "--copy-prompts", "file.txt"],
    ["rate", "--store", "store.sqlite", "--vlm-model", "m", "--vlm-url", "http://127.0.0.1:9"],
    ["rate", "--store", "store.sqlite", "--vlm-model", "m", "--vlm-url", "nope"],
    ["rate", "--store", "store.sqlite"],
    ["labels", "report", "missing"], ["labels", "report", "file.txt"], ["labels", "report", "folder"],
    ["labels", "import", "folder"], ["labels", "report", "labels"],
    ["bench", "run", "nope"], ["bench", "run", "no_module:suite"], ["bench", "run", "json:dumps"],
    ["bench", "run", "smoke", "--methods", "nope"], ["bench", "run", "smoke", "--tasks", "nope"],
    ["bench", "run", "smoke", "--seeds", "99"], ["bench", "run", "smoke", "--folder", "file.txt"],
    ["bench", "run", "smoke", "--gpus", "nope"], ["bench", "table", "missing"], ["bench", "table", "file.txt"],
    ["bench", "table", "folder"], ["bench", "table", "bad.parquet"], ["bench", "measure", "missing"],
    ["bench", "measure", "folder"], ["bench", "random", "--task", "nope", "--folder", "out"],
    ["bench", "random", "--task", "CartPole-v1", "--folder", "out", "--still"],
    ["bench", "comparisons", "--task", "nope", "--folder", "out"],
    ["bench", "comparisons", *SMALL, "--folder", "out", "--oracle", "noisy"],
    ["label", "--store", "folder"], ["label", "--store", "broken.sqlite"], ["label", "--store", "nowhere/x.sqlite"],
    ["label", "--store", "store.sqlite", "--host", "0.0.0.0"],
    ["label", "--store", "store.sqlite", "--host", "nope.invalid"],
    *(["label", "--store", "store.sqlite", *rest] for rest in (
        ["--gold-share", "0.2"], ["--manager", "lab"], ["--kind", "rating", "--gold", "3"],
        ["--kind", "rating", "--tutorial", "3"], ["--kind", "rating", "--gold-by", "ana"],
        ["--kind", "rating", "--strength"])),
]  # fmt: skip
LINES += WRONG


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with damaged files, where relative names of the lines lead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "file.txt").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(b"\x00\xff")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text('{"command": "train')
    for name in ("broken.sqlite", "bad.zip", "bad.parquet", "expert.zip"):
        (tmp_path / name).write_bytes(b"not what its name says" * 50)
    (tmp_path / "labels").mkdir()
    for name in ("indices_num2", "indices_2_num2", "label_human"):
        (tmp_path / "labels" / name).write_bytes(b"\x80\x04N.")
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    ends = np.zeros(40, bool)
    ends[19::20] = True
    np.savez(
        tmp_path / "data" / "data.npz",
        observations=rng.normal(size=(40, 4)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(40, 1)).astype(np.float32),
        rewards=np.ones(40),
        terminals=ends,
        timeouts=np.zeros(40, bool),
    )
    return tmp_path


def test_there_are_enough_lines() -> None:
    assert len(LINES) >= 300
    assert len({json.dumps(line) for line in LINES}) == len(LINES)


@pytest.mark.parametrize("line", LINES, ids=" ".join)
@pytest.mark.timeout(20)
def test_a_bad_line_is_refused(line: list[str], scene: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = {path.name for path in scene.iterdir()}
    with pytest.raises(SystemExit) as stop:
        main(line)
    err = capfd.readouterr().err
    assert stop.value.code in (1, 2), err
    assert stop.value.code == 2 or "postgresql" in " ".join(line), err
    assert err.strip()
    assert "Traceback" not in err
    # Messages of prefenvs are one line; what the parser refuses itself, it shows in a box.
    assert "prefenvs: " not in err or len(err.strip().splitlines()) == 1, err
    assert {path.name for path in scene.iterdir()} == before, "a refused command leaves nothing behind"


@pytest.mark.parametrize(("flag", "command"), CHOICES.items())
def test_a_word_that_is_no_choice_is_refused(
    flag: str, command: str, scene: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needed = NEEDED.get(command, [])
    if command.startswith("train "):
        needed = DATA if find_algorithm(command.removeprefix("train ")).source == "offline" else SMALL
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), *needed, flag, "nosuch"])
    err = capfd.readouterr().err
    assert (stop.value.code, "Traceback" in err) == (2, False), err
    assert "nosuch" in err
    assert flag in err


@pytest.fixture(params=["size=300k", "ro"], ids=["full", "read-only"])
def bad_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(place)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        if request.param != "ro":
            with contextlib.suppress(OSError):
                (place / "fill").write_bytes(bytes(400_000))
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize(
    "line",
    [
        ["collect", "InvertedPendulum-v5", "--mix", "random=3", "--no-progress", "--out"],
        ["bench", "random", "--task", "InvertedPendulum-v5", "--episodes", "1", "--folder"],
        ["rate", "--copy-prompts"],
    ],
    ids=lambda line: line[0],
)
def test_a_bad_disk_is_one_line_with_the_way_out(
    line: list[str], bad_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*line, str(bad_disk / "out")])
    assert stop.value.code == 1
    message = capfd.readouterr().err.strip()
    assert len(message.splitlines()) == 1
    assert "Read-only" in message or "No space left" in message
    assert "choose another place" in message
