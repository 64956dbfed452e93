"""Settings and data sets that several suites share."""

from __future__ import annotations

from prefenvs.bench.cells import Data, Limits, Option

TEN = tuple(range(10))
"""As many seeds as B-Pref took; theirs go beyond 32767, which an evaluation's seed cannot."""
CONTROLS = ("pebble-coin", "pebble-no-labels", "pebble-true-reward-explored")
OFFLINE_CONTROLS = ("cpl-shuffled", "iql-shuffled", "iql-constant")
"""What shows whether labels teach: the same steps, seeds and exploration without knowledge, and on the true reward."""
PEBBLE_SMALL: dict[str, Option] = {
    "preset": "small",
    "selector": "uniform",
    "interact": 1_000,
    "evaluate_every": 5_000,
}
REACHER = PEBBLE_SMALL | {"steps": 15_000, "per_session": 40, "segment_length": 10, "unsupervised_steps": 1_500}
RUNNING: dict[str, Option] = {
    "preset": "reliable",
    "steps": 15_000,
    "per_session": 50,
    "interact": 600,
    "segment_length": 25,
    "unsupervised_steps": 2_000,
    "evaluate_every": 3_000,
    "episodes": 5,
}
"""Those of the suite `demo` on HalfCheetah-v5, with 700 labels."""
MANIPULATION: dict[str, Option] = {
    "preset": "reliable",
    "steps": 50_000,
    "per_session": 50,
    "interact": 1_000,
    "segment_length": 12,
    "unsupervised_steps": 2_000,
    "evaluate_every": 5_000,
    "episodes": 10,
}
"""Meta-World's tasks with actions held for two steps and 2,000 labels; the last session comes at step 42,000."""
# The policy changes with each session, and the last one is often not the best by the learned reward. Tanh leaves little
# difference between segments that are all good.
KEPT: dict[str, Option] = {"keep_best": 5, "reward.output": "identity", "reward.learning_rate": 1e-3}
"""What learned rewards of these have besides."""
WALKING: dict[str, Option] = {
    "preset": "reliable",
    "steps": 50_000,
    "interact": 1_500,
    "evaluate_every": 5_000,
    "episodes": 10,
}
"""dmc-walker-walk-v0, with 500 labels; half of what the suite `learning` gives it."""
WEAK = ("scripted:0.3=15", "scripted:0.5:0.7=35", "random=50")
"""Half of it random actions, so that neither imitation nor a wrong reward does well."""
HOUR = Limits(seconds=3_600, memory_gb=6)
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


def mixed_data(task: str, mix: tuple[str, ...], steps: int = 8_000, measured: bool = False) -> Data:
    """Episodes of scripted policies with noise and of random actions, and an expert of them for labels by regret.

    measured: measure the expert's values too; the report prints their error.
    """
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
            *([("critic", "{data}/expert", "--segment-length", "64", "--no-progress")] if measured else []),
        ),
    )
