"""Methods, suites and a task that are not prefenvs's own, as a user writes them."""

import sys
from dataclasses import replace

from prefenvs.bench import Data, Grid, Limits, Method, Suite
from prefenvs.tasks import Task, find_task


def make_method(kind: str, **settings: object) -> Method:
    return Method(f"own-{kind}", f"Own, {kind}", (kind,), program=(sys.executable, "own_program.py"), **settings)


STEADY = make_method("steady", upper="own_parts:UPPER")
UPPER = replace(make_method("steady", asks=False), name="own-upper", title="Own upper bound", upper="own-upper")
CRASH, CRASH_ONCE, REFUSE = make_method("crash"), make_method("crash-once"), make_method("refuse")
HANG, HOG, FULL, SILENT = make_method("hang"), make_method("hog"), make_method("full"), make_method("silent")
DAEMON = make_method("daemon")
PATIENT = make_method("patient", checkpoints=True)
ABSENT = replace(STEADY, program=("there-is-no-such-program",))
OFFLINE = make_method("steady", offline=True)

TASK: Task = replace(find_task("Pendulum-v1"), id="OwnPendulum-v0", horizon=20, segment_length=5)
SHORT = Limits(seconds=60, memory_gb=1.0)


def make_suite(*methods: str, **settings: object) -> Suite:
    settings = {"tasks": ("Pendulum-v1",), "seeds": (0, 1), "labels": (10,), "limits": SHORT, **settings}
    return Suite("own", "Whether the machinery works.", (Grid(methods=methods, **settings),))


GOOD = make_suite("own_parts:STEADY", "own_parts:UPPER")
MIXED = make_suite("own_parts:STEADY", "own_parts:CRASH", "own_parts:CRASH_ONCE")
WAITING = make_suite("own_parts:STEADY", "own_parts:PATIENT", seeds=(0,))
QUEUED = make_suite("own_parts:PATIENT", "own_parts:STEADY", seeds=(0,))
TWICE = Suite(
    "own",
    "Two definitions of one cell.",
    (
        Grid(("own_parts:STEADY",), ("Pendulum-v1",), options={"score": 1}),
        Grid(("own_parts:STEADY",), ("Pendulum-v1",), options={"score": 2}),
    ),
)
WITH_DATA = make_suite(
    "own_parts:OFFLINE",
    dataset="{data}/episodes",
    data=Data(
        "pendulum", (("collect", "Pendulum-v1", "--episodes", "2", "--out", "{data}/episodes", "--format", "npz"),)
    ),
)
BAD_DATA = make_suite("own_parts:OFFLINE", data=Data("none", (("collect", "NoSuchTask-v0", "--out", "{data}/x"),)))
TINY_OPTIONS = {
    "preset": "small",
    "steps": 260,
    "learning_starts": 40,
    "unsupervised_steps": 60,
    "per_session": 4,
    "interact": 60,
    "segment_length": 4,
    "evaluate_every": 100,
    "episodes": 2,
}
TINY = Suite(
    "tiny",
    "The real command line on a task of one's own.",
    (
        Grid(
            ("random", "pebble-min", "pebble-true-reward"),
            ("own_parts:TASK",),
            labels=(8,),
            seeds=(0,),
            options=TINY_OPTIONS,
            limits=Limits(300, 4),
        ),
    ),
    reduced="A few steps.",
)
SEEDS = Suite(
    "seeds",
    "Learners from fixed data whose seeds can train together.",
    (
        Grid(
            ("bc", "iql-true-reward"),
            ("Pendulum-v1",),
            seeds=(0, 1, 2),
            options={"preset": "small", "steps": 40, "evaluate_every": 20, "episodes": 1},
            dataset="{data}/episodes",
            data=WITH_DATA.grids[0].data,
            limits=Limits(300, 4),
        ),
    ),
)
