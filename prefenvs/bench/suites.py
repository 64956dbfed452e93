"""The named suites."""

from __future__ import annotations

from prefenvs.bench.cells import Data, Limits, Option
from prefenvs.bench.suite import Grid, Suite
from prefenvs.datasets.d4rl.entries import find_d4rl
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.loading import entry_points, load_object
from prefenvs.tasks import find_task

TEACHERS = ("oracle", "mistake", "noisy", "skip", "myopic", "equal")
"""B-Pref's six."""
TEN = tuple(range(10))
"""As many seeds as B-Pref took; theirs go beyond 32767, which an evaluation's seed cannot."""

PEBBLE_SMALL: dict[str, Option] = {
    "preset": "small",
    "selector": "uniform",
    "interact": 1_000,
    "evaluate_every": 5_000,
}
DOOR_CLOSE = PEBBLE_SMALL | {
    "steps": 25_000,
    "per_session": 60,
    "segment_length": 50,
    "unsupervised_steps": 4_000,
}
"""Without thousands of steps of exploration hardly any segment shows a moving door, and most seeds never learn it."""
REACHER = PEBBLE_SMALL | {"steps": 15_000, "per_session": 40, "segment_length": 10, "unsupervised_steps": 1_500}
HOUR = Limits(seconds=3_600, memory_gb=6)
ENSEMBLES = ("pebble", "pebble-min", "pebble-mean-std")
CONTROLS = ("pebble-coin", "pebble-no-labels", "pebble-true-reward-explored")
OFFLINE_CONTROLS = ("cpl-shuffled", "iql-shuffled", "iql-constant")
"""What shows whether labels teach: the same steps, seeds and exploration without knowledge, and on the true reward."""
IQL_SMALL: dict[str, Option] = {
    "preset": "small",
    "normalise_observations": True,
    "steps": 6_000,
    "segment_length": 64,
    "regret_form": "visited",
    "evaluate_every": 3_000,
    "episodes": 20,
}
REGRET = "regret:{data}/expert"
"""Labels by the advantages of an agent that learned from the true rewards of the same data, made with them."""


def _mixed(task: str, mix: tuple[str, ...], steps: int = 8_000) -> Data:
    """Episodes of scripted policies with noise and of random actions, and an expert of them for labels by regret."""
    episodes = ("--task", task, "--dataset", "{data}/episodes", "--preset", "small", "--seed", "100")
    learning = (
        "--normalise-observations",
        "--steps",
        str(steps),
        "--evaluate-every",
        "1000000",
        "--no-progress",
    )
    return Data(
        task,
        (
            ("collect", task, "--mix", *mix, "--out", "{data}/episodes", "--format", "npz", "--no-progress"),
            ("train", "iql", "--true-reward", *episodes, *learning, "--folder", "{data}/expert"),
        ),
    )


def _offline(task: str, labels: int, seeds: tuple[int, ...], methods: tuple[str, ...], oracle: str = REGRET) -> Grid:
    return Grid(
        methods=methods,
        tasks=(task,),
        oracles=(oracle,),
        labels=(labels,),
        seeds=seeds,
        options=IQL_SMALL,
        dataset="{data}/episodes",
        data=_mixed(task, ("scripted:0.3=10", "scripted:0.5:0.85=90")),
        limits=HOUR,
    )


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


def _bpref(task: str, labels: tuple[int, ...], teachers: tuple[str, ...] = TEACHERS) -> Grid:
    return Grid(
        methods=("random", "pebble", *CONTROLS, "prefppo", "pebble-true-reward", "prefppo-true-reward"),
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

CLONERS = ("bc", "bc-10", "cpl")
OFFLINE_TASKS = tuple(
    f"metaworld-{task}-v3" for task in ("button-press", "drawer-open", "faucet-open", "handle-press", "window-open")
)


def _online(task: str, labels: int, options: dict[str, Option], *more: str) -> Grid:
    methods = ("random", *ENSEMBLES, *CONTROLS, "pebble-true-reward", "imitation-pc", *more)
    return Grid(methods, (task,), labels=(labels,), options=options, limits=HOUR)


PROXIMAL = Grid(
    ("prefppo", "prefppo-true-reward"),
    ("metaworld-door-close-v3",),
    labels=(1_000,),
    # A session comes once a rollout, so that rollouts have to be shorter than published, and sessions larger.
    options=DOOR_CLOSE | {"unsupervised_steps": 1_500, "per_session": 100, "envs": 8},
    limits=HOUR,
)
"""Not on Reacher: with rollouts as short as this PPO stays near random actions there, on the true reward too."""
CPU = Suite(
    "cpu",
    "What two processors do in a few hours: PEBBLE with three readings of its ensemble, learners with PPO, and "
    "learners from fixed data.",
    (
        _online("metaworld-door-close-v3", 1_000, DOOR_CLOSE),
        PROXIMAL,
        _online("Reacher-v5", 500, REACHER, "prefppo-true-reward"),
        # All learners from regret labels, so that they can be compared; IQL from partial return besides.
        *(
            _offline(task, 1_000, (0, 1, 2), ("random", *CLONERS, "iql", *OFFLINE_CONTROLS, "iql-true-reward"))
            for task in OFFLINE_TASKS
        ),
        *(_offline(task, 1_000, (0, 1, 2), ("iql",), "oracle") for task in OFFLINE_TASKS),
    ),
    reduced=(
        "15,000 to 25,000 environment steps instead of 500,000 to a million, 6,000 gradient steps instead of 500,000, "
        "networks of 2x128 or 2x256, three seeds."
    ),
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
        data=_mixed(task, ("scripted:0.3=500", "scripted:0.5:0.7=1000", "random=1000"), steps=100_000),
        limits=DAY,
    )


CPL = Suite(
    "cpl",
    "CPL's six Meta-World tasks with 10,000 comparisons by CPL's form of regret (Hejna et al. 2024), on scripted data.",
    tuple(_cpl(f"metaworld-{task}-v3") for task in CPL_TASKS),
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
        _offline("metaworld-drawer-open-v3", 1_000, (0, 1), ("random", *CLONERS, "iql-true-reward")),
        _offline("metaworld-drawer-open-v3", 1_000, (0, 1), ("iql",), "oracle"),
    ),
    reduced="Cells of the suite cpu, two seeds.",
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
            options={
                "preset": "reliable",
                "steps": 15_000,
                "per_session": 50,
                "interact": 600,
                "segment_length": 25,
                "unsupervised_steps": 2_000,
                "evaluate_every": 3_000,
                "episodes": 5,
            },
            # Coin flips are never predicted, so that their fits never stop before the last pass.
            method_options={name: {"reward.epochs": 15} for name in ("pebble", "pebble-coin")},
            limits=HOUR,
        ),
    ),
    reduced="15,000 environment steps, networks of 2x128.",
)


def _learning(task: str, labels: int, steps: int, **options: Option) -> Grid:
    run: dict[str, Option] = {"preset": "reliable", "steps": steps, "evaluate_every": steps // 10, "episodes": 10}
    return Grid(
        methods=("random", "pebble", *CONTROLS),
        tasks=(task,),
        labels=(labels,),
        seeds=(0, 1, 2, 3, 4),
        options=run | options,
        limits=Limits(seconds=3 * 3_600, memory_gb=6),
    )


MANIPULATION: dict[str, Option] = {
    "per_session": 50,
    "interact": 1_000,
    "segment_length": 25,
    "unsupervised_steps": 4_000,
}
LEARNING = Suite(
    "learning",
    "Do labels teach? The reliable preset on control and manipulation, beside a coin, no labels and the true reward.",
    (
        _learning("Reacher-v5", 500, 15_000, segment_length=10, unsupervised_steps=1_500),
        _learning("dmc-walker-walk-v0", 500, 100_000),
        _learning("dmc-cheetah-run-v0", 1_000, 100_000),
        _learning("metaworld-faucet-open-v3", 1_000, 30_000, **MANIPULATION),
        _learning("metaworld-handle-press-v3", 2_000, 60_000, **MANIPULATION),
        _learning("metaworld-window-open-v3", 2_000, 60_000, **MANIPULATION),
    ),
    reduced="15,000 to 100,000 environment steps, networks of 2x128, five seeds.",
)

SUITES = (DEMO, LEARNING, SMOKE, CPU, BPREF, CPL, D4RL, MAZE, VLM, GUARD)


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
