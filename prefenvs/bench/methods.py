"""Methods: how a name in a table becomes a command line that trains in a run folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.loading import entry_points, load_object

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
    --folder; program: what is run.
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
    program: tuple[str, ...] = OURS

    @property
    def upper_bound(self) -> bool:
        """Whether this is the agent on the true reward."""
        return self.upper == self.name

    def accepted(self, options: Mapping[str, Option]) -> dict[str, Option]:
        """Return the options of a grid that this method knows."""
        known = [name for name in options if name not in self.ignores and (self.only is None or name in self.only)]
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
    """Write options as words of a command line: --name value, --name or --no-name; {data} becomes the data's folder."""
    line = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            line.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            text = str(value)
            line += [f"--{flag}", text if data is None else text.replace("{data}", str(data))]
    return line


QUIET = {"progress": False}
SESSIONS = ("per_session", "interact", "segment_length", "selector", "unsupervised_steps", "schedule")
SMALL_NETS = ("preset",)


def _online(name: str, title: str, algorithm: str, ignores: tuple[str, ...] = (), **options: Option) -> Method:
    upper = bool(options.get("true_reward"))
    labelled = algorithm == "pebble" and not upper
    return Method(
        name,
        title,
        ("train", algorithm),
        QUIET | options,
        ignores + (SESSIONS if upper else ()),
        upper=f"{algorithm}-true-reward",
        controls=("pebble-coin", "pebble-no-labels") if labelled else (),
        bound="pebble-true-reward-explored" if labelled else "",
        asks=not upper,
        checkpoints=True,
        rewards=not upper,
    )


PEBBLE = _online("pebble", "PEBBLE", "pebble")
_CONTROL = replace(PEBBLE, controls=(), bound="", seeds_together=False)
CONTROLS = (
    replace(_CONTROL, name="pebble-coin", title="PEBBLE on coin flips (control)", rater="coin"),
    replace(
        _CONTROL,
        name="pebble-no-labels",
        title="exploration alone (control)",
        options=QUIET | {"exploration_only": True},
        ignores=SESSIONS,
        asks=False,
        rewards=False,
    ),
    replace(
        _CONTROL,
        name="pebble-true-reward-explored",
        title="SAC on the true reward after exploration (upper bound)",
        options=QUIET | {"true_reward": True, "explore_first": True},
        ignores=tuple(name for name in SESSIONS if name != "unsupervised_steps"),
        upper="pebble-true-reward-explored",
        asks=False,
        rewards=False,
    ),
)
"""What PEBBLE's figures are held against: the same steps, seeds and exploration."""


ONLINE = ("per_session", "interact", "selector", "unsupervised_steps", "schedule", "learning_starts", "envs")


def _offline(
    name: str, title: str, algorithm: str, rewards: bool = False, controls: tuple[str, ...] = (), **options: Option
) -> Method:
    unlabelled = bool(options.get("true_reward") or options.get("constant_reward")) or name == "bc"
    return Method(
        name,
        title,
        ("train", algorithm),
        QUIET | options,
        ONLINE,
        upper="iql-true-reward",
        controls=controls,
        bound="iql-true-reward" if controls else "",
        asks=not unlabelled,
        offline=True,
        checkpoints=True,
        rewards=rewards,
        seeds_together=algorithm in ("iql", "cpl", "bc"),
    )


METHODS = (
    PEBBLE,
    _online("pebble-surf", "PEBBLE + SURF", "pebble", surf=True),
    _online("pebble-rune", "PEBBLE + RUNE", "pebble", rune=True),
    _online("pebble-min", "PEBBLE, worst case of the ensemble", "pebble", aggregate="min"),
    _online("pebble-mean-std", "PEBBLE, mean less one standard deviation", "pebble", aggregate="mean-std"),
    _online("pebble-true-reward", "SAC on the true reward (upper bound)", "pebble", true_reward=True),
    *CONTROLS,
    _online("prefppo", "PrefPPO", "prefppo", SMALL_NETS),
    _online("prefppo-true-reward", "PPO on the true reward (upper bound)", "prefppo", SMALL_NETS, true_reward=True),
    Method(
        "imitation-pc",
        "imitation's preference comparisons",
        ("bench", "comparisons"),
        only=("steps", "episodes"),
        upper="prefppo-true-reward",
    ),
    _offline("iql", "IQL on a learned reward", "iql", rewards=True, controls=("iql-shuffled", "iql-constant")),
    _offline("iql-shuffled", "IQL on shuffled labels (control)", "iql", rewards=True, shuffle_labels=True),
    _offline("iql-constant", "IQL on a constant reward (control)", "iql", constant_reward=True),
    _offline("cpl", "CPL", "cpl", controls=("cpl-shuffled",)),
    _offline("cpl-shuffled", "CPL on shuffled labels (control)", "cpl", shuffle_labels=True),
    _offline("oppo", "OPPO", "oppo"),
    _offline("ipl", "IPL", "ipl"),
    _offline("dppo", "DPPO", "dppo"),
    _offline("bc", "behaviour cloning of all data", "bc"),
    _offline("bc-10", "behaviour cloning of the preferred 10%", "bc", best_share=0.1),
    _offline("iql-true-reward", "IQL on the true reward (upper bound)", "iql", true_reward=True),
    Method(
        "random",
        "random actions",
        ("bench", "random"),
        only=("episodes",),
        asks=False,
        seeded=False,
    ),
)


def list_methods() -> list[Method]:
    """Return our methods and those that installed packages offer under `prefenvs.methods`."""
    return [*METHODS, *entry_points("prefenvs.methods", Method)]


def find_method(name: str) -> Method:
    """Return a method by its name, or one of your own by `module:NAME`; raises PrefenvsError for an unknown one."""
    if ":" in name:
        method = load_object(name, Method)
        return replace(method, name=name, upper=name if method.upper_bound else method.upper)
    methods = {method.name: method for method in list_methods()}
    if name not in methods:
        raise PrefenvsError(f"unknown method {name!r}.{near_matches(name, methods)} `prefenvs bench list` lists all.")
    return methods[name]
