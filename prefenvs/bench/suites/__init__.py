"""The named suites."""

from __future__ import annotations

from prefenvs.bench.cells import Limits, Option, Options
from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites.ablation import ABLATION, HACKING
from prefenvs.bench.suites.cpu import CPU, GUARD, OFFLINE
from prefenvs.bench.suites.people import PEOPLE
from prefenvs.bench.suites.published import BPREF, BPREF_SMALL, CPL, CPL_NIGHT, D4RL, MAZE, VLM
from prefenvs.bench.suites.raters import HALF_AN_HOUR, RATERS
from prefenvs.bench.suites.settings import CONTROLS, HOUR, KEPT, MANIPULATION, REACHER, RUNNING, TEN
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import entry_points, load_object

SMOKE = Suite(
    "smoke",
    "Every online learner, its upper bound and the ensemble options on one small task: does the machinery work?",
    (
        Grid(
            methods=("random", "pebble", *CONTROLS, "pebble-min", "pebble-mean-std", "pebble-true-reward"),
            tasks=("Reacher-v5",),
            labels=(100,),
            seeds=(0, 1),
            options=REACHER | {"steps": 4_000, "per_session": 20, "evaluate_every": 1_000, "episodes": 5},
            limits=HOUR,
        ),
    ),
    reduced="4,000 steps, 100 labels, two seeds: nothing is learned that would be worth comparing.",
)


DEMO = Suite(
    "demo",
    "A running robot: labels against coin flips and the true reward, with the same steps, seeds and exploration.",
    (
        Grid(
            methods=("pebble", *CONTROLS),
            tasks=("HalfCheetah-v5",),
            labels=(700,),
            seeds=TEN,
            options=RUNNING,
            # Coin flips are never predicted, so that their fits never stop before the last pass.
            method_options={name: {"reward.epochs": 15} for name in ("pebble", "pebble-coin")},
            limits=HOUR,
        ),
    ),
    reduced="15,000 environment steps, networks of 2x128.",
)


NONE: Options = {}


def _learning(
    task: str,
    labels: int,
    steps: int,
    options: Options = NONE,
    learned: Options = NONE,
) -> Grid:
    """Return the cells of one task; learned: settings of the learned reward, which the other controls do not have."""
    run: dict[str, Option] = {"preset": "reliable", "steps": steps, "evaluate_every": steps // 10, "episodes": 10}
    return Grid(
        methods=("random", "pebble", *CONTROLS),
        tasks=(task,),
        labels=(labels,),
        seeds=(0, 1, 2, 3, 4),
        options=run | dict(options),
        method_options=dict.fromkeys(("pebble", "pebble-coin"), learned),
        limits=Limits(seconds=3 * 3_600, memory_gb=6),
    )


REACHING: dict[str, Option] = {"segment_length": 10, "unsupervised_steps": 1_500}
# Effort costs up to 2 a step and distance 0.4, so that tanh would flatten what the distance says.
REACHING_REWARD: dict[str, Option] = {"reward.output": "identity", "reward.learning_rate": 1e-3}
# Its speed keeps rising, and questions about all episodes compare what the policy has long left behind.
RUN: dict[str, Option] = {"interact": 800, "unsupervised_steps": 2_250, "selector": "near-on-policy"}
LEARNING = Suite(
    "learning",
    "Do labels teach? The reliable preset on control and manipulation, beside a coin, no labels and the true reward.",
    (
        _learning("Reacher-v5", 500, 15_000, REACHING, REACHING_REWARD),
        _learning("dmc-walker-walk-v0", 500, 100_000, {"interact": 1_500}),
        _learning("dmc-cheetah-run-v0@4", 1_000, 25_000, RUN),
        _learning("metaworld-faucet-close-v3@2", 2_000, 50_000, MANIPULATION, KEPT),
        _learning("metaworld-faucet-open-v3@2", 2_000, 50_000, MANIPULATION, KEPT),
        _learning("metaworld-plate-slide-v3@2", 2_000, 50_000, MANIPULATION, KEPT),
        _learning("metaworld-window-close-v3@2", 2_000, 50_000, MANIPULATION, KEPT),
        _learning("metaworld-window-open-v3@2", 2_000, 50_000, MANIPULATION, KEPT),
    ),
    reduced="15,000 to 100,000 environment steps, networks of 2x128, five seeds.",
)

SUITES = (
    *(DEMO, LEARNING, ABLATION, HACKING, SMOKE, CPU, OFFLINE, PEOPLE, RATERS, HALF_AN_HOUR),
    *(BPREF, BPREF_SMALL, CPL, CPL_NIGHT, D4RL, MAZE, VLM, GUARD),
)


def list_suites() -> list[Suite]:
    """Return our suites and those that installed packages offer under `prefenvs.suites`."""
    return [*SUITES, *entry_points("prefenvs.suites", Suite)]


def find_suite(name: str) -> Suite:
    """Return a suite by its name, or one of your own by `module:NAME`; raises PrefenvsError for an unknown one."""
    if ":" in name:
        return load_object(name, Suite)
    suites = {suite.name: suite for suite in list_suites()}
    if name not in suites:
        raise PrefenvsError(
            f"unknown suite {name!r}.{near_matches(name, suites)} There are {', '.join(suites)}; "
            "one of your own is module:NAME."
        )
    return suites[name]
