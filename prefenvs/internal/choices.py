"""Settings that are one of a few names: whatever else is given is refused, and never taken for the default."""

from __future__ import annotations

import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prefenvs.errors import PrefenvsError


def check_choices(settings: Any) -> None:
    """Raise a PrefenvsError where a field of a dataclass is annotated with names and holds none of them."""
    hints = get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        hint, value = hints[field.name], getattr(settings, field.name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
        others = tuple(kind for kind in kinds if isinstance(kind, type))
        # A whole number is good where a decimal one is.
        others += (int,) if float in others else ()
        if names and not (isinstance(value, str) and value in names) and not isinstance(value, others):
            given = f"{field.name} cannot be a function" if callable(value) else f"{field.name}={value!r} is unknown"
            raise PrefenvsError(f"{given}: choose {', '.join(map(str, names))}")
