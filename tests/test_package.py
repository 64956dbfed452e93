"""What the package says about itself: versions, extras, the lock, and the commands that errors advise."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import prefenvs
from prefenvs.cli import main
from prefenvs.errors import EXTRAS, install_command

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = PROJECT["optional-dependencies"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(extras: list[str]) -> dict[str, str]:
    """The distributions that prefenvs with these extras brings, and the versions at hand."""
    needs = [text for extra in extras for text in OPTIONAL[extra]] + PROJECT["dependencies"]
    found, left = dict[str, str](), [Requirement(text) for text in needs]
    seen = set[str]()
    while left:
        requirement = left.pop()
        name = plain(requirement.name)
        for extra in {"", *requirement.extras}:
            if f"{name}[{extra}]" in seen:
                continue
            seen.add(f"{name}[{extra}]")
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue  # torch's build for a CPU does without the libraries of the one for a GPU
            further = [Requirement(text) for text in metadata.requires(name) or []]
            left += [item for item in further if item.marker is None or item.marker.evaluate({"extra": extra})]
    return found


def test_the_lock_holds_every_version_that_make_installs() -> None:
    made = re.search(r"^EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert made is not None
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    locked = {plain(line.split("==")[0]): line.split("==")[1] for line in lines if line}
    here = installed(made[1].split(","))
    assert {"torch", "mujoco", "pytest", "ray"} <= set(here)
    assert {name: version.split("+")[0] for name, version in here.items()} == {name: locked.get(name) for name in here}


def test_the_core_asks_for_no_version_that_only_an_extra_needs() -> None:
    core = {Requirement(text).name: str(Requirement(text).specifier) for text in PROJECT["dependencies"]}
    assert core["mujoco"] == ">=3.3"
    assert core["numpy"] == ">=2.1"
    assert "mujoco==3.3.0; python_version < '3.13'" in OPTIONAL["dmc"]
    assert "mujoco==3.3.0" in OPTIONAL["metaworld"]


def test_every_extra_is_in_the_documented_table() -> None:
    (page,) = (ROOT / "docs").rglob("install.md")
    listed = set(re.findall(r"^\| `(\w+)` \|", page.read_text(), re.MULTILINE))
    assert listed == set(OPTIONAL)
    assert set(EXTRAS.values()) <= set(OPTIONAL)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"prefenvs {prefenvs.__version__}\n"
    assert f"## {prefenvs.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {prefenvs.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_the_advised_command_names_a_checkout_and_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("dmc") == 'pip install -e ".[dmc]"'
    monkeypatch.chdir(tmp_path)
    assert install_command("dmc") == f'pip install -e "{ROOT}[dmc]"'
    site = tmp_path / "site" / "prefenvs"
    site.mkdir(parents=True)
    (site / "errors.py").write_text((ROOT / "prefenvs" / "errors.py").read_text())
    code = f"import sys; sys.path.insert(0, {str(site)!r}); import errors; print(errors.install_command('dmc'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'pip install "prefenvs[dmc]"\n'
    about = site.parent / "prefenvs-0.1.0.dist-info"
    about.mkdir()
    for there, advised in ((tmp_path / "a b", "prefenvs"), (tmp_path, str(tmp_path))):
        (about / "direct_url.json").write_text(json.dumps({"url": there.as_uri()}))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == f'pip install "{advised}[dmc]"\n', "a folder that went is not advised"


def test_what_has_no_wheel_for_a_python_is_not_advised_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    assert install_command("dmc") == "dm_control installs on Python 3.11 and 3.12"
    assert "pip install" in install_command("metaworld")


def test_a_command_without_a_package_of_an_extra_advises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "table", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"which is not installed: {install_command('bench')}\n")


def test_every_advised_extra_exists() -> None:
    advised, imported = set(EXTRAS.values()), set[str]()
    for package in ("prefenvs", "agents", "oracles", "videos"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text()
            advised |= set(re.findall(r"""install_command\(["'](\w+)["']\)""", text))
            for name, extra in re.findall(
                r'import_extra\(f?"([\w.]+)[^"]*", (?:f?"[^"]*"|str\(path\))(?:, "(\w+)")?\)', text
            ):
                if extra:
                    advised.add(extra)
                else:
                    imported.add(name.partition(".")[0])
            assert 'pip install "prefenvs[' not in text or path.name == "errors.py", f"{path}: use install_command"
    assert advised <= set(OPTIONAL)
    assert {"human", "vlm", "bench"} <= advised
    # Whose extra is not told has one in the table.
    assert {"uvicorn", "openai", "h5py", "metaworld"} <= imported <= set(EXTRAS)
