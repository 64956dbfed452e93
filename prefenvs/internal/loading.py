"""Suites, methods and tasks of one's own: by `module:NAME`, or by an entry point of an installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from prefenvs.errors import PrefenvsError, failure_told, near_matches, one_line

Kind = TypeVar("Kind")


def import_named(path: str, what: str) -> tuple[ModuleType, str]:
    """Import the module of `module:NAME` and return it with the name; the present folder is looked in too.

    what: the kind of thing that is named, for the error. Raises PrefenvsError where the module cannot be imported.
    """
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name), name
    except Exception as error:  # whatever a user's module raises, a SyntaxError among them
        raise PrefenvsError(
            f"{what} {path!r}: the module {module_name!r} cannot be imported ({one_line(error)}); "
            "work in the folder that holds it, or put that folder on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(here)


def load_object(path: str, kind: type[Kind]) -> Kind:
    """Import `module:NAME` and return the object of that kind.

    Raises PrefenvsError where the module cannot be imported or holds no such object.
    """
    what = kind.__name__.lower()
    module, name = import_named(path, what)
    found = getattr(module, name, None)
    if found is None or not isinstance(found, kind):
        held = [key for key, value in vars(module).items() if isinstance(value, kind) and not key.startswith("_")]
        raise PrefenvsError(
            f"{what} {path!r}: {module.__name__} has no {kind.__name__} called {name!r}; it holds "
            f"{', '.join(held) or 'none'}.{near_matches(name, held)}"
        )
    return found


def import_object(path: str, what: str) -> Any:
    """Import `module:NAME` and return what it is; raises PrefenvsError, which calls it `what`, if there is none."""
    module, name = import_named(path, what)
    if not hasattr(module, name):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise PrefenvsError(f"{what} {path!r}: {module.__name__} holds no {name!r}.{near_matches(name, known)}")
    return getattr(module, name)


def declared(group: str) -> dict[str, str]:
    """Return where installed packages say that their offers of a group lie, `module:OBJECT` by name."""
    return dict(_declared(group, tuple(sys.path)))


@cache
def _declared(group: str, paths: tuple[str, ...]) -> dict[str, str]:
    # Reading the metadata of every installed package takes a hundredth of a second; another path has other packages.
    return {point.name: point.value for point in metadata.entry_points(group=group)}


def entry_points(group: str, kind: type[Kind]) -> Iterator[Kind]:
    """Yield what installed packages offer under a group of entry points, each one object or several.

    Raises PrefenvsError for one that cannot be loaded, or is of another kind.
    """
    if not declared(group):
        return
    for point in metadata.entry_points(group=group):
        with failure_told(f"the entry point {point.name!r} of {group} ({point.value}) cannot be loaded"):
            found = point.load()
        for item in found if isinstance(found, list | tuple) else (found,):
            if not isinstance(item, kind):
                raise PrefenvsError(f"the entry point {point.name!r} of {group} gives no {kind.__name__}: {item!r}")
            yield item
