"""What two processors do in an evening: suite `cpu`, its offline part, and a few runs by which the code is guarded."""

from __future__ import annotations

from dataclasses import replace

from prefenvs.bench.cells import Option
from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites.settings import (
    CONTROLS,
    HOUR,
    IQL_SMALL,
    KEPT,
    MANIPULATION,
    REACHER,
    REGRET,
    RUNNING,
    WALKING,
    WEAK,
    mixed_data,
)

ONLINE: dict[str, tuple[int, dict[str, Option]]] = {
    "HalfCheetah-v5": (700, RUNNING),
    "metaworld-window-open-v3@2": (2_000, MANIPULATION),
    "Reacher-v5": (500, RUNNING | {"segment_length": 10, "unsupervised_steps": 1_500}),
    "dmc-walker-walk-v0": (500, WALKING),
    "metaworld-plate-slide-v3@2": (2_000, MANIPULATION),
    "metaworld-window-close-v3@2": (2_000, MANIPULATION),
}
"""Labels and options by task, the first ones first where time is short."""
OFFLINE_TASKS = tuple(
    f"metaworld-{task}-v3" for task in ("drawer-open", "button-press", "door-open", "plate-slide", "hammer")
)
"""Others than online, so that a column of a table is one setting."""
OTHERS = ("pebble-published", "pebble-surf", "pebble-rune")
LEARNED = ("pebble", "pebble-coin", "pebble-surf", "pebble-rune")
PROXIMAL: dict[str, Option] = {"per_session": 100, "envs": 8, "unsupervised_steps": 1_500}
"""A session comes once a rollout, so that rollouts have to be shorter than published, and sessions larger."""


def _online(task: str, methods: tuple[str, ...], priority: int, changes: dict[str, Option] | None = None) -> Grid:
    labels, options = ONLINE[task]
    return Grid(
        methods,
        (task,),
        labels=(labels,),
        options=options | (changes or {}),
        method_options=dict.fromkeys(LEARNED, KEPT if options is MANIPULATION else {})
        | {"pebble-published": {"preset": "small"}},
        limits=HOUR,
        priority=priority,
    )


def _offline(task: str, methods: tuple[str, ...], oracles: tuple[str, ...], priority: int) -> Grid:
    return Grid(
        methods,
        (task,),
        oracles,
        labels=(1_000,),
        options=IQL_SMALL,
        dataset="{data}/episodes",
        data=mixed_data(task, WEAK, steps=20_000, measured=True),
        limits=HOUR,
        priority=priority,
    )


def _seeds(grids: list[Grid]) -> tuple[Grid, ...]:
    """Two seeds of everything, the most important first, then three more."""
    more = [
        replace(grid, methods=grid.methods[grid.methods[0] == "random" :], seeds=(2, 3, 4), priority=grid.priority + 2)
        for grid in grids
    ]
    return (*(replace(grid, seeds=(0, 1)) for grid in grids), *more)


BOTH = ("oracle", REGRET)
CONTROLLED = (
    *(_offline(task, ("iql", "cpl", "iql-shuffled", "cpl-shuffled"), BOTH, 0) for task in OFFLINE_TASKS),
    *(_offline(task, ("random", "bc", "iql-constant", "iql-true-reward"), BOTH, 0) for task in OFFLINE_TASKS),
)
OFFLINE = Suite(
    "offline",
    "Do labels teach offline? IQL and CPL on five data sets, half of each random, from labels by partial return "
    "and by regret, beside shuffled labels, a constant reward, cloning and the true reward. A part of the suite `cpu`.",
    tuple(
        replace(grid, seeds=(0, 1, 2, 3, 4), priority=number % len(OFFLINE_TASKS))
        for number, grid in enumerate(CONTROLLED)
    ),
    reduced="100 episodes, 6,000 gradient steps instead of 100,000 to a million, networks of 2x128 or 2x256.",
)
CPU = Suite(
    "cpu",
    "What two processors do in an evening: PEBBLE with its controls and variants, learners with PPO, and learners from "
    "fixed data, each from labels by partial return and by regret.",
    _seeds(
        [
            *(_online(task, ("random", "pebble", *CONTROLS), 0) for task in ONLINE),
            *CONTROLLED,
            *(_online(task, OTHERS, 1) for task in ONLINE),
            *(
                _online(task, ("prefppo", "prefppo-true-reward", "imitation-pc"), 1, PROXIMAL)
                for task in ("HalfCheetah-v5", "metaworld-window-open-v3@2")
            ),
            *(_offline(task, ("bc-10", "ipl", "dppo", "oppo", "iql-transformer"), BOTH, 1) for task in OFFLINE_TASKS),
        ]
    ),
    reduced=(
        "15,000 to 50,000 environment steps instead of 500,000 to a million, 6,000 gradient steps instead of 100,000 "
        "to a million, networks of 2x128 or 2x256."
    ),
)


def _guarded(methods: tuple[str, ...], oracle: str) -> Grid:
    task = "metaworld-drawer-open-v3"
    data = mixed_data(task, ("scripted:0.3=10", "scripted:0.5:0.85=90"))
    return Grid(
        methods,
        (task,),
        (oracle,),
        labels=(1_000,),
        seeds=(0, 1),
        options=IQL_SMALL,
        dataset="{data}/episodes",
        data=data,
        limits=HOUR,
    )


GUARD = Suite(
    "guard",
    "A few small runs that tell whether a change made a learner worse.",
    (
        Grid(
            ("random", "pebble", "pebble-true-reward"),
            ("Reacher-v5",),
            labels=(500,),
            seeds=(0, 1),
            options=REACHER,
            limits=HOUR,
        ),
        _guarded(("random", "bc", "bc-10", "cpl", "iql-true-reward"), REGRET),
        _guarded(("iql",), "oracle"),
    ),
    reduced="15,000 environment steps, 6,000 gradient steps, two seeds.",
)
