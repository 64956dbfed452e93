"""What an option may be, declared in the type of a dataclass field and checked in one place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from prefenvs.errors import PrefenvsError, near_matches


def check_list(name: str, given: object) -> None:
    """Raise a PrefenvsError for one string in the place of a list of them, which would be read letter by letter."""
    if isinstance(given, str):
        raise PrefenvsError(f"{name}={given!r} is one name: give a list, [{given!r}]")


@dataclass(frozen=True)
class Range:
    """The closed range of a number, or with `above` the open end below it; NaN is never within."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """The number must be larger than `low`, not equal to it."""
    below: bool = False
    """The number must be smaller than `high`, not equal to it."""

    def check(self, name: str, value: Any) -> None:
        """Raise a PrefenvsError that names the option if `value` is outside, or no number."""
        given: type = type(value)
        if not issubclass(given, Real):
            raise PrefenvsError(f"{name} must be a number, got {value!r}")
        if (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        ):
            return
        if value >= self.high:
            wanted = f"{'less than' if self.below else 'at most'} {self.high:,}"
        elif value <= self.low:
            wanted = f"{'larger than' if self.above else 'at least'} {self.low:,}"
        else:
            wanted = "a number"
        raise PrefenvsError(f"{name} must be {wanted}, got {value}")


# No run, budget or picture comes near it; larger numbers overflow arrays and random seeds in the packages below.
LARGE = 10**12
FINITE = 1e12

PositiveInt = Annotated[int, Range(1, LARGE)]
AtLeastTwo = Annotated[int, Range(2, LARGE)]
NonNegativeInt = Annotated[int, Range(0, LARGE)]
AtLeastMinusOne = Annotated[int, Range(-1, LARGE)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Number = Annotated[float, Range(-FINITE, FINITE)]
PositiveFloat = Annotated[float, Range(0, FINITE, above=True)]
NonNegativeFloat = Annotated[float, Range(0, FINITE)]
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
FractionBelowOne = Annotated[float, Range(0, 1, below=True)]
OpenFraction = Annotated[float, Range(0, 1, above=True, below=True)]
FlipRate = Annotated[float, Range(0, 0.5, below=True)]
"""Share of labels that are flipped: at a half, a label says nothing."""
Lease = Annotated[float, Range(0, 14 * 86_400, above=True)]
"""Seconds; browsers' timers end at 24 days."""
Port = Annotated[int, Range(0, 65535)]
PIXELS = Range(16, 4096)
Pixels = Annotated[int, PIXELS]


@dataclass(frozen=True)
class Device:
    """A device of PyTorch that this machine has, or auto."""

    def check(self, name: str, value: str) -> None:
        """Raise a PrefenvsError that names the option if there is no such device here."""
        if value in ("auto", "cpu"):
            return
        import torch

        try:
            torch.empty(0, device=value)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise PrefenvsError(f"{name} {value} is not to be had here ({reason}): choose auto or cpu") from None


DeviceName = Annotated[str, Device()]


def limits_of(annotation: Any) -> Range | Device | None:
    """Return the limits that a type declares, itself or in a member of a union or a tuple; None if it has none."""
    if get_origin(annotation) is Annotated:
        found = next((extra for extra in annotation.__metadata__ if isinstance(extra, Range | Device)), None)
        return found or limits_of(get_args(annotation)[0])
    members = (limits_of(member) for member in get_args(annotation))
    return next((found for found in members if found is not None), None)


def check_limits(options: Any, prefix: str = "") -> None:
    """Raise a PrefenvsError for the first field of a dataclass, or of one within it, outside its declared limits.

    Fields are named as the command line names them: `--per-session` for `per_session`, or what `tyro.conf.arg` says.
    prefix: goes before those names, as `reward.` in `--reward.members`.
    """
    annotations = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        name, annotation, value = field.name, annotations[field.name], getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            check_limits(value, f"{prefix}{name}." if prefix else "")
            continue
        limits = limits_of(annotation)
        for one in value if isinstance(value, tuple) else (value,):
            if limits is not None and one is not None:
                limits.check(_flag(name, annotation, prefix), one)


def check_settings(settings: Any) -> None:
    """Raise a PrefenvsError for the first field of a dataclass that holds what its type does not allow.

    That is a number outside its declared limits, none at all, one with a fraction where it is whole, or a word that is
    none of those that the type lists: it is never taken for the default. To be called by `__post_init__`, so that
    Python code is told as the command line is.
    """
    kind: Any = type(settings)
    bare, hints = _hints_of(kind)
    for field in dataclasses.fields(settings):
        value, limits = getattr(settings, field.name), limits_of(hints[field.name])
        hint = bare[field.name]
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        several = isinstance(value, tuple | list) and any(get_origin(kind) is not None for kind in kinds)
        for one in value if several else (value,):
            if isinstance(limits, Range) and not (one is None and type(None) in kinds):
                limits.check(field.name, one)
                if int in kinds and float not in kinds and not isinstance(one, Integral):
                    raise PrefenvsError(f"{field.name} must be a whole number, got {one}")
        _check_choice(field.name, kinds, value)


@cache
def _hints_of(kind: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The types of a dataclass's fields, without and with what is declared beside them; reading them takes long."""
    return get_type_hints(kind), get_type_hints(kind, include_extras=True)


def _check_choice(name: str, kinds: tuple[Any, ...], value: Any) -> None:
    names = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    others = tuple(kind for kind in kinds if isinstance(kind, type))
    # A whole number is good where a decimal one is.
    others += (int,) if float in others else ()
    if names and not (isinstance(value, str) and value in names) and not isinstance(value, others):
        given = f"{name} cannot be a function" if callable(value) else f"{name}={value!r} is unknown"
        number = " or a number" if float in others else ""
        near = near_matches(value, names) if isinstance(value, str) else ""
        raise PrefenvsError(f"{given}: choose {', '.join(map(str, names))}{number}{near and '.' + near}")


def _flag(name: str, annotation: Any, prefix: str) -> str:
    given = (getattr(extra, "name", None) for extra in getattr(annotation, "__metadata__", ()))
    return f"--{prefix}" + (next((found for found in given if found), None) or name).replace("_", "-")
