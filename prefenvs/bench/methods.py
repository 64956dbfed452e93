"""Methods: how a name in a table becomes a command line that trains in a run folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefenvs.agents.registry import Algorithm, Row, find_algorithm, list_algorithms
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import entry_points, import_object, load_object

if TYPE_CHECKING:
    from prefenvs.bench.cells import Cell, Option

OURS = (sys.executable, "-P", "-m", "prefenvs")
"""Our own command line; -P keeps the present folder out of the import path."""


@dataclass(frozen=True)
class Method:
    """A row of a benchmark table, and the program behind it.

    The program is called with `command`, then --task, --seed and --folder, --oracle and --labels if the method `asks`
    (--dataset and --preferences if it is `offline`), and the options of method and cell. It has to write
    evaluations.csv (steps, labels, mean_return, and if known success and seconds; one row for each evaluation) and
    summary.json into the folder, and exit with status 0.

    title: how tables call it; options: the method's own; ignores: options of a grid that it does not know; only: the
    only ones that it knows; upper: name of the method on the true reward by which it is normalised, its own if it is
    that; controls: names of methods like it that know nothing, the first of which is label lift's 0; bound: name of the
    one on the true reward with the same exploration, its 1; rater: its own, whatever a grid asks; offline: learns from
    a data set; seeded: chance plays a part in training; checkpoints: continues with `<command> --resume FOLDER` where
    the folder holds a checkpoint; rewards: keeps a reward model that `prefenvs bench measure` can judge;
    seeds_together: trains several seeds in one program, by `--seeds 0 1 2` in the place of --seed, with {seed} in
    --folder; presets: those that its program knows, where that is known; program: what is run.
    """

    name: str
    title: str
    command: tuple[str, ...]
    options: Mapping[str, Option] = field(default_factory=dict)
    ignores: tuple[str, ...] = ()
    only: tuple[str, ...] | None = None
    upper: str = ""
    controls: tuple[str, ...] = ()
    bound: str = ""
    rater: str = ""
    asks: bool = True
    offline: bool = False
    seeded: bool = True
    checkpoints: bool = False
    rewards: bool = False
    seeds_together: bool = False
    presets: tuple[str, ...] = ()
    program: tuple[str, ...] = OURS

    @property
    def upper_bound(self) -> bool:
        """Whether this is the agent on the true reward."""
        return self.upper == self.name

    def accepted(self, options: Mapping[str, Option]) -> dict[str, Option]:
        """Return the options of a grid that this method knows; raises PrefenvsError for a preset that it lacks."""
        known = [name for name in options if name not in self.ignores and (self.only is None or name in self.only)]
        preset = options.get("preset")
        if "preset" in known and self.presets and preset not in self.presets:
            raise PrefenvsError(
                f"the method {self.name} has no preset {preset!r}, only {', '.join(self.presets)}: name it among the "
                "presets of its Algorithm, or give each method its own by method_options"
            )
        return {name: options[name] for name in known}

    def commands(self, cell: Cell, folder: Path, data: Path | None, resume: bool = False) -> list[list[str]]:
        """Return the command lines that make a cell's run folder, one after the other."""
        options: dict[str, Option] = {"task": cell.task, "seed": cell.seed, "folder": str(folder)}
        if self.offline:
            options["dataset"] = cell.dataset
        if self.asks:
            rater = {"preferences": cell.oracle} if self.offline else {"oracle": cell.oracle}
            options |= rater | {"labels": cell.labels}
        line = [*self.program, *self.command, *words(options | dict(self.options) | dict(cell.options), data)]
        if resume:
            line = [*self.program, *self.command, "--resume", str(folder)]
        measure = [*OURS, "bench", "measure", str(folder)]
        return [line, measure] if self.rewards else [line]


def words(options: Mapping[str, Option], data: Path | None = None) -> list[str]:
    """Write options as words of a command line: --name value, --name value value, --name, --no-name or --group.no-name.

    {data} becomes the data's folder.
    """
    line = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            group, dot, last = flag.rpartition(".")
            line.append(f"--{flag}" if value else f"--{group}{dot}no-{last}")
        elif isinstance(value, list):
            line += [f"--{flag}", *map(str, value)]
        else:
            text = str(value)
            line += [f"--{flag}", text if data is None else text.replace("{data}", str(data))]
    return line


QUIET = {"progress": False}
SESSIONS = ("per_session", "interact", "segment_length", "selector", "unsupervised_steps", "schedule")
GRID = (*SESSIONS, "learning_starts", "envs")
"""Options of a grid that not every algorithm has."""

BASELINES = (
    Method(
        "imitation-pc",
        "imitation's preference comparisons",
        ("bench", "comparisons"),
        only=("steps", "episodes"),
        upper="prefppo-true-reward",
    ),
    Method(
        "random",
        "random actions",
        ("bench", "random"),
        only=("episodes",),
        asks=False,
        seeded=False,
    ),
)


def methods_of(algorithm: Algorithm) -> list[Method]:
    """Return the rows that an algorithm declares, as programs of our own command line."""
    offline = algorithm.source == "offline"
    parts = [kind for kind in (algorithm.config, algorithm.options) if kind is not None]
    known = {field.name for kind in parts for field in fields(kind)} | ({"segment_length"} if offline else set())
    unknown = tuple(name for name in GRID if name not in known) + (("preset",) if len(algorithm.presets) == 1 else ())
    return [
        Method(
            row.name,
            row.title,
            ("train", algorithm.name),
            {**QUIET, **row.options},
            unknown + (() if row.asks or offline else tuple(name for name in SESSIONS if name not in row.keeps)),
            upper=row.upper or algorithm.upper,
            controls=row.controls,
            bound=row.bound,
            rater=row.rater,
            asks=row.asks,
            offline=offline,
            checkpoints=algorithm.resumes,
            rewards=row.rewards,
            seeds_together=algorithm.together,
            presets=algorithm.presets,
        )
        for row in algorithm.rows
    ]


def list_methods() -> list[Method]:
    """Return our methods and those that installed packages offer, as algorithms or under `prefenvs.methods`."""
    ours = [method for name in list_algorithms() for method in methods_of(find_algorithm(name))]
    return [*ours, *BASELINES, *entry_points("prefenvs.methods", Method)]


def find_method(name: str) -> Method:
    """Return a method by its name; raises PrefenvsError for an unknown one.

    One of your own is `module:NAME` of a `Method`, or of an `Algorithm`: its first row, or `module:NAME:ROW`.
    """
    if ":" in name:
        module, _, rest = name.partition(":")
        place, _, row = rest.partition(":")
        if isinstance(import_object(f"{module}:{place}", "method"), Algorithm):
            return _find_row(f"{module}:{place}", row)
        method = load_object(name, Method)
        return replace(method, name=name, upper=name if method.upper_bound else method.upper)
    methods = {method.name: method for method in list_methods()}
    if name not in methods:
        raise PrefenvsError(f"unknown method {name!r}.{near_matches(name, methods)} `prefenvs bench list` lists all.")
    return methods[name]


def _find_row(path: str, name: str) -> Method:
    """Return a row of an algorithm at `module:NAME`, the first one if none is named; its title if it declares none."""
    algorithm = find_algorithm(path)
    if not algorithm.rows:
        algorithm = replace(algorithm, rows=(Row(path, algorithm.title),))
    rows = {method.name: method for method in methods_of(algorithm)}
    first = next(iter(rows))
    # The rows of an algorithm name each other as it does; here they have their paths.
    paths = {row: path if row == first else f"{path}:{row}" for row in rows}
    if name and name not in rows:
        raise PrefenvsError(f"{path} has no row {name!r}: it has {', '.join(paths.values())}")
    method = rows[name or first]
    return replace(
        method,
        name=paths[method.name],
        # Whoever compares a method of their own wants the preset of the others, or to be told that it has none such.
        ignores=tuple(option for option in method.ignores if option != "preset"),
        upper=paths.get(method.upper, method.upper),
        controls=tuple(paths.get(control, control) for control in method.controls),
        bound=paths.get(method.bound, method.bound),
    )
