"""The Python of the docs runs: each page from top to bottom, in one folder, with what the page takes for given."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefenvs.agents.offline.learner import OfflineLearner

from .pages import PAGES, ROOT, Block, blocks
from .world import World, forget_own_modules

UPDATES = 2
"""Gradient steps that a learner from fixed data makes here, whatever a page says."""


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language in ("python", "py")]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)).removesuffix(".md")


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]
WITH_SLOW = [page for page in WITH_PYTHON if any(block.mark == "slow" for block in python_blocks(page))]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    here = Path.cwd()
    os.chdir(folder)
    made = World(folder)
    os.chdir(here)
    return made


@pytest.fixture(autouse=True)
def folder(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The world's folder, and learners from fixed data that make few steps."""
    forget_own_modules()
    monkeypatch.chdir(world.folder)
    monkeypatch.syspath_prepend(world.folder)
    learn = OfflineLearner.learn

    def learn_little(self: Any, total_updates: int, *arguments: Any, **options: Any) -> Any:
        return learn(self, min(total_updates, UPDATES), *arguments, **options | {"progress_bar": False})

    monkeypatch.setattr(OfflineLearner, "learn", learn_little)
    yield
    forget_own_modules()


def run_page(page: Path, world: World, slow: bool) -> None:
    """Run the blocks of a page one after the other; of those that are not run, only imports, and names of arguments."""
    known: dict[str, Any] = {"__name__": "page"}
    for block in python_blocks(page):
        place = f"{page.relative_to(ROOT)}:{block.line}"
        tree = ast.parse(block.code, place)
        if block.mark == "not run" or (block.mark == "slow" and not slow):
            import_only(tree, known)
            check_calls(tree, known, place)
            continue
        for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - {*known}):
            if not hasattr(builtins, name) and hasattr(world, name):
                known[name] = getattr(world, name)
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), known)


def import_only(tree: ast.Module, known: dict[str, Any]) -> None:
    """Carry out the imports of a block; packages that are not installed, and the reader's own modules, are left out."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            if importlib.util.find_spec((module or "").split(".")[0]) is not None:
                exec(compile(ast.Module([node], []), "import", "exec"), known)


def check_calls(tree: ast.Module, known: dict[str, Any], place: str) -> None:
    """Fail where a call of an imported name has a keyword that it does not take."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in known:
            continue
        taken = inspect.signature(known[node.func.id]).parameters
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values()):
            given = {keyword.arg for keyword in node.keywords if keyword.arg}
            assert given <= {*taken}, f"{place}: {node.func.id} does not take {given - {*taken}}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(page: Path, world: World) -> None:
    run_page(page, world, slow=False)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_SLOW, ids=name_of)
def test_the_python_of_a_page_runs_with_what_is_slow(page: Path, world: World) -> None:
    run_page(page, world, slow=True)


def test_a_keyword_that_went_is_found_in_code_that_is_not_run() -> None:
    tree = ast.parse("from prefenvs import make\nmake('x', rewad='true')")
    known: dict[str, Any] = {}
    import_only(tree, known)
    known["make"] = lambda task, reward="hidden": None
    with pytest.raises(AssertionError, match="rewad"):
        check_calls(tree, known, "here")
