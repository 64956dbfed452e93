"""Suites, methods and tasks of one's own: by `module:NAME`, or by an entry point of an installed package."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from prefenvs.errors import PrefenvsError, near_matches

Kind = TypeVar("Kind")


def load_object(path: str, kind: type[Kind]) -> Kind:
    """Import `module:NAME` and return it; the present folder is looked in as well as the installed packages.

    Raises PrefenvsError if there is no such module, or nothing of that kind under the name.
    """
    module = _import_module(path, kind.__name__.lower())
    found = getattr(module, path.partition(":")[2], None)
    if not isinstance(found, kind):
        held = ", ".join(key for key, value in vars(module).items() if isinstance(value, kind)) or "none"
        raise PrefenvsError(
            f"{kind.__name__.lower()} {path!r}: {module.__name__} has no {kind.__name__} called "
            f"{path.partition(':')[2]!r}; it holds {held}"
        )
    return found


def import_object(path: str, what: str) -> Any:
    """Import `module:NAME` and return what it is; raises PrefenvsError, which calls it `what`, if there is none."""
    module = _import_module(path, what)
    name = path.partition(":")[2]
    if not hasattr(module, name):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise PrefenvsError(f"{what} {path!r}: {module.__name__} holds no {name!r}.{near_matches(name, known)}")
    return getattr(module, name)


def _import_module(path: str, what: str) -> ModuleType:
    module_name = path.partition(":")[0]
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever a user's module raises, a SyntaxError among them
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise PrefenvsError(
            f"{what} {path!r}: the module {module_name!r} cannot be imported ({why}); "
            "work in the folder that holds it, or put that folder on PYTHONPATH"
        ) from error
    finally:
        sys.path.remove(here)


def entry_points(group: str, kind: type[Kind]) -> Iterator[Kind]:
    """Yield what installed packages offer under a group of entry points, each one object or several."""
    for point in metadata.entry_points(group=group):
        try:
            found = point.load()
        except Exception as error:
            raise PrefenvsError(
                f"the entry point {point.name!r} of {group} ({point.value}) cannot be loaded: {error}"
            ) from error
        for item in found if isinstance(found, list | tuple) else (found,):
            if not isinstance(item, kind):
                raise PrefenvsError(f"the entry point {point.name!r} of {group} gives no {kind.__name__}: {item!r}")
            yield item
