"""The table of raters, and the one function that makes each from a line such as `noisy` or `regret:form=visited`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from prefenvs.errors import PrefenvsError, failure_told, near_matches
from prefenvs.internal.loading import entry_points, import_object
from prefenvs.internal.seeding import derive_seed
from prefenvs.limits import limits_of
from prefenvs.oracles.clip.options import ClipRaterOptions
from prefenvs.oracles.hybrid.config import HybridOptions
from prefenvs.oracles.people.human import HumanOptions
from prefenvs.oracles.simulated.help import HelpOptions
from prefenvs.oracles.simulated.heron import HeronOptions
from prefenvs.oracles.simulated.hindsight import HindsightOptions
from prefenvs.oracles.simulated.options import RegretOptions, TeacherOptions
from prefenvs.oracles.simulated.teachers import CROWDS, TEACHERS
from prefenvs.oracles.vlm.config import VLMOptions
from prefenvs.preferences import Oracle
from prefenvs.raters import FunctionOracle, as_oracle
from prefenvs.store import Store
from prefenvs.tasks import find_task

KEY = re.compile(r"([a-z_]+)=")
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A rater of one's own, module:NAME."""


@dataclass(frozen=True)
class RaterContext:
    """What raters may need to know of where they are asked.

    task: its id, empty where it is not known. seed: of simulated raters; None draws one. store: where people label, and
    where prompts and replies are kept, unless an option names another. run: name of the queries in that store.
    load_values: returns the values of an expert of a task from its run folder, for raters by regret. load_policy:
    returns the policy of a run folder. flags: options given apart from the rater's line, by the names that `flags_of`
    gives them.
    """

    task: str = ""
    seed: int | None = None
    store: Store | None = None
    run: str = ""
    load_values: Callable[[str, Path], Any] | None = None
    load_policy: Callable[[Path], Any] | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class NoOptions:
    """A rater without options."""


@dataclass(frozen=True)
class Rater:
    """A row of the table of raters; installed packages add theirs by an entry point in the group `prefenvs.raters`.

    title: what it is, in a few words. options: a frozen dataclass whose fields are the keys of `name:key=value`, and
    flags of the command line. make: returns the rater of these options. needs: parts of the context that it cannot do
    without. late: answers come when they come. in_order: keys that values without a key belong to, as in
    `regret:EXPERT:TEACHER`.
    """

    name: str
    title: str
    make: Callable[[Any, RaterContext], Oracle]
    options: type = NoOptions
    needs: tuple[Literal["task", "store"], ...] = ()
    late: bool = False
    in_order: tuple[str, ...] = ()

    @cached_property
    def flags(self) -> dict[str, str]:
        """The flag of each option, without dashes in front; a field may name its own by `tyro.conf.arg(name=...)`."""
        hints = get_type_hints(self.options, include_extras=True)
        names = {}
        for option in dataclasses.fields(self.options):
            extras = getattr(hints[option.name], "__metadata__", ())
            given = next((extra.name for extra in extras if getattr(extra, "name", None)), None)
            names[option.name] = given or f"{self.name}-{option.name}".replace("_", "-")
        return names


class Spec(NamedTuple):
    """A rater and the options that its line gives, each with the values written for it."""

    rater: Rater
    given: dict[str, list[str]]


def make_rater(spec: str, context: RaterContext | None = None) -> Oracle:
    """Return the rater of a line: `name`, `name:key=value,key=value`, or `module:NAME` for one of your own.

    The last is a function of segments (see `prefenvs.raters`), an oracle, or a class of one. Raises PrefenvsError for
    unknown names and keys, for values out of range, and for what the rater needs and the context lacks.
    """
    context = context or RaterContext()
    rater, options = read_options(spec, context.flags)
    if "task" in rater.needs and not context.task:
        raise PrefenvsError(f"the rater {rater.name} needs to know the task: name it with task=...")
    if "store" in rater.needs and context.store is None and getattr(options, "store", None) is None:
        raise PrefenvsError(
            f"--oracle {rater.name} needs the store that people label: --store labels.sqlite, or "
            f"{rater.name}:store=labels.sqlite"
        )
    return rater.make(options, context)


def read_options(spec: str, flags: Mapping[str, Any] | None = None) -> tuple[Rater, Any]:
    """Return the rater of a line and its options, those of `flags` where the line gives none.

    Raises PrefenvsError for unknown names and keys, values out of range, and what line and flags give both.
    """
    rater, given = read_spec(spec)
    hints = get_type_hints(rater.options, include_extras=True)
    fields = {option.name: option for option in dataclasses.fields(rater.options)}
    for key in given:
        if key not in fields:
            known = f"choose from {', '.join(fields)}" if fields else "it has none"
            raise PrefenvsError(f"{spec}: {rater.name} has no option {key!r}; {known}.{near_matches(key, fields)}")
    values = {}
    for name, flag in rater.flags.items():
        default = fields[name].default
        flagged = (flags or {}).get(flag.replace("-", "_"), dataclasses.MISSING)
        if flagged is None and default is dataclasses.MISSING:  # the flag of an option without a default
            flagged = dataclasses.MISSING
        if name in given:
            if flagged not in (dataclasses.MISSING, default):
                raise PrefenvsError(f"{spec}: {name} is given twice, here and by --{flag}: leave one out")
            values[name] = _read_value(f"{spec}: {name}", given[name], hints[name])
        elif flagged is not dataclasses.MISSING:
            values[name] = flagged
        elif default is dataclasses.MISSING and fields[name].default_factory is dataclasses.MISSING:
            raise PrefenvsError(f"{spec}: {rater.name} needs {name}: {rater.name}:{name}=..., or --{flag}")
    try:
        return rater, rater.options(**values)
    except PrefenvsError as error:
        raise PrefenvsError(f"{spec}: {error}") from None


def read_spec(spec: str) -> Spec:
    """Return the rater that a line names, and what it says of options.

    Raises PrefenvsError for an unknown name, with near matches, and for a key given without its value.
    """
    name, _, rest = spec.partition(":")
    table = list_raters()
    given: dict[str, list[str]] = {}
    kind, _, teacher = name.partition("-")
    teachers = TEACHERS | CROWDS
    if name not in table:
        if name in teachers:
            name, given = "oracle", {"teacher": [name]}
        elif kind in table and teacher in teachers and issubclass(table[kind].options, TeacherOptions):
            name, given = kind, {"teacher": [teacher]}
        elif OWN.fullmatch(spec):
            return Spec(Rater(spec, "your own", lambda _, context: _load_own(spec)), {})
        else:
            crowds = [crowd for crowd in CROWDS if crowd.count("-") == 1]
            shown = ", ".join(dict.fromkeys([*TEACHERS, *table, *crowds]))
            hint = (
                near_matches(teacher, teachers) if kind in table and teacher else near_matches(spec, table | teachers)
            )
            raise PrefenvsError(f"unknown rater {spec!r}: choose {shown}, or module:NAME of your own.{hint}")
    rater = table[name]
    for key, values in _split(spec, rest, rater).items():
        if key in given:
            raise PrefenvsError(f"{spec}: {key} is given twice: leave one out")
        given[key] = values
    return Spec(rater, given)


def list_raters() -> dict[str, Rater]:
    """Return our raters and those of installed packages by name; raises PrefenvsError for a name taken twice."""
    table = {rater.name: rater for rater in RATERS}
    for rater in entry_points("prefenvs.raters", Rater):
        if table.get(rater.name, rater) is not rater or rater.name in TEACHERS | CROWDS:
            raise PrefenvsError(f"two packages have a rater {rater.name!r}: rename one of them")
        table[rater.name] = rater
    return table


def _split(spec: str, text: str, rater: Rater) -> dict[str, list[str]]:
    """Split `key=value,key=value`: a comma within brackets, or before anything but a key, is part of its value."""
    given: dict[str, list[str]] = {}
    if not text:
        return given
    if not KEY.match(text):
        parts = text.split(":")
        if len(parts) > len(rater.in_order):
            keys = ", ".join(option.name for option in dataclasses.fields(rater.options)) or "it has no options"
            raise PrefenvsError(f"{spec}: write {rater.name}:key=value,key=value ({keys})")
        return {key: [value] for key, value in zip(rater.in_order, parts, strict=False) if value}
    depth, starts = 0, [0]
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0 and KEY.match(text, i + 1):
            starts.append(i + 1)
    for start, end in zip(starts, [*(start - 1 for start in starts[1:]), len(text)], strict=True):
        key, _, value = text[start:end].partition("=")
        given.setdefault(key, []).append(value[1:-1] if value[:1] == "[" and value[-1:] == "]" else value)
    return given


def _read_value(name: str, texts: Sequence[str], hint: Any) -> Any:
    """Return the value of an option from what is written for it; raises PrefenvsError if its type has no such value."""
    limits = limits_of(hint)
    values = [_convert(name, text, hint) for text in texts]
    for value in values:
        if limits is not None and value is not None:
            limits.check(name, value)
    if get_origin(_bare(hint)) is tuple:
        return tuple(values)
    if len(values) > 1:
        raise PrefenvsError(f"{name} is given twice: leave one out")
    return values[0]


def _bare(hint: Any) -> Any:
    return _bare(get_args(hint)[0]) if hasattr(hint, "__metadata__") else hint


def _convert(name: str, text: str, hint: Any) -> Any:
    hint = _bare(hint)
    if get_origin(hint) is tuple:
        hint = _bare(get_args(hint)[0])
    kinds = [_bare(kind) for kind in (get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,))]
    names = [str(choice) for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if text in names:
        return text
    if type(None) in kinds and text.lower() == "none":
        return None
    readers: dict[Any, Callable[[str], Any]] = {bool: _read_bool, int: int, float: float, Path: Path, str: str}
    for kind in kinds:
        try:
            if kind in readers:
                return readers[kind](text)
        except ValueError:
            continue
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    wanted = " or ".join([*names, *(word for kind, word in words.items() if kind in kinds)])
    raise PrefenvsError(f"{name} must be {wanted}, got {text!r}.{near_matches(text, names)}")


def _read_bool(text: str) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def _load_own(spec: str) -> Oracle:
    """Return a rater of the user's own, module:NAME; a class is called without arguments."""
    found = import_object(spec, "rater")
    with failure_told(f"the rater {spec} cannot be made"):
        rater = found() if isinstance(found, type) else found
    if isinstance(rater, Oracle) or hasattr(rater, "ask") or not callable(rater):
        return as_oracle(rater)
    return FunctionOracle(rater, spec)


def _make_simulated(options: TeacherOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.simulated.partial_return import PartialReturnOracle

    return PartialReturnOracle(options.find(), context.seed, options.soft)


def _make_regret(options: RegretOptions, context: RaterContext) -> Oracle:
    """Return a rater by an expert's values, or by the exact ones that are known for Delivery-v0."""
    from prefenvs.oracles.simulated.regret import RegretOracle

    if options.expert is None:
        if context.task != "Delivery-v0":
            raise PrefenvsError(
                f"--oracle regret needs an expert of {context.task}: train one with `prefenvs train pebble "
                "--true-reward` and give its run folder, or a .zip of SB3's SAC or DQN: --expert, or regret:expert=..."
            )
        from prefenvs.envs.delivery.board import find_board
        from prefenvs.envs.delivery.values import BoardValues

        values: Any = BoardValues(find_board(0))
    elif context.load_values is None:
        raise PrefenvsError(
            "an expert is loaded by RaterContext(load_values=...); or make RegretOracle(values) yourself"
        )
    else:
        values = context.load_values(context.task, options.expert)
    return RegretOracle(
        values, options.find(), context.seed, options.soft, form=options.form, discount=options.discount
    )


def _make_coin(options: NoOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.simulated.coin import CoinOracle

    return CoinOracle(context.seed)


def _make_heron(options: HeronOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.simulated.heron import HeronOracle

    return HeronOracle(options.factor, options.margin, options.undecided)


def _make_hindsight(options: HindsightOptions, context: RaterContext) -> Oracle:
    """Return a rater who sees continuations; raises PrefenvsError for one who answers late, or without a policy."""
    from prefenvs.oracles.simulated.hindsight import HindsightOracle

    inner = read_spec(options.rater).rater
    if inner.late or inner.name == "hindsight":
        raise PrefenvsError(f"hindsight needs a rater that answers at once, which {options.rater!r} is not")
    policy = None
    if options.policy not in ("current", "random"):
        if context.load_policy is None:
            raise PrefenvsError("a policy is loaded by RaterContext(load_policy=...); or make HindsightOracle yourself")
        policy = context.load_policy(Path(options.policy))
    elif options.policy == "random":
        policy = _random_policy(context)
    seed = 0 if context.seed is None else context.seed
    return HindsightOracle(make_rater(options.rater, context), context.task, options.steps, policy, seed)


def _make_help(options: HelpOptions, context: RaterContext) -> Oracle:
    """Return a simulated person whose kind of help is chosen; raises PrefenvsError where their expert is missing."""
    from prefenvs.oracles.simulated.help import HelpOracle, SimulatedHelper

    expert = None
    if options.expert:
        if context.load_policy is None:
            raise PrefenvsError("an expert is loaded by RaterContext(load_policy=...); or make HelpOracle yourself")
        expert = context.load_policy(Path(options.expert))
    helper = SimulatedHelper(context.task, options, expert, context.seed)
    return HelpOracle(helper, options, context.seed)


def _random_policy(context: RaterContext) -> Any:
    from prefenvs.envs import make
    from prefenvs.evaluate import random_policy

    with closing(make(context.task)) as env:
        return random_policy(env.action_space, 0 if context.seed is None else context.seed)


def _make_human(options: HumanOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.people.human import HumanOracle

    weights: Literal["gold"] | None = "gold" if options.trust == "gold" else None
    store = _store(options.store, context)
    return HumanOracle(store, context.run, weights=weights, wait=options.wait, calibrate=options.calibrate)


def _make_ratings(options: HumanOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.people.rating import RatingOracle

    _check_compared(options, "ratings")
    return RatingOracle(_store(options.store, context), context.run, wait=options.wait)


def _make_rankings(options: HumanOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.people.ranking import RankingOracle

    _check_compared(options, "rankings")
    return RankingOracle(_store(options.store, context), context.run, wait=options.wait)


def _check_compared(options: HumanOptions, name: str) -> None:
    """Raise a PrefenvsError for an option that only answers to pairs take."""
    for flag, given in (("trust gold", options.trust == "gold"), ("calibrate", options.calibrate)):
        if given:
            raise PrefenvsError(f"--{flag} goes with --oracle human, not with --oracle {name}: leave it out")


def _store(location: str | None, context: RaterContext) -> Store:
    found = context.store if location is None else Store(location)
    assert found is not None
    return found


def _make_vlm(options: VLMOptions, context: RaterContext) -> Oracle:
    """Return a model as rater, after a look whether its server is there."""
    from prefenvs.envs.rendering.renderer import draws_itself
    from prefenvs.oracles.vlm.oracle import VLMOracle

    name, task = options.name(), find_task(context.task)
    if options.hide_robot and draws_itself(task):
        raise PrefenvsError(f"--vlm-hide-robot: task {task.id} draws itself, its robot cannot be hidden")
    oracle = VLMOracle(task, name, options.config(), run=context.run, wait=options.wait)
    oracle.check()
    oracle.store = context.store if options.store is None else Store(options.store)
    return oracle


def _make_clip(options: ClipRaterOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.clip.oracle import CLIPOracle

    return CLIPOracle(options.make(context.task), options.find(), context.seed, options.soft)


def _make_hybrid(options: HybridOptions, context: RaterContext) -> Oracle:
    from prefenvs.oracles.hybrid.oracle import HybridOracle

    parts = {"cheap": options.cheap, "costly": options.costly}
    for spec in parts.values():
        if read_spec(spec).rater.name in ("hybrid", "ratings", "rankings"):
            raise PrefenvsError(f"--cheap and --costly name raters that compare two segments, which {spec!r} is not")
    # With one seed the two would err on the same queries.
    seeds = {part: None if context.seed is None else derive_seed(context.seed, part) for part in parts}
    cheap, costly = (make_rater(spec, replace(context, seed=seeds[part])) for part, spec in parts.items())
    return HybridOracle(cheap, costly, options, seed=context.seed)


RATERS = (
    Rater("oracle", "simulated, by partial return", _make_simulated, TeacherOptions, in_order=("teacher",)),
    Rater("regret", "simulated, by regret", _make_regret, RegretOptions, ("task",), in_order=("expert", "teacher")),
    Rater("heron", "simulated, by ranked reward factors", _make_heron, HeronOptions),
    Rater("hindsight", "simulated, sees what follows", _make_hindsight, HindsightOptions, ("task",)),
    Rater("help", "simulated, asked in the way that is worth its time", _make_help, HelpOptions, ("task",)),
    Rater("coin", "simulated, knows nothing", _make_coin),
    Rater("human", "people who compare clips", _make_human, HumanOptions, ("store",), late=True),
    Rater("ratings", "people who rate single clips", _make_ratings, HumanOptions, ("store",), late=True),
    Rater("rankings", "people who rank clips", _make_rankings, HumanOptions, ("store",), late=True),
    Rater("vlm", "a vision-language model", _make_vlm, VLMOptions, ("task",), late=True),
    Rater("clip", "a CLIP model", _make_clip, ClipRaterOptions, ("task",)),
    Rater("hybrid", "a cheap and a costly rater", _make_hybrid, HybridOptions, late=True),
)
"""Our own raters. Teachers and crowds are names of `oracle` with that teacher; NAME-TEACHER is a rater with one."""
