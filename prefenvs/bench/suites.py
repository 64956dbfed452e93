"""The named suites."""

from __future__ import annotations

from prefenvs.bench.suite import Grid, Limits, Option, Suite
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.loading import entry_points, load_object

TEACHERS = ("oracle", "mistake", "noisy", "skip", "myopic", "equal")
"""B-Pref's six."""
TEN = tuple(range(10))
"""As many seeds as B-Pref took; theirs go beyond 32767, which an evaluation's seed cannot."""

PEBBLE_SMALL: dict[str, Option] = {
    "preset": "small",
    "selector": "uniform",
    "interact": 1_000,
    "unsupervised_steps": 1_500,
    "evaluate_every": 5_000,
}
DOOR_CLOSE = PEBBLE_SMALL | {"steps": 40_000, "per_session": 60, "segment_length": 50}
REACHER = PEBBLE_SMALL | {"steps": 15_000, "per_session": 40, "segment_length": 10}
HOUR = Limits(seconds=3_600, memory_gb=6)

SMOKE = Suite(
    "smoke",
    "Every online learner, its upper bound and the ensemble options on one small task: does the machinery work?",
    (
        Grid(
            methods=("random", "pebble", "pebble-min", "pebble-mean-std", "pebble-true-reward"),
            tasks=("Reacher-v5",),
            labels=(100,),
            seeds=(0, 1),
            options=REACHER | {"steps": 4_000, "per_session": 20, "evaluate_every": 1_000, "episodes": 5},
            limits=HOUR,
        ),
    ),
    reduced="4,000 steps, 100 labels, two seeds: nothing is learned that would be worth comparing.",
)


def _bpref(task: str, labels: tuple[int, ...], teachers: tuple[str, ...] = TEACHERS) -> Grid:
    return Grid(
        methods=("random", "pebble", "prefppo", "pebble-true-reward", "prefppo-true-reward"),
        tasks=(task,),
        oracles=teachers,
        labels=labels,
        seeds=TEN,
    )


BPREF = Suite(
    "bpref",
    "B-Pref's tasks, budgets and six teachers (Lee et al. 2021): PEBBLE and PrefPPO.",
    (
        _bpref("dmc-walker-walk-v0", (500, 1_000)),
        _bpref("dmc-quadruped-walk-v0", (1_000, 2_000)),
        _bpref("metaworld-button-press-v3", (10_000, 20_000)),
        _bpref("metaworld-sweep-into-v3", (10_000, 20_000)),
    ),
    published="bpref",
)

SUITES = (SMOKE, BPREF)


def list_suites() -> list[Suite]:
    """Return our suites and those that installed packages offer under `prefenvs.suites`."""
    return [*SUITES, *entry_points("prefenvs.suites", Suite)]


def find_suite(name: str) -> Suite:
    """Return a suite by its name, or one of your own by `module:NAME`."""
    if ":" in name:
        return load_object(name, Suite)
    suites = {suite.name: suite for suite in list_suites()}
    if name not in suites:
        raise PrefenvsError(
            f"unknown suite {name!r}.{near_matches(name, suites)} There are {', '.join(suites)}; "
            "one of your own is module:NAME."
        )
    return suites[name]
