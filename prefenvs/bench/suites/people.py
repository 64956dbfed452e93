"""People: published answers of theirs, and what learners make of them."""

from __future__ import annotations

from prefenvs.bench.cells import Limits, Option
from prefenvs.bench.suite import Grid, Suite

DOOR = "door-human-v1"
PEOPLE_LABELS, SCRIPTED_LABELS = f"uni-rlhf/{DOOR}", f"uni-rlhf-script/{DOOR}"
SHORT: dict[str, Option] = {"preset": "small", "steps": 18_000, "evaluate_every": 18_000, "episodes": 50}


def _door(methods: tuple[str, ...], oracle: str, priority: int, options: dict[str, Option] = SHORT) -> Grid:
    return Grid(
        methods,
        ("d4rl-door-v1",),
        (oracle,),
        labels=(2_000,),
        seeds=(0, 1, 2, 3, 4),
        options=options,
        dataset=f"d4rl/{DOOR}",
        limits=Limits(seconds=24 * 3_600, memory_gb=8),
        priority=priority,
    )


PEOPLE = Suite(
    "people",
    "A hand that opens a door, from 25 demonstrations and 2,000 answers of people (Uni-RLHF): beside answers by the "
    "true return, shuffled ones, none, and the true reward.",
    (
        _door(("random", "iql", "iql-shuffled", "iql-true-reward"), PEOPLE_LABELS, 0),
        _door(("iql", "iql-shuffled"), SCRIPTED_LABELS, 1),
        _door(("bc", "iql-constant", "cpl", "cpl-shuffled", "ipl", "dppo"), PEOPLE_LABELS, 2),
        _door(("cpl", "ipl", "dppo"), SCRIPTED_LABELS, 3),
        # 2,000 pairs none of which crosses an episode's end: what leaving those out costs.
        _door(("iql", "cpl"), "oracle", 4, SHORT | {"segment_length": 50}),
    ),
    reduced="18,000 gradient steps instead of a million, networks of 2x128 or 2x256.",
    measure="d4rl",
)
