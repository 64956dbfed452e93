"""The arrows between packages, and the privilege of the true reward, checked in the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("prefenvs", "oracles", "agents", "videos")
CORE = {"core"}
REWARDS = CORE | {"registry", "nets", "rewards"}
LEARNERS = REWARDS | {"online", "offline", "direct", "variants", "tabular"}
# What each floor may import. The command line is above all of them, and imports them where a command needs them.
ALLOWED = {
    "core": CORE,
    "registry": CORE | {"registry"},
    "bench": CORE | {"registry", "bench"},
    # Demonstrations of whole systems: they need raters and learners alike.
    "claims": REWARDS
    | {"bench", "claims", "videos", "oracles", "online", "offline", "direct", "tabular", "agents", "runs"},
    "videos": CORE | {"videos"},
    "oracles": CORE | {"videos", "oracles"},
    "nets": CORE | {"nets"},
    "rewards": REWARDS,
    "online": REWARDS | {"online"},
    # An intervening expert may be a trained one.
    "direct": REWARDS | {"online", "experts", "direct"},
    "offline": REWARDS | {"offline"},
    "tabular": REWARDS | {"online", "offline", "direct", "tabular"},
    "variants": REWARDS | {"online", "variants"},
    "baselines": REWARDS | {"baselines"},
    "experts": REWARDS | {"online", "runs", "experts"},
    "runs": REWARDS | {"online", "offline", "agents", "runs"},
    "agents": REWARDS | {"online", "offline", "agents"},
}
FULL = 12
"""Entries that a folder may have."""
CROWDED = {"prefenvs": 23}
"""Folders with more, and how many: the package has ten folders and three links beside its central types."""
SIMULATED = {"simulated"}
# What the parts of oracles import of one another.
RATERS = {
    "simulated": SIMULATED,
    "people": {"people"},
    "vlm": {"vlm"},
    "clip": SIMULATED | {"clip"},
    "hybrid": {"hybrid"},
    "make": SIMULATED | {"people", "vlm", "clip", "hybrid"},
    "judging": SIMULATED | {"make", "judging"},
    "calibration": SIMULATED | {"vlm"},
    "labelling": {"labelling", "people"},
    "contract": set[str](),
}
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FOLDERS = sorted({path.parent for path in (*FILES, *(ROOT / "tests").rglob("*.py"))})


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
    if parts[1:3] == ["bench", "claims"]:
        return "claims"
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
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts if parts[0] == "prefenvs" else ("prefenvs", *parts))


def imported_files(path: Path, modules: set[str]) -> set[str]:
    """The modules among these that a file imports, in functions too, but not for types only."""
    found, left = set(), [ast.parse(path.read_text())]
    while left:
        node = left.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            left += node.orelse
            continue
        if isinstance(node, ast.ImportFrom):
            # A name of a package may be a file of it.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else str(node.module) for name in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        left += ast.iter_child_nodes(node)
    return found & modules - {module_of(path)}


def test_no_files_import_each_other() -> None:
    modules = {module_of(path) for path in FILES}
    graph = {module_of(path): imported_files(path, modules) for path in FILES}

    def reachable(start: str) -> set[str]:
        seen, left = set(), list(graph[start])
        while left:
            name = left.pop()
            if name not in seen:
                seen.add(name)
                left += graph[name]
        return seen

    below = {name: reachable(name) for name in graph}
    circles = {frozenset(other for other in below[name] if name in below[other]) for name in graph}
    assert [set(circle) for circle in circles if circle] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=names)
def test_no_folder_is_crowded(folder: Path) -> None:
    apart = ("__init__.py", "__main__.py", "__pycache__", "py.typed", "conftest.py")
    entries = sorted(path.name for path in folder.iterdir() if path.name not in apart)
    assert len(entries) <= CROWDED.get(names(folder), FULL), f"{names(folder)}: {', '.join(entries)}"


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


@pytest.mark.parametrize("path", sorted((ROOT / "oracles").rglob("*.py")), ids=names)
def test_raters_know_only_the_raters_below(path: Path) -> None:
    parts = path.relative_to(ROOT / "oracles").with_suffix("").parts
    if parts == ("__init__",):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        for module in imports(node):
            if module.startswith("prefenvs.oracles."):
                assert module.split(".")[2] in RATERS[parts[0]], f"{names(path)} imports {module}"


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
