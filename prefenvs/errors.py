"""Errors that a user can act on: the command line prints them in one line and exits with status 2."""

from __future__ import annotations

import difflib
import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

EXTRAS = {
    "dm_control": "dmc",
    "metaworld": "metaworld",
    "gymnasium_robotics": "robotics",
    "pygame": "classic",
    "fastapi": "human",
    "uvicorn": "human",
    "krippendorff": "human",
    "choix": "human",
    "openai": "vlm",
    "transformers": "clip",
    "minari": "offline",
    "h5py": "recorded",
    "pyarrow": "labels",
    "rosbags": "ros",
    "pandas": "bench",
    "rliable": "bench",
    "psutil": "bench",
    "psycopg": "postgres",
    "ray": "ray",
}
"""The extra that brings a package, by the name under which it is imported."""


class PrefenvsError(ValueError):
    """Bad input, named: what it is, the value given, and the way out."""


def one_line(error: BaseException) -> str:
    """Return an exception's type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def one_line_with_place(error: BaseException) -> str:
    """Return an exception's type, its message, and the file and line that raised it, in one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{one_line(error)}; {Path(place.filename).name}, line {place.lineno}"


def import_extra(name: str, what: str, extra: str = "") -> Any:
    """Return a module of an optional package that `what` needs; raises PrefenvsError where it is not installed.

    extra: the one that brings it, by default as `EXTRAS` has it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        command = install_command(extra or EXTRAS[package])
        raise PrefenvsError(
            f"{what} needs the package {package}, which cannot be imported ({error}): {command}"
        ) from error


@contextmanager
def failure_told(what: str, way_out: str = "") -> Iterator[None]:
    """Raise what a package's or a user's own code raises in the block, whatever its class, as one PrefenvsError.

    It says what failed, why, and the way out; a PrefenvsError goes on as it is.
    """
    try:
        yield
    except PrefenvsError:
        raise
    except Exception as error:
        raise PrefenvsError(f"{what}: {one_line(error)[:300]}{way_out and '; '}{way_out}") from error


def near_matches(name: str, known: Iterable[str]) -> str:
    """Return the sentence "Did you mean ...?" for a misspelt name, or an empty string."""
    by_lower = {item.lower(): item for item in known}
    found = difflib.get_close_matches(name.lower(), by_lower, cutoff=0.5)
    return f" Did you mean {', '.join(by_lower[item] for item in found)}?" if found else ""


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation: a checkout, or from a folder, a wheel, an index."""
    if extra == "dmc" and sys.version_info >= (3, 13):
        return "dm_control installs on Python 3.11 and 3.12"
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return f'pip install -e "{"." if root == Path.cwd() else root}[{extra}]"'
    source = "prefenvs"
    for record in root.glob("prefenvs-*.dist-info/direct_url.json"):  # pip's note of where it was installed from
        path = Path(unquote(json.loads(record.read_text())["url"].removeprefix("file://")))
        source = str(path) if path.exists() else source
    return f'pip install "{source}[{extra}]"'
