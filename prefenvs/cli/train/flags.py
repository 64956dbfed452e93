"""Dataclasses as flags: groups with true defaults, what stands on a command line, and what a run folder has kept."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints

import tyro

from prefenvs.errors import PrefenvsError
from prefenvs.limits import check_limits


def parse_groups(
    arguments: Sequence[str],
    groups: Mapping[str, Any],
    prog: str,
    description: str,
    types: Mapping[str, Any] | None = None,
    hidden: Sequence[str] = (),
) -> dict[str, Any]:
    """Return each group, a dataclass, with what the command line says in the place of its values.

    groups: by the title of their box in the help; their fields are flags of that name, and the dataclasses among their
    values groups of their own, `--reward.members` for `reward`. A field that may hold a dataclass and holds None has no
    flag. types: of fields in place of their own. hidden: nested dataclasses that have no
    flags. Raises PrefenvsError for a value outside of its limits.
    """
    fields: list[Any] = []
    for title, group in groups.items():
        kind: Any = _mirror(group, types or {}, nested=False)
        fields.append((title, Annotated[kind, tyro.conf.OmitArgPrefixes], dataclasses.field(default=kind())))
        for name, value in _nested(group):
            if name not in hidden:
                part: Any = _mirror(value, {})
                fields.append((name, part, dataclasses.field(default=part())))
    command: Any = dataclasses.make_dataclass("Train", fields, frozen=True)
    command.__doc__ = description
    # Every field has its help; the source of these classes, which have none, need not be searched for comments.
    config = (tyro.conf.AvoidSubcommands, tyro.conf.HelptextFromCommentsOff)
    parsed: Any = tyro.cli(command, args=list(arguments), prog=prog, config=config)
    result = {}
    for title, group in groups.items():
        own = getattr(parsed, title)
        check_limits(own)
        values = {field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
        for name, value in _nested(group):
            if name not in hidden:
                values[name] = _rebuild(value, getattr(parsed, name), f"{name}.")
        result[title] = dataclasses.replace(group, **values)
    return result


def _mirror(group: Any, types: Mapping[str, Any], nested: bool = True) -> Any:
    """Return a dataclass with a group's fields and values but none of its checks, which the parser would swallow."""
    fields: list[Any] = [
        (name, _documented(types.get(name, hint), doc), dataclasses.field(default=getattr(group, name)))
        for name, hint, doc in _flat(group)
    ]
    for name, value in _nested(group) if nested else ():
        inner = _mirror(value, {})
        fields.append((name, inner, dataclasses.field(default=inner())))
    kind = dataclasses.make_dataclass(type(group).__name__, fields, frozen=True)
    kind.__doc__ = (type(group).__doc__ or "").partition("\n")[0]
    return kind


def _rebuild(group: Any, mirrored: Any, prefix: str) -> Any:
    """Return a group with the values of its mirror; raises PrefenvsError for one outside of its limits."""
    check_limits(mirrored, prefix)
    values = {field.name: getattr(mirrored, field.name) for field in dataclasses.fields(mirrored)}
    for name, value in _nested(group):
        values[name] = _rebuild(value, values[name], f"{prefix}{name}.")
    return dataclasses.replace(group, **values)


def flags_of(group: Any) -> set[str]:
    """Return the names of a group's flags as they are typed, `per-session` for the field per_session."""
    names = set()
    for name, hint, _ in _flat(group):
        given = (getattr(extra, "name", None) for extra in getattr(hint, "__metadata__", ()))
        names.add((next((found for found in given if found), None) or name).replace("_", "-"))
    for name, value in _nested(group):
        names |= {f"{name}.{inner}" for inner in flags_of(value)}
    return names


def given_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the flags that stand on a command line with their next word: "true" or "false" for those without one."""
    found = {}
    for number, word in enumerate(arguments):
        if not word.startswith("--") or word == "--":
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("_", "-")
        if not equals:
            value = next((other for other in arguments[number + 1 : number + 2] if not other.startswith("--")), "true")
        if name.startswith("no-"):
            name, value = name.removeprefix("no-"), "false"
        found[name] = value
    return found


def keywords_of(function: Callable[..., Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Return those flags that a function has a keyword-only parameter for, as values of its type.

    What cannot be read as such is left out: the parser that comes after will refuse it.
    """
    hints = get_type_hints(function)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        text = given.get(name.replace("_", "-"))
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or text is None:
            continue
        kinds = {hints[name], *get_args(hints[name])} if name in hints else {int, float, bool}
        choices = {choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)}
        if choices and text not in choices:
            continue
        if text in ("true", "false") and bool in kinds:
            found[name] = text == "true"
            continue
        numbers = [kind for kind in (int, float) if kind in kinds]
        for kind in numbers:
            with contextlib.suppress(ValueError):
                found[name] = kind(text)
                break
        else:
            if not numbers or name not in hints:
                found[name] = text
    return found


def restore(group: Any, saved: Mapping[str, Any]) -> Any:
    """Return a dataclass with the values that a run folder has kept of it, as JSON holds them; others stay.

    Raises PrefenvsError for values of a nested dataclass that this version does not know.
    """
    hints, values = get_type_hints(type(group)), {}
    for field in dataclasses.fields(group):
        if field.name not in saved:
            continue
        value, like = saved[field.name], getattr(group, field.name)
        if dataclasses.is_dataclass(like) and isinstance(value, dict):
            unknown = sorted(set(value) - {inner.name for inner in dataclasses.fields(like)})
            if unknown:
                raise PrefenvsError(f"{field.name} has the setting {unknown[0]!r}")
            value = restore(like, value)
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, str) and Path in {hints[field.name], *get_args(hints[field.name])}:
            value = Path(value)
        if value is not None or like is None or type(None) in get_args(hints[field.name]):
            values[field.name] = value
    return dataclasses.replace(group, **values)


def _flat(group: Any) -> Iterator[tuple[str, Any, str]]:
    """Names, types and docstrings of the fields that are flags themselves."""
    kind: Any = type(group)
    hints, docs = get_type_hints(kind, include_extras=True), docstrings(kind)
    for field in dataclasses.fields(group):
        if not (dataclasses.is_dataclass(getattr(group, field.name)) or _holds_dataclass(hints[field.name])):
            yield field.name, hints[field.name], docs.get(field.name, "")


def _nested(group: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of the fields that hold dataclasses."""
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield field.name, value


def _holds_dataclass(hint: Any) -> bool:
    return any(isinstance(part, type) and dataclasses.is_dataclass(part) for part in get_args(hint))


def _documented(hint: Any, doc: str) -> Any:
    """The type with its help, beside what `tyro.conf.arg` says of it already."""
    extras = getattr(hint, "__metadata__", ()) if get_origin(hint) is Annotated else ()
    config = next((extra for extra in extras if hasattr(extra, "help_behavior_hint")), None)
    documented = tyro.conf.arg(help=doc) if config is None else dataclasses.replace(config, help=doc or config.help)
    bare = hint.__origin__ if extras else hint
    for extra in (*(extra for extra in extras if extra is not config), documented):
        bare = Annotated[bare, extra]
    return bare


@cache
def docstrings(kind: Any) -> dict[str, str]:
    """Return the strings below the fields of a dataclass and of its bases."""
    docs: dict[str, str] = {}
    base: Any
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cast("type[Any]", base)))).body[0].body  # type: ignore[attr-defined]
        except (OSError, TypeError, SyntaxError):
            continue
        for statement, after in pairwise(body):
            if not (isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr)):
                continue
            if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                paragraphs = inspect.cleandoc(after.value.value).split("\n\n")
                docs[ast.unparse(statement.target)] = "\n\n".join(" ".join(part.split()) for part in paragraphs)
    return docs
