"""The suite of the tutorial "a table for a paper": small enough for minutes."""

from __future__ import annotations

from prefenvs.bench import Grid, Limits, Suite

SUITE = Suite(
    "reach",
    "PEBBLE from 60 labels beside coin flips and the true reward.",
    (
        Grid(
            methods=("random", "pebble", "pebble-coin", "pebble-true-reward"),
            tasks=("own_environment:Reach",),
            labels=(60,),
            seeds=(0, 1),
            options={
                "preset": "small", "steps": 600, "per_session": 15, "interact": 100, "learning_starts": 150,
                "unsupervised_steps": 50, "segment_length": 10, "gamma": 0.9, "episodes": 5, "evaluate_every": 300,
            },
            limits=Limits(seconds=1_800, memory_gb=4),
        ),
    ),
    reduced="600 environment steps and two seeds: it shows how a table is made, not how methods compare.",
)  # fmt: skip
