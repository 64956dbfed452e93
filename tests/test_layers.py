"""The arrows between packages, and the privilege of the true reward, checked in the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("prefenvs", "oracles", "agents", "videos")
CORE = {"core"}
REWARDS = CORE | {"registry", "nets", "rewards"}
# What each floor may import. The command line is above all of them, and imports them where a command needs them.
ALLOWED = {
    "core": CORE,
    "registry": CORE | {"registry"},
    "bench": CORE | {"registry", "bench"},
    "videos": CORE | {"videos"},
    "oracles": CORE | {"videos", "oracles"},
    "nets": CORE | {"nets"},
    "rewards": REWARDS,
    "online": REWARDS | {"online"},
    "offline": REWARDS | {"offline"},
    "baselines": REWARDS | {"baselines"},
    "experts": CORE | {"experts"},
    "runs": REWARDS | {"online", "offline", "agents", "runs"},
    "agents": REWARDS | {"online", "offline", "agents"},
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module else []


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def floor(module: str) -> str:
    """The floor of a module: a part of agents, another package, or the core."""
    parts = module.split(".")
    if parts[0] != "prefenvs":
        return ""
    if parts[1:2] == ["agents"]:
        return parts[2] if len(parts) > 2 and parts[2] in ALLOWED else "agents"
    return (
        parts[1]
        if len(parts) > 1 and parts[1] in ("oracles", "videos", "cli", "bench")
        else "cli"
        if parts[1:] == ["__main__"]
        else "core"
    )


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "prefenvs" else ("prefenvs", *parts))


@pytest.mark.parametrize("path", FILES, ids=names)
def test_no_import_points_back(path: Path) -> None:
    here = floor(module_of(path))
    tree = ast.parse(path.read_text())
    lazy = {id(child) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for child in ast.walk(f)}
    for node in ast.walk(tree):
        for module in imports(node):
            assert module.split(".")[0] not in PACKAGES[1:], f"{names(path)} imports {module}, not prefenvs.{module}"
            there = floor(module)
            if here != "cli":
                assert not there or there in ALLOWED[here], f"{names(path)} imports {module}"
                continue
            typing_only = any(
                isinstance(parent, ast.If) and "TYPE_CHECKING" in ast.unparse(parent.test) and node in parent.body
                for parent in ast.walk(tree)
            )
            late = id(node) in lazy or typing_only
            assert late or there in ("", "core", "registry", "cli"), (
                f"{names(path)} imports {module} before a command needs it"
            )


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
