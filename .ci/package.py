"""Build sdist and wheel, check them, and run the wheel outside the repository in an environment of the core alone.

The environment holds links to what the core depends on, and nothing of an extra: no network is needed, and a core that
imports a package of an extra fails here. Run by .venv's Python: `make package`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TRAIN = (
    "train pebble --task Reacher-v5 --preset small --steps 400 --labels 10 --per-session 5 --learning-starts 100 "
    "--unsupervised-steps 50 --interact 100 --no-progress --folder run"
)


def run(*command: str | Path, folder: Path) -> str:
    """Run a command outside the repository; returns what it prints, and ends this program if it fails."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(folder: Path) -> Path:
    """Build the sdist from the tracked files, the wheel from the sdist, and check both; returns the wheel."""
    checkout = folder / "checkout"
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).exists():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", checkout, folder=folder)
    distributions = sorted((folder / "dist").iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *distributions, folder=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (about,) = (file.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert not re.search(r"\]\((?![a-z]+:|#)", about), "a link of README leads nowhere on the package's page"
    assert {name.split("/")[0].split("-")[0] for name in names} == {"prefenvs"}, "a wheel holds the one package"
    sources = {path.relative_to(checkout / "src") for path in walk(checkout / "src" / "prefenvs")}
    missing = [str(path) for path in sorted(sources) if str(path) not in names]
    assert not missing, f"not in the wheel: {', '.join(missing)}"
    return wheel


def walk(folder: Path) -> list[Path]:
    """Return the files of a folder; the links in it are followed."""
    return [
        Path(top) / name
        for top, _, files in os.walk(folder, followlinks=True)
        for name in files
        if "__pycache__" not in top
    ]


def core(wheel: Path) -> set[str]:
    """Return the distributions at hand that the wheel needs without extras, and what those need."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        needs = Parser().parsestr(file.read(name).decode()).get_all("Requires-Dist", [])
    found, seen, left = set[str](), set[tuple[str, str]](), [(Requirement(text), "") for text in needs]
    while left:
        requirement, extra = left.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            further = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            continue  # torch's build for a CPU does without the libraries of the one for a GPU
        found.add(requirement.name)
        for wanted in {"", *requirement.extras} - {extra for name, extra in seen if name == requirement.name}:
            seen.add((requirement.name, wanted))
            left += [(Requirement(text), wanted) for text in further]
    return found


def environment(folder: Path, wheel: Path) -> Path:
    """Make a virtual environment of the wheel and links to the core's dependencies; returns its bin folder."""
    venv.create(folder / "venv", with_pip=False)
    bin_folder = folder / "venv" / "bin"
    site = Path(
        run(
            bin_folder / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder
        ).strip()
    )
    for name in core(wheel):
        here = metadata.distribution(name)
        for top in {file.parts[0] for file in here.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            there = site / top
            if not there.exists() and Path(str(here.locate_file(top))).exists():
                there.symlink_to(str(here.locate_file(top)))
    pip = [sys.executable, "-m", "pip", "--python", bin_folder / "python", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    return bin_folder


def smoke(folder: Path, bin_folder: Path, wheel: Path) -> None:
    """Import, check the installation, train, evaluate, record, and ask for a task of an extra."""
    python, prefenvs = bin_folder / "python", bin_folder / "prefenvs"
    where = run(python, "-c", "import prefenvs; print(prefenvs.__file__)", folder=folder).strip()
    assert Path(where).is_relative_to(folder / "venv"), where
    version = run(python, "-c", "import prefenvs; print(prefenvs.__version__)", folder=folder).strip()
    assert run(prefenvs, "--version", folder=folder).split() == ["prefenvs", version]
    doctor = run(prefenvs, "doctor", folder=folder)
    assert f'pip install "{wheel}[metaworld]"' in doctor, "no extra is in this environment"
    for command in (TRAIN, "evaluate run --episodes 2", "record run --out policy.mp4 --size 128"):
        run(prefenvs, *command.split(), folder=folder)
    assert (folder / "policy.mp4").stat().st_size > 1_000
    missing = subprocess.run(
        [prefenvs, "train", "pebble", "--task", "metaworld-reach-v3"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2, missing.stderr
    assert missing.stderr.count("\n") == 1, missing.stderr
    assert f'pip install "{wheel}[metaworld]"' in missing.stderr, missing.stderr


def find_interpreter(minor: int) -> str | None:
    """Return Python 3.minor with pip, from the path or among those of pyenv; None where there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python3.{minor}"), *map(str, pyenv.glob(f"versions/3.{minor}.*/bin/python3.{minor}"))]
    for python in filter(None, found):
        if subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def check_interpreters(folder: Path, wheel: Path) -> None:
    """Let pip say which interpreters at hand the metadata take; those have to compile every file."""
    for minor in range(9, 16):
        python = find_interpreter(minor)
        if python is None:
            continue
        pip = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps", "--no-index", "--ignore-installed"]
        taken = subprocess.run([*pip, wheel], cwd=folder, capture_output=True, text=True, check=False)
        print(f"python 3.{minor}: {'taken' if taken.returncode == 0 else 'refused'}")
        required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
        assert (taken.returncode == 0) == Requirement(f"python{required}").specifier.contains(f"3.{minor}.0"), (
            taken.stderr
        )
        if taken.returncode == 0:
            unpacked = folder / f"unpacked-{minor}"
            with zipfile.ZipFile(wheel) as file:
                file.extractall(unpacked)
            run(python, "-m", "compileall", "-q", unpacked, folder=folder)


def main() -> None:
    """Build, check and try the package in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        check_interpreters(folder, wheel)
        smoke(folder, environment(folder, wheel), wheel)
    print(f"{wheel.name}: built, checked and run without extras")


if __name__ == "__main__":
    main()
