"""Run folders: what was run, with which versions and seed, and what came out."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        self._locks = 0

    @classmethod
    def create(cls, folder: Path, command: str, config: Mapping[str, Any], resumable: bool = True) -> Run:
        """Make a new folder and write down what is about to run; a folder that holds a run already is refused.

        resumable: whether the command has --resume, for the message.
        """
        cls.check_new(folder, resumable)
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        record = {
            "command": command,
            "arguments": sys.argv[1:],
            "config": _plain(config),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            **provenance(),
        }
        _write_atomically(folder / "run.json", to_json(record, indent=2) + "\n")
        return run

    @staticmethod
    def check_new(folder: Path, resumable: bool = True) -> None:
        """Raise a PrefenvsError for a folder that holds a run already."""
        if (folder / "run.json").exists():
            way_out = f"continue it with --resume {folder}" if resumable else "remove that one"
            raise PrefenvsError(f"{folder} already holds a run; choose another --folder, or {way_out}")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open an existing run folder; raises PrefenvsError for a folder that is none."""
        if not (folder / "run.json").is_file():
            raise PrefenvsError(f"{folder} is not a run folder: it holds no run.json")
        return cls(folder)

    @classmethod
    def resume(cls, folder: Path, command: str) -> Run:
        """Open a run folder that has to be a run of this command; raises PrefenvsError for a run of another one."""
        run = cls.open(folder)
        if run.record["command"] != command:
            raise PrefenvsError(f"{folder} is a run of `prefenvs {run.record['command']}`; resume it with that command")
        return run

    @property
    def record(self) -> dict[str, Any]:
        """What `create` wrote down; raises PrefenvsError for a damaged file."""
        try:
            record: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
            if not (isinstance(record["config"], dict) and isinstance(record["command"], str)):
                raise TypeError("config and command are not what `prefenvs train` writes")
        except (ValueError, KeyError, TypeError) as error:
            raise PrefenvsError(
                f"{self.folder / 'run.json'} is damaged ({error}): start the run anew in another --folder"
            ) from None
        return record

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with."""
        config: dict[str, Any] = self.record["config"]
        return config

    @property
    def task(self) -> str:
        """Id of the task that the run is about; raises PrefenvsError for one on data that tell none."""
        task = str(self.config.get("task") or "")
        if not task:
            raise PrefenvsError(
                f"{self.folder} learned from {self.config.get('dataset', 'data')}, which tells no task to evaluate on: "
                "name one by `prefenvs evaluate --task ID`"
            )
        return task

    @property
    def checkpoint(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.folder / "checkpoint"

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from; a run that was killed before its first one starts anew."""
        old = self.checkpoint.with_name(self.checkpoint.name + ".old")
        return any((folder / "model.zip").exists() for folder in (self.checkpoint, old))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from continuing the run meanwhile; raises PrefenvsError if one is at work."""
        if self._locks:
            # Whoever holds the lock may ask for it again.
            yield
            return
        with (self.folder / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise PrefenvsError(
                    f"another process is at work in {self.folder} (process {lock.read().strip() or 'unknown'}): wait "
                    "until it has ended, or stop it by Ctrl-C"
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            self._locks = 1
            try:
                yield
            finally:
                self._locks = 0

    def check_fresh(self, seed: int) -> None:
        """Raise a PrefenvsError for an evaluation seed whose episodes training itself evaluated the run on."""
        if self.config.get("seed") == seed:
            raise PrefenvsError(
                f"--seed {seed} is that of {self.folder}, and gives the episodes that training itself was evaluated "
                "on, which may have chosen its policy or its length: take another one"
            )

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
        text, numbers = self._read_table(path)
        kept = [row for row, number in zip(text, numbers, strict=True) if number["steps"] <= steps]
        if not kept:
            path.unlink()
            return
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
        _write_atomically(path, file.getvalue())

    def rows(self, table: str) -> list[dict[str, float]]:
        """Read <table>.csv as numbers, NaN where a cell is empty; an absent table has no rows."""
        path = self.folder / f"{table}.csv"
        return self._read_table(path)[1] if path.exists() else []

    @staticmethod
    def _read_table(path: Path) -> tuple[list[dict[str, str]], list[dict[str, float]]]:
        """Return the rows of a table with steps as text and as numbers, without a last one that a kill cut off."""
        try:
            with path.open(newline="") as file:
                lines = [line for line in file if line.endswith("\n")]
            rows = list(csv.DictReader(lines))
            if any(None in row or None in row.values() or "steps" not in row for row in rows):
                raise ValueError("a row is too long or too short")
            return rows, [{name: float(value) if value else math.nan for name, value in row.items()} for row in rows]
        except (ValueError, csv.Error) as error:
            raise PrefenvsError(f"{path} is damaged ({error}): mend that row, or remove the file") from None

    def summarise(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, the run's final figures; what is not a finite number is null there."""
        _write_atomically(self.folder / "summary.json", to_json(summary, indent=2) + "\n")


def to_json(value: Any, indent: int | None = None) -> str:
    """Return JSON as strict parsers read it: NaN and infinity, which it does not have, become null."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    """Turn dataclasses, paths and NumPy scalars into what JSON holds."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
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
