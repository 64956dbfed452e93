"""The raters of `prefenvs train` online: which flags they have, and how they are tied to a run."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefenvs.cli.raters import ONLINE, check_flags, rater_on, rater_options
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run

if TYPE_CHECKING:
    from prefenvs.preferences import Oracle
    from prefenvs.store import Store

LABELS = (
    *("labels", "per-session", "interact", "segment-length", "selector", "schedule", "lists", "list-questions"),
    *("unlabelled", "surf", "rune", "bonus", "bonus-decay", "rime", "reed", "cer", "aggregate", "std-weight"),
    *("epsilon", "draw-every", "reset-share", "reset-until"),
)
"""Flags that have no effect where no rater is asked."""
EXPLORATION = (
    *("unsupervised-steps", "neighbour", "entropy-states", "entropy-normalised"),
    *("unsupervised-epochs", "reset-updates"),
)
"""Flags that have no effect where nothing is explored before the true reward."""


@dataclass(frozen=True)
class RaterOptions:
    """The rater."""

    oracle: str = "oracle"
    """oracle, mistake, noisy, skip, myopic, equal or crowd-... (simulated), regret, coin, human, ratings, rankings,
    vlm, clip, hybrid (two of these), or module:NAME, a function or an oracle of your own.

    With options, NAME:key=value,key=value; the rater's options are flags, too, which --help shows beside its name.
    regret-noisy, clip-mistake, ...: with a simulated teacher's irrationalities.
    """


def rater_groups(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the group of options about raters of a command line: who answers, and that rater's own.

    Raises PrefenvsError for an unknown rater, and for a flag of one that is not asked.
    """
    check_flags(given)
    spec, parts = rater_on(given)
    kind: Any = type("RaterOptions", (rater_options(spec, **parts), RaterOptions), {"__doc__": RaterOptions.__doc__})
    return {"rater": dataclass(frozen=True)(kind)()}


def check_no_rater(given: Mapping[str, str], control: str) -> None:
    """Raise a PrefenvsError for an option about labels where nobody is asked; control: the flag that says so."""
    check_flags(given, ONLINE, control)
    for flag in given:
        about = flag in LABELS or flag.startswith(("reward.", "value-resets.")) or flag == "reward-model"
        if (about and given[flag] != "false") or (flag == "oracle" and given[flag] != "oracle"):
            raise PrefenvsError(f"--{flag} is about labels, of which {control} needs none: leave it out")
        if flag in EXPLORATION and control == "--true-reward" and given.get("explore-first", "false") == "false":
            raise PrefenvsError(f"--{flag} is about exploration, which {control} begins without: leave it out")


def attach_rater(agent: Any, run: Run, stack: contextlib.ExitStack, film: bool = False) -> None:
    """Let what an agent's rater is asked and answers go into the run's store.

    film: keep what the environments draw meanwhile, in the run's recordings/.
    """
    from prefenvs.oracles import HumanOracle, HybridOracle
    from prefenvs.store import Recorded, Store

    rater = agent.oracle
    if rater is None:
        return
    if film:
        agent.recorder.film(run.path("recordings"))
    store = stack.enter_context(Store(run.path("preferences.sqlite")))
    for one in (rater.cheap, rater.costly) if isinstance(rater, HybridOracle) else (rater,):
        _connect(one, store, run, stack)
    if isinstance(rater, HybridOracle):
        rater.watch(lambda: agent.reward_model)
    # What people are asked and answer is in a store already.
    if not isinstance(rater, HumanOracle):
        agent.oracle = Recorded(rater, store)


def _connect(rater: Oracle, store: Store, run: Run, stack: contextlib.ExitStack) -> None:
    """Give a rater that needs them the run's store and the run's name, which its questions go under."""
    from prefenvs.oracles import HumanOracle, RankingOracle, RatingOracle, VLMOracle

    if isinstance(rater, VLMOracle):
        rater.store, rater.run = rater.store or store, run.folder.name
        # Calls under way when training ends have been paid for, and are written down.
        stack.enter_context(rater)
    if isinstance(rater, HumanOracle):
        rater.run = run.folder.name
        kinds = {RatingOracle: " --kind rating", RankingOracle: " --kind ranking"}
        page = f"prefenvs label --store {shlex.quote(rater.store.location)}{kinds.get(type(rater), '')}"
        print(f"questions go to {rater.store.location}: label with `{page}`", flush=True)
