"""Run folders: what was run, with which versions and seed, and what came out."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError

PACKAGES = (
    "prefenvs",
    "numpy",
    "torch",
    "gymnasium",
    "mujoco",
    "stable-baselines3",
    "metaworld",
    "dm-control",
    "gymnasium-robotics",
)


class Run:
    """A run folder: run.json (configuration, versions, commit, machine), evaluations.csv, checkpoint and pictures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, command: str, config: Mapping[str, Any]) -> Run:
        """Make a new folder and write down what is about to run; a folder that holds a run already is refused."""
        if (folder / "run.json").exists():
            raise PrefenvsError(
                f"{folder} already holds a run; choose another --folder, or continue it with --resume {folder}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        record = {
            "command": command,
            "arguments": sys.argv[1:],
            "config": _plain(config),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **provenance(),
        }
        _write_atomically(folder / "run.json", json.dumps(record, indent=2) + "\n")
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run folder."""
        if not (folder / "run.json").is_file():
            raise PrefenvsError(f"{folder} is not a run folder: it holds no run.json")
        return cls(folder)

    @classmethod
    def resume(cls, folder: Path, command: str) -> Run:
        """Open a run folder that has to be a run of this command."""
        run = cls.open(folder)
        if run.record["command"] != command:
            raise PrefenvsError(f"{folder} is a run of `prefenvs {run.record['command']}`; resume it with that command")
        return run

    @property
    def record(self) -> dict[str, Any]:
        """What `create` wrote down."""
        try:
            record: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        except json.JSONDecodeError as error:
            raise PrefenvsError(f"{self.folder / 'run.json'} is damaged: {error}") from None
        return record

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with."""
        config: dict[str, Any] = self.record["config"]
        return config

    @property
    def checkpoint(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.folder / "checkpoint"

    def path(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.folder / name

    def append(self, table: str, row: Mapping[str, Any]) -> None:
        """Add a row to <table>.csv; its header is written with the first one."""
        path = self.folder / f"{table}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)

    def drop_rows_after(self, table: str, steps: float) -> None:
        """Remove the rows of <table>.csv that lie after a step, as when a run goes back to a checkpoint."""
        path = self.folder / f"{table}.csv"
        if not path.exists():
            return
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        kept = [row for row in rows if float(row["steps"]) <= steps]
        path.unlink()
        for row in kept:
            self.append(table, row)

    def rows(self, table: str) -> list[dict[str, float]]:
        """Read <table>.csv as numbers; an absent table has no rows."""
        path = self.folder / f"{table}.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return [
                {name: float(value) if value else float("nan") for name, value in row.items()}
                for row in csv.DictReader(file)
            ]

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, the run's final figures."""
        _write_atomically(self.folder / "summary.json", json.dumps(_plain(summary), indent=2) + "\n")


def _plain(value: Any) -> Any:
    """Turn dataclasses, paths and NumPy scalars into what JSON holds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def provenance() -> dict[str, Any]:
    """Return which code runs where: commit, python, machine, and versions of the packages that decide results."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _commit() -> str:
    """Commit of the checkout that the package runs from, marked if files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    temporary.replace(path)
