"""The options of raters on the command line: those of the rater that is asked, and of no other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

from tyro.conf import arg

from prefenvs.cli.train.flags import docstrings, given_flags
from prefenvs.envs import make
from prefenvs.errors import PrefenvsError

if TYPE_CHECKING:
    from prefenvs.oracles.make import Rater
    from prefenvs.preferences import Oracle
    from prefenvs.store import Store

ARGUMENTS: list[str] = []
"""The words of the command line that is read at present."""
PARTS = ("cheap", "costly")
LOOKING = ("human", "ratings", "rankings", "vlm", "clip")
"""Raters that are shown pictures."""


class Asking(NamedTuple):
    """A command that asks a rater: who answers where --oracle names nobody, and flags of raters that are its own."""

    default: str = "oracle"
    own: tuple[str, ...] = ()


ONLINE, RATE = Asking(), Asking("vlm", ("store",))
ASKING = {"rate": RATE}


def look_at(arguments: Sequence[str]) -> None:
    """Take note of the command line before it is parsed, so that the parser knows the options of the rater it names.

    Raises PrefenvsError for an option of another rater.
    """
    ARGUMENTS[:] = arguments
    asking = _asking(arguments)
    if asking is not None:
        check_flags(given_flags(arguments), asking, "--true-reward" if "--true-reward" in arguments else None)


def rater_options(spec: str, own: Sequence[str] = (), **parts: str) -> type[Any]:
    """Return a frozen dataclass of the options of one rater, a field and a flag for each: `vlm_url` is `--vlm-url`.

    own: flags that the command has already. parts: cheap and costly of a hybrid, where flags name them; both raters'
    options then are there. Raises PrefenvsError for an unknown rater.
    """
    fields: dict[str, Any] = {}
    for rater in _asked(spec, parts):
        hints, helps = get_type_hints(rater.options, include_extras=True), docstrings(rater.options)
        for option in dataclasses.fields(rater.options):
            flag = rater.flags[option.name]
            if flag in own:
                continue
            hint = hints[option.name]
            extras = getattr(hint, "__metadata__", ())
            bare = hint.__origin__ if extras else hint
            default = None if option.default is dataclasses.MISSING else option.default
            if default is None:
                bare = bare | None
            kept = tuple(extra for extra in extras if not getattr(extra, "name", None))
            named: Any = Annotated[(bare, *kept, arg(name=flag, prefix_name=False, help=helps.get(option.name)))]
            fields.setdefault(_field(flag), (_field(flag), named, dataclasses.field(default=default)))
    made = dataclasses.make_dataclass("RaterOptions", fields.values(), frozen=True)
    made.__doc__ = f"Options of --oracle {spec}."
    return made


def looks_at_pictures(given: Mapping[str, str | None]) -> bool:
    """Tell whether the rater that a command line names, or one of a hybrid's, is shown pictures."""
    spec, parts = rater_on(given)
    return any(rater.name in LOOKING for rater in _asked(spec, parts))


def make_rater(
    spec: str,
    options: Any = None,
    task: str = "",
    seed: int | None = None,
    store: Store | None = None,
    run: str = "",
) -> Oracle:
    """Return the rater of a line and of what `rater_options` made of its flags, if it was asked.

    store: where people label, and where prompts and replies are kept, unless an option says otherwise. run: name of
    the queries there. Raises PrefenvsError for what cannot work.
    """
    from prefenvs.oracles import RaterContext
    from prefenvs.oracles import make_rater as make_any

    return make_any(spec, RaterContext(task, seed, store, run, load_expert_values, load_run_policy, _flags(options)))


def read_options(spec: str, options: Any = None) -> tuple[Rater, Any]:
    """Return the rater of a line and its own options, with what its flags say; see `oracles.make.read_options`."""
    from prefenvs.oracles.make import read_options as read_any

    return read_any(spec, _flags(options))


def read_parts(spec: str, options: Any = None) -> dict[str, tuple[Rater, Any]]:
    """Return who answers, with their options as `read_options`: of a hybrid both, by part, else one, under ""."""
    rater, own = read_options(spec, options)
    if rater.name != "hybrid":
        return {"": (rater, own)}
    return {part: read_options(getattr(own, part), options) for part in PARTS}


def rater_field(asking: Asking = ONLINE) -> Any:
    """Return the annotation of a command's field for the options of the rater that --oracle names.

    The rater is looked up on the command line that is read, or in the record of the run that --resume names.
    """

    def factory() -> type[Any]:
        if _asking(ARGUMENTS) is None:  # the parser of a command that is not run
            return dataclasses.make_dataclass("RaterOptions", (), frozen=True)
        try:
            spec, parts = rater_on(given_flags(ARGUMENTS), asking.default)
            return rater_options(spec, asking.own, **parts)
        except PrefenvsError:  # told when the rater is made
            return rater_options(asking.default, asking.own)

    return arg(name="rater", constructor_factory=factory)


def rater_on(given: Mapping[str, str | None], default: str = "oracle") -> tuple[str, dict[str, str]]:
    """Return the rater that a command line names, or the run that it resumes, and a hybrid's parts that flags name.

    given: the words behind the flags that stand there, by flag without dashes.
    """
    words = {flag: value for flag, value in given.items() if value is not None}
    saved: dict[str, Any] = {}
    if "resume" in words:
        try:
            record = json.loads((Path(words["resume"]) / "run.json").read_text())
            saved = dict(record.get("config", {}))
        except (OSError, ValueError, AttributeError):  # told when the run is opened
            saved = {}
    options = saved.get("rater") or {}
    named = {part: str(options[part]) for part in PARTS if part in options}
    return words.get("oracle") or str(saved.get("oracle", default)), named | {p: words[p] for p in PARTS if p in words}


def check_flags(given: Mapping[str, str | None], asking: Asking = ONLINE, rater: str | None = None) -> None:
    """Raise a PrefenvsError for a flag of another rater than the one that the command line names.

    given: as in `rater_on`. rater: what to call the rater, where nobody is asked.
    """
    from prefenvs.oracles import list_raters

    spec, parts = rater_on(given, asking.default)
    mine = set() if rater is not None else {flag for one in _asked(spec, parts) for flag in one.flags.values()}
    others: dict[str, list[str]] = {}
    for one in list_raters().values():
        for flag in one.flags.values():
            others.setdefault(flag, []).append(one.name)
    for word in given:
        flag = word if word in others else word.removeprefix("no-")
        if flag in others and flag not in mine and flag not in asking.own:
            raise PrefenvsError(
                f"--{word} goes with --oracle {' or '.join(others[flag])}, not with {rater or f'--oracle {spec}'}: "
                "leave it out"
            )


def load_expert_values(task: str, expert: Path) -> Any:
    """Return the values of an expert; raises PrefenvsError where it is of another task, by name or by its spaces."""
    from prefenvs.cli.train.critic import load_values

    agent, values = load_values(expert)
    if agent is values:
        if agent.task != task:
            raise PrefenvsError(f"{expert} is an expert of {agent.task}, but it is asked about {task}")
        return values
    with closing(make(task)) as env:
        for name in ("observation_space", "action_space"):
            known, needed = getattr(agent, name), getattr(env, name)
            if known.shape != needed.shape or type(known) is not type(needed):
                raise PrefenvsError(f"the expert {expert} has the {name} {known}, but {task} has {needed}")
    return values


def load_run_policy(folder: Path) -> Any:
    """Return the policy of a run folder."""
    from prefenvs.agents.runs.train import load_policy
    from prefenvs.runs import Run

    return load_policy(Run.open(folder))


def _asking(arguments: Sequence[str]) -> Asking | None:
    """The command of a command line, if it is one that asks a rater."""
    return next(
        (asking for command, asking in ASKING.items() if f"{' '.join(arguments)} ".startswith(f"{command} ")), None
    )


def _asked(spec: str, parts: Mapping[str, str]) -> list[Rater]:
    """The rater of a line, and for a hybrid both of its own."""
    from prefenvs.oracles.make import read_options, read_spec

    rater = read_spec(spec).rater
    if rater.name != "hybrid":
        return [rater]
    _, options = read_options(spec, parts)
    return [rater, *(one for part in PARTS for one in _asked(getattr(options, part), {}))]


def _flags(options: Any) -> dict[str, Any]:
    return (
        {} if options is None else {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    )


def _field(flag: str) -> str:
    return flag.replace("-", "_")
