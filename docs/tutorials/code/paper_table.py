"""The suite of the tutorial "a table for a paper": small enough for minutes."""

from __future__ import annotations

from prefenvs.bench import Grid, Limits, Suite

SUITE = Suite(
    "pendulum",
    "PEBBLE from 100 labels beside coin flips and the true reward.",
    (
        Grid(
            methods=("random", "pebble", "pebble-coin", "pebble-true-reward-explored"),
            tasks=("Pendulum-v1",),
            labels=(100,),
            seeds=(0, 1, 2),
            options={
                "preset": "reliable", "steps": 4_000, "per_session": 10, "interact": 300, "learning_starts": 250,
                "unsupervised_steps": 250, "segment_length": 25, "evaluate_every": 500,
            },
            limits=Limits(seconds=1_800, memory_gb=4),
        ),
    ),
    reduced="4,000 environment steps, networks of 2x128, three seeds.",
)  # fmt: skip
