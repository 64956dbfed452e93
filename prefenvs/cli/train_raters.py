"""The raters of `prefenvs train` online: their flags, and how they are made and tied to a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefenvs.cli.clip import ClipOptions
from prefenvs.cli.flags import flags_of
from prefenvs.cli.hybrid import HybridOptions
from prefenvs.cli.vlm import VLMOptions
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run
from prefenvs.store import Recorded, Store
from prefenvs.tasks import Task

if TYPE_CHECKING:
    from prefenvs.preferences import Oracle

LABELS = ("expert", "labels", "per-session", "interact", "segment-length", "selector", "schedule")
"""Flags that have no effect where no rater is asked."""


@dataclass(frozen=True)
class RaterOptions:
    """Who answers; the options of a model or of two raters together are shown with --oracle vlm, clip or hybrid."""

    oracle: str = "oracle"
    """oracle, mistake, noisy, skip, myopic, equal or crowd-... (simulated), regret, human or ratings, vlm, clip.

    regret-noisy, regret-crowd-antmaze, ...: by regret, with a simulated teacher's irrationalities. hybrid: two of
    these, --cheap and --costly.
    """
    expert: Path | None = None
    """With --oracle regret: run folder (`train pebble --true-reward`) or SB3 .zip; Delivery-v0 can do without."""
    regret_form: Literal["advantage", "deterministic", "visited"] = "advantage"
    """With --oracle regret: sum of advantages; telescoped; or telescoped without the last action, as CPL's labels."""
    store: str | None = None
    """With --oracle human: the store that `prefenvs label --store` serves, a file or a postgresql:// URL.

    With --oracle vlm: where prompts and replies are kept, if not in the run folder's own store.
    """
    wait: bool = False
    """With --oracle human or vlm: stop at each session until all is answered; otherwise training goes on meanwhile."""


MODELS: dict[str, Any] = {"vlm": VLMOptions(), "clip": ClipOptions(), "hybrid": HybridOptions()}
"""Groups of options that go with one rater, by its name."""


def rater_groups(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the groups of options of the raters that a command line names, by name.

    Raises PrefenvsError for an option of a rater that is not asked.
    """
    oracle = given.get("oracle", "oracle")
    names = {oracle.partition("-")[0]}
    if oracle == "hybrid":
        names |= {given.get(flag, getattr(MODELS["hybrid"], flag)).partition("-")[0] for flag in ("cheap", "costly")}
    for kind, options in MODELS.items():
        strange = sorted(flags_of(options) & set(given))
        if strange and kind not in names:
            raise PrefenvsError(f"--{strange[0]} goes with --oracle {kind}, not with {oracle!r}: leave it out")
    return {kind: options for kind, options in MODELS.items() if kind in names}


def check_true_reward(given: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for an option about labels where the true reward is learned from."""
    models = {flag for options in MODELS.values() for flag in flags_of(options)}
    for flag in given:
        about = flag in models or flag in LABELS or flag.startswith("reward.")
        if about or (flag == "oracle" and given[flag] != "oracle"):
            raise PrefenvsError(f"--{flag} is about labels, of which --true-reward needs none: leave it out")
        if flag in ("store", "wait"):
            raise PrefenvsError(f"--{flag} goes with --oracle human or vlm, not with --true-reward: leave it out")


def make_oracle(options: RaterOptions, groups: Mapping[str, Any], task: Task, seed: int) -> Oracle:
    """Return the rater of the name given, or two as one; raises PrefenvsError for options of another one."""
    hybrid: HybridOptions = groups.get("hybrid", HybridOptions())
    names = hybrid.raters if options.oracle == "hybrid" else (options.oracle,)
    if (options.store is not None or options.wait) and not {"human", "ratings", "vlm"} & {*names}:
        raise PrefenvsError(f"--store and --wait go with --oracle human or vlm, not with {options.oracle!r}")
    regret = any(name.split("-")[0] == "regret" for name in names)
    if options.regret_form != "advantage" and not regret:
        raise PrefenvsError(f"--regret-form goes with --oracle regret, not with {options.oracle!r}")
    if options.expert is not None and not regret:
        raise PrefenvsError(f"--expert goes with --oracle regret, not with {options.oracle!r}")
    if options.oracle == "hybrid":
        return hybrid.make(lambda name, own: _make_one(options, groups, task, name, own), seed)
    return _make_one(options, groups, task, options.oracle, seed)


def _make_one(options: RaterOptions, groups: Mapping[str, Any], task: Task, name: str, seed: int) -> Oracle:
    """Return the people behind a store, a model, or the simulated teacher of that name."""
    from prefenvs.cli.critic import make_regret_oracle
    from prefenvs.oracles import CLIPOracle, HumanOracle, PartialReturnOracle, RatingOracle

    kind, _, teacher = name.partition("-")
    if name == "vlm":
        vlm: VLMOptions = groups.get("vlm", VLMOptions())
        vlm.check()
        return vlm.make(task, None if options.store is None else Store(options.store), wait=options.wait)
    people: dict[str, type[HumanOracle]] = {"human": HumanOracle, "ratings": RatingOracle}
    if name in people:
        if options.store is None:
            raise PrefenvsError(f"--oracle {name} needs the store that people label: --store labels.sqlite")
        return people[name](Store(options.store), wait=options.wait)
    if kind == "clip":
        return CLIPOracle(groups.get("clip", ClipOptions()).make(task), teacher or "oracle", seed)
    if kind == "regret":
        return make_regret_oracle(task, options.expert, options.regret_form, teacher or "oracle", seed)
    return PartialReturnOracle(name, seed=seed)


def attach_rater(agent: Any, options: RaterOptions, run: Run, stack: contextlib.ExitStack) -> None:
    """Let what an agent's rater is asked and answers go into the run's store."""
    from prefenvs.oracles import HumanOracle, HybridOracle

    rater = agent.oracle
    if rater is None:
        return
    store = stack.enter_context(Store(run.path("preferences.sqlite")))
    for one in (rater.cheap, rater.costly) if isinstance(rater, HybridOracle) else (rater,):
        _connect(one, options, store, run, stack)
    if isinstance(rater, HybridOracle):
        rater.watch(lambda: agent.reward_model)
    # What people are asked and answer is in a store already.
    if not isinstance(rater, HumanOracle):
        agent.oracle = Recorded(rater, store)


def _connect(rater: Oracle, options: RaterOptions, store: Store, run: Run, stack: contextlib.ExitStack) -> None:
    """Give a rater that needs them the run's store and the run's name, which its questions go under."""
    from prefenvs.oracles import HumanOracle, VLMOracle

    if isinstance(rater, VLMOracle):
        rater.store, rater.run = rater.store or store, run.folder.name
        # Calls under way when training ends have been paid for, and are written down.
        stack.enter_context(rater)
    if isinstance(rater, HumanOracle):
        rater.run = run.folder.name
        kind = " --kind rating" if options.oracle == "ratings" else ""
        page = f"prefenvs label --store {options.store}{kind}"
        print(f"questions go to {options.store}: label with `{page}`", flush=True)
