"""How good must a rater be, and how many answers does it take: label lift by accuracy, ties, teachers and crowds."""

from __future__ import annotations

from prefenvs.bench.cells import Options
from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites.published import TEACHERS
from prefenvs.bench.suites.settings import (
    CONTROLS,
    HOUR,
    IQL_SMALL,
    KEPT,
    MANIPULATION,
    RUNNING,
    WALKING,
    WEAK,
    mixed_data,
)

ACCURACIES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
TIES = (0.2, 0.5, 0.8)
CROWDS = ("crowd-mujoco", "crowd-adroit", "crowd-antmaze")
RATERS_ASKED = (
    *(f"mistake:mistake={1 - accuracy:.1f}" for accuracy in ACCURACIES),
    *(f"equal:equal={share},scale=quantile" for share in TIES),
    *CROWDS,
)
SEEDS = (0, 1, 2)


def _online(task: str, labels: int, options: Options, learned: Options, priority: int) -> Grid:
    """Return the cells of one task; learned: settings of the learned reward."""
    return Grid(
        ("random", "pebble", *CONTROLS),
        (task,),
        RATERS_ASKED,
        (labels,),
        SEEDS,
        options,
        # As in the suite `demo`: fits to wrong answers never stop before the last pass.
        method_options=dict.fromkeys(("pebble", "pebble-coin"), {"reward.epochs": 15} | dict(learned)),
        limits=HOUR,
        priority=priority,
    )


def _offline(task: str, priority: int) -> Grid:
    return Grid(
        ("random", "iql", "iql-constant", "iql-true-reward"),
        (task,),
        RATERS_ASKED,
        (500,),
        SEEDS,
        IQL_SMALL,
        dataset="{data}/episodes",
        data=mixed_data(task, WEAK),
        limits=HOUR,
        priority=priority,
    )


def _shuffled(task: str, priority: int) -> Grid:
    return Grid(
        ("iql-shuffled",),
        (task,),
        (RATERS_ASKED[0],),
        (500,),
        SEEDS,
        IQL_SMALL,
        dataset="{data}/episodes",
        data=mixed_data(task, WEAK),
        limits=HOUR,
        priority=priority,
    )


OFFLINE_TASKS = ("metaworld-drawer-open-v3", "metaworld-button-press-v3")
RATERS = Suite(
    "raters",
    "How good must a rater be? Label lift against the share of right answers, the share of ties, and simulated crowds.",
    (
        *(part(task, number) for number, task in enumerate(OFFLINE_TASKS) for part in (_offline, _shuffled)),
        _online("HalfCheetah-v5", 700, RUNNING, {}, 2),
        _online("metaworld-window-open-v3@2", 2_000, MANIPULATION, KEPT, 3),
    ),
    reduced="15,000 to 50,000 environment steps, 6,000 gradient steps, networks of 2x128, three seeds.",
)

HALF_AN_HOUR = Suite(
    "half-an-hour",
    "As many answers as a person gives in half an hour: B-Pref's six teachers and simulated crowds.",
    tuple(
        Grid(
            ("random", "pebble", *CONTROLS),
            (task,),
            (*TEACHERS, *CROWDS),
            (100, 200),
            SEEDS,
            # 200 answers last to step 30,000 and more.
            options | {"per_session": 10, "interact": 1_500},
            method_options=dict.fromkeys(("pebble", "pebble-coin"), learned),
            limits=HOUR,
            priority=priority,
        )
        for priority, (task, options, learned) in enumerate(
            (("metaworld-window-open-v3@2", MANIPULATION, KEPT), ("dmc-walker-walk-v0", WALKING, {}))
        )
    ),
    reduced="50,000 environment steps, networks of 2x128, three seeds.",
)
