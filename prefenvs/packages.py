"""A check that `agents`, `oracles` and `videos` are this distribution's packages and not another's of the same name."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from prefenvs.errors import PrefenvsError

# A module that only our package of that name holds, and that its `__init__` imports.
OWN_MODULES = {"agents": "pebble", "oracles": "partial_return", "videos": "recorder"}


def foreign_packages() -> dict[str, str]:
    """Return the location of each of our top-level packages that another distribution has taken the place of."""
    found = {}
    for package, module in OWN_MODULES.items():
        spec = importlib.util.find_spec(package)
        origin = spec.origin if spec is not None else None
        if origin is None or not _is_ours(Path(origin), module):
            found[package] = str(origin)
    return found


def check_packages() -> None:
    """Raise a `PrefenvsError` that names the culprit if one of our packages is hidden by another's."""
    for package, origin in foreign_packages().items():
        owners = [name for name in metadata.packages_distributions().get(package, []) if name != "prefenvs"]
        culprit = f"the distribution {owners[0]!r}" if owners else "another package"
        raise PrefenvsError(
            f"`import {package}` finds {origin}, which belongs to {culprit} and not to prefenvs; "
            f"install prefenvs in a fresh virtual environment{f' without {owners[0]}' if owners else ''}"
        )


def _is_ours(init: Path, module: str) -> bool:
    """Two distributions can write into one folder, so the module must be there and the `__init__` must be its own."""
    return init.with_name(f"{module}.py").exists() and f"{init.parent.name}.{module}" in init.read_text(
        encoding="utf-8"
    )
