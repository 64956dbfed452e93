"""Suites after publications, at their sizes: B-Pref, CPL, D4RL, AntMaze and Kitchen, RL-VLM-F."""

from __future__ import annotations

from dataclasses import replace

from prefenvs.bench.cells import Limits
from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites.settings import CONTROLS, OFFLINE_CONTROLS, REGRET, TEN, mixed_data
from prefenvs.datasets.d4rl.entries import find_d4rl
from prefenvs.tasks import find_task

TEACHERS = ("oracle", "mistake", "noisy", "skip", "myopic", "equal")
"""B-Pref's six."""


def _bpref(task: str, labels: tuple[int, ...]) -> Grid:
    return Grid(
        methods=("random", "pebble", *CONTROLS, "prefppo", "pebble-true-reward", "prefppo-true-reward"),
        tasks=(task,),
        oracles=TEACHERS,
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

BPREF_SMALL = Suite(
    "bpref-small",
    "B-Pref's walker and quadruped at their published steps, sessions and schedule, with small networks.",
    tuple(
        Grid(
            methods=("random", "pebble", "pebble-true-reward", *CONTROLS),
            tasks=(task,),
            labels=(labels,),
            options={"preset": "small", "hidden": [256, 256]},
            limits=Limits(seconds=24 * 3_600, memory_gb=8),
            priority=priority,
        )
        for priority, (task, labels) in enumerate((("dmc-walker-walk-v0", 500), ("dmc-quadruped-walk-v0", 1_000)))
    ),
    reduced="networks of 2x256 instead of 2x1024, rewards of 3x128, batches of 256, three seeds.",
    published="bpref",
)

CPL_TASKS = ("bin-picking", "button-press", "door-open", "drawer-open", "plate-slide", "sweep-into")
DAY = Limits(seconds=24 * 3_600, memory_gb=32)


def _cpl(task: str) -> Grid:
    """CPL's comparison with data at hand: its own come from a half-trained SAC, which takes a million steps a task."""
    return Grid(
        methods=("random", "bc", "bc-10", "cpl", "iql", *OFFLINE_CONTROLS, "iql-true-reward"),
        tasks=(task,),
        oracles=(REGRET,),
        labels=(10_000,),
        seeds=(0, 1, 2, 3),
        options={"segment_length": 64, "regret_form": "visited", "evaluate_every": 5_000, "episodes": 25},
        dataset="{data}/episodes",
        data=mixed_data(task, ("scripted:0.3=500", "scripted:0.5:0.7=1000", "random=1000"), steps=100_000),
        limits=DAY,
    )


CPL = Suite(
    "cpl",
    "CPL's six Meta-World tasks with 10,000 comparisons by CPL's form of regret (Hejna et al. 2024), on scripted data.",
    tuple(_cpl(f"metaworld-{task}-v3") for task in CPL_TASKS),
    published="cpl",
)

CPL_NIGHT = Suite(
    "cpl-night",
    "CPL on one task with its 2,500 episodes and 20,000 segments, at a tenth of its steps.",
    (
        replace(
            _cpl("metaworld-drawer-open-v3"),
            methods=("random", "bc", "cpl", "cpl-shuffled", "iql-true-reward"),
            seeds=(0, 1),
            options={**_cpl("").options, "steps": 50_000, "evaluate_every": 10_000},
            method_options={"iql-true-reward": {"preset": "small", "steps": 20_000}},
        ),
    ),
    reduced="50,000 gradient steps instead of 500,000, two seeds; the true reward's agent has the preset small.",
    published="cpl",
)

LOCOMOTION = {"halfcheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
HANDS = {hand: f"d4rl-{hand}-v1" for hand in ("pen", "door", "hammer", "relocate")}
D4RL_DATA = {
    **{
        f"d4rl/{body}-{quality}-v2": task
        for body, task in LOCOMOTION.items()
        for quality in ("medium", "medium-replay", "medium-expert")
    },
    **{f"d4rl/{hand}-{who}-v1": task for hand, task in HANDS.items() for who in ("human", "cloned")},
}
"""Data sets of D4RL whose observations are those of a maintained task."""
MAZES = {
    "minari/D4RL/antmaze/umaze-v1": "AntMaze_UMaze-v5",
    "minari/D4RL/antmaze/umaze-diverse-v1": "AntMaze_UMaze-v5",
    "minari/D4RL/antmaze/medium-play-v1": "AntMaze_Medium-v5",
    "minari/D4RL/antmaze/medium-diverse-v1": "AntMaze_Medium-v5",
    "minari/D4RL/antmaze/large-play-v1": "AntMaze_Large-v5",
    "minari/D4RL/antmaze/large-diverse-v1": "AntMaze_Large-v5",
    **{f"minari/D4RL/kitchen/{part}-v2": "FrankaKitchen-v1" for part in ("complete", "partial", "mixed")},
}
"""AntMaze and Kitchen as Minari made them anew: D4RL's files show other observations than the maintained tasks."""


def _fixed(dataset: str, task: str, episodes: int) -> Grid:
    # D4RL's pen is shorter than the task: learners know by the data, random actions have to be told.
    horizon = find_d4rl(dataset).horizon if dataset.startswith("d4rl/") else None
    cut = horizon is not None and horizon < find_task(task).horizon
    return Grid(
        methods=("random", "bc", "cpl", "oppo", "ipl", "dppo", "iql", *OFFLINE_CONTROLS, "iql-true-reward"),
        tasks=(task,),
        labels=(500,),
        seeds=(0, 1, 2, 3, 4),
        options={"evaluate_every": 50_000, "episodes": episodes},
        method_options={"random": {"horizon": horizon}} if cut and horizon else {},
        dataset=dataset,
        limits=DAY,
    )


D4RL = Suite(
    "d4rl",
    "D4RL's locomotion and Adroit by its normalised score, 500 scripted labels. Files come from D4RL's own addresses.",
    tuple(_fixed(dataset, task, 10) for dataset, task in D4RL_DATA.items()),
    measure="d4rl",
    published="d4rl",
)
MAZE = Suite(
    "d4rl-maze",
    "AntMaze and Kitchen in Minari's data sets, which D4RL's files have no maintained tasks for.",
    tuple(_fixed(dataset, task, 100 if "antmaze" in dataset else 10) for dataset, task in MAZES.items()),
)

VLM = Suite(
    "vlm",
    "A vision-language model as rater, against simulated ones (tasks after RL-VLM-F, Wang et al. 2024).",
    tuple(
        Grid(
            methods=("random", "pebble", *CONTROLS, "pebble-true-reward"),
            tasks=(task,),
            oracles=("vlm", "oracle", "mistake"),
            labels=(labels,),
            seeds=(0, 1, 2, 3, 4),
            options={"per_session": 40, "selector": "uniform"},
            limits=DAY,
        )
        for task, labels in (
            ("metaworld-drawer-open-v3", 2_000),
            ("metaworld-soccer-v3", 2_000),
            ("metaworld-sweep-into-v3", 2_000),
        )
    ),
)
