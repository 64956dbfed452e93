"""The arrows between packages, and the privilege of the true reward, checked in the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("prefenvs", "oracles", "agents", "videos")
ALLOWED = {
    "prefenvs": {"prefenvs"},
    "videos": {"videos", "prefenvs"},
    "oracles": {"oracles", "prefenvs", "videos"},
    "agents": {"agents", "prefenvs"},
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_import_points_back(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text())
    lazy = {id(child) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for child in ast.walk(f)}
    in_cli = path.relative_to(ROOT).parts[:2] == ("prefenvs", "cli")
    for node in ast.walk(tree):
        for module in imports(node):
            top = module.split(".")[0]
            if top not in PACKAGES or top in ALLOWED[package]:
                continue
            typing_only = any(
                isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.unparse(parent.test) and node in parent.body
                for parent in ast.walk(tree)
            )
            late = id(node) in lazy or typing_only
            assert (in_cli, late) == (True, True), f"{names(path)} imports {module}"


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] == "agents"], ids=names)
def test_no_agent_reads_true_rewards(path: Path) -> None:
    """Checkpoints carry the recorded episodes for the rater, and the imitation baseline brings its own; nobody else."""
    if path.name in ("checkpoint.py", "imitation.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert node.attr != "true_rewards", f"{names(path)}:{node.lineno}"
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            assert node.slice.value != "true_reward", f"{names(path)}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=names)
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 80, f"{names(path)}: {node.name}"
