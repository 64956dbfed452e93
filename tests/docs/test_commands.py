"""Every `prefenvs` line of the docs is taken by the real parser, so that a flag that went fails here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, get_args

import pytest
import tyro

from prefenvs import cli
from prefenvs.bench import find_suite
from prefenvs.bench.claims.claim import CLAIMS
from prefenvs.cli import raters
from prefenvs.cli.bench.suites import BenchRun
from prefenvs.cli.train import offline, options
from prefenvs.cli.train.command import train
from prefenvs.limits import check_limits

from .pages import PAGES, ROOT, commands
from .world import forget_own_modules


class ParsedError(Exception):
    """Ends `prefenvs train` once its words have been read."""


def kinds(union: Any) -> dict[str, Any]:
    """Return the classes of all commands by their words."""
    found = {}
    for member in get_args(union):
        kind, named = get_args(member)
        found |= {f"{named.name} {name}": inner for name, inner in kinds(kind).items()} or {named.name: kind}
    return found


KINDS = kinds(cli.Command) | {"label render": cli.LabelRender}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the parts that the pages take for the reader's own, and a trainer that stops after parsing."""
    forget_own_modules()
    for path in (*(ROOT / "docs" / "tutorials" / "code").glob("*.py"), ROOT / "examples" / "own_environment.py"):
        shutil.copy(path, tmp_path)
    for name in ("my_robots", "my_module"):
        shutil.copy(ROOT / "examples" / "own_environment.py", tmp_path / f"{name}.py")
    with (tmp_path / "my_module.py").open("a") as file:
        file.write("\nsmoothness = nearer\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    parse = options.parse_groups

    def stop(*args: Any) -> NoReturn:
        for group in parse(*args).values():
            check_limits(group)
        raise ParsedError

    monkeypatch.setattr(options, "parse_groups", stop)
    monkeypatch.setattr(offline, "_load", lambda *_: SimpleNamespace(task="metaworld-drawer-open-v3"))
    yield
    forget_own_modules()


@cache
def parse(*words: str) -> None:
    """Read a command line as `prefenvs` would; SystemExit or PrefenvsError where it would refuse it."""
    if words == ("train", "--help"):
        train(words[1:])
    elif words[0] == "train":
        with pytest.raises(ParsedError):
            train(words[1:])
    if words[0] == "train":
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in KINDS else words[0]
    raters.look_at(words)
    command = tyro.cli(KINDS[name], args=words[len(name.split()) :])
    check_limits(command)
    if isinstance(command, BenchRun) and command.suite != "claims":
        find_suite(command.suite)
    elif isinstance(command, BenchRun):
        assert {*command.methods} <= {claim.name for claim in CLAIMS}


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands(page))], ids=lambda page: page.stem)
def test_the_command_lines_of_a_page_are_taken_by_the_parser(page: Path) -> None:
    for script in page.parent.glob("*.py"):
        shutil.copy(script, Path.cwd())
    for line, words in commands(page):
        if "reach.json" in words:
            cli.main(["tasks", "--task", "my_robots:Reach", "--write", "reach.json"])
        try:
            parse(*words)
        except (SystemExit, cli.PrefenvsError) as error:
            pytest.fail(f"{page.relative_to(ROOT)}:{line}: prefenvs {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "words", [["tasks", "--famly", "x"], ["train", "iql", "--dataset", "d", "--tua", "1"], ["rate", "--vlm-modle", "m"]]
)
def test_a_wrong_flag_is_found(words: list[str]) -> None:
    with pytest.raises((SystemExit, cli.PrefenvsError)):
        parse(*words)
