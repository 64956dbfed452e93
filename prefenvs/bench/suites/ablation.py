"""What each part of the preset `reliable` brings, what options beside it would, and what it does when left alone."""

from __future__ import annotations

from prefenvs.bench.suite import Grid, Suite
from prefenvs.bench.suites.settings import CONTROLS, HOUR, RUNNING

PARTS = (
    "pebble-no-layer-norm",
    "pebble-one-update",
    "pebble-large-batches",
    "pebble-uniform-replay",
    "pebble-disagreement",
    "pebble-likelihood",
    "pebble-raw-inputs",
    "pebble-mean",
)
"""`reliable` with one of its parts as the preset `small` has it."""
OPTIONS = (
    *("pebble-simba", "pebble-bro", "pebble-rime", "pebble-reed", "pebble-lire", "pebble-seqrank"),
    *("pebble-cer", "pebble-stac", "pebble-restart", "pebble-horizon-discount", "pebble-normalised-entropy"),
)
"""`reliable` with one option more."""
WRONG = "mistake:mistake=0.2"


def _grid(methods: tuple[str, ...], priority: int, oracle: str = "oracle") -> Grid:
    return Grid(
        methods,
        ("HalfCheetah-v5",),
        (oracle,),
        labels=(700,),
        seeds=(0, 1, 2, 3, 4),
        options=RUNNING,
        # As the suite `demo` has it.
        method_options={name: {"reward.epochs": 15} for name in methods if name not in ("random", *CONTROLS[1:])},
        limits=HOUR,
        priority=priority,
    )


ABLATION = Suite(
    "ablation",
    "The parts of the preset `reliable`, taken out one at a time, and options put in one at a time; RIME also where a "
    "fifth of the labels is wrong.",
    (
        _grid(("pebble", *PARTS), 0),
        _grid(("pebble", "pebble-rime"), 1, WRONG),
        _grid(OPTIONS, 1),
        _grid(("random", *CONTROLS), 2),
    ),
    reduced="15,000 environment steps, networks of 2x128, one task.",
)

HACKING = Suite(
    "hacking",
    "Reward hacking: long training after the last of few answers, by how the members' rewards are joined.",
    (
        Grid(
            ("random", "pebble-mean", "pebble-mean-std", "pebble-min", *CONTROLS),
            ("HalfCheetah-v5",),
            labels=(200,),
            options=RUNNING | {"steps": 50_000, "evaluate_every": 5_000},
            limits=HOUR,
        ),
    ),
    reduced="50,000 environment steps, all answers in the first 5,000, networks of 2x128, three seeds.",
)
