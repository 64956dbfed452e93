"""Results whose every figure is known."""

import math
from typing import Any

import numpy as np
import pandas as pd

from prefenvs.bench.results import JUDGED, MEASURED, TEXTS, Results

METHODS = {
    "random": {"title": "random actions", "upper": "", "upper_bound": False, "asks": False, "offline": False},
    "upper": {"title": "Upper bound", "upper": "upper", "upper_bound": True, "asks": False, "offline": False},
    "good": {"title": "Good", "upper": "upper", "upper_bound": False, "asks": True, "offline": False},
    "poor": {"title": "Poor <&>", "upper": "upper", "upper_bound": False, "asks": True, "offline": False},
}
METHODS["coin"] = METHODS["poor"] | {"title": "Good on coin flips (control)"}
METHODS["alone"] = METHODS["coin"] | {"title": "Exploration alone (control)", "asks": False}
MEASURES = {"walk": "mean_return", "push": "success"}


def make_results(
    finals: dict[tuple[str, str], list[float | None]], measures: dict[str, str] | None = None, **suite: Any
) -> Results:
    """finals: last scores by method and task, one for each seed; None is a missing cell.

    Every run has three evaluations: 0, the last score plus 5 (success: as it is), the last score.
    """
    measures = measures or MEASURES
    rows = []
    for (method, task), scores in finals.items():
        for seed, score in enumerate(scores):
            base: dict[str, Any] = dict.fromkeys(TEXTS, "") | dict.fromkeys([*MEASURED, *JUDGED], math.nan)
            asks = METHODS[method]["asks"]
            base |= {
                "cell": f"{task}--{method}--{seed}",
                "method": method,
                "task": task,
                "oracle": "oracle" if asks else "none",
                "budget": 100.0 if asks else 0.0,
                "seed": float(seed),
                "status": "missing" if score is None else "finished",
                "version": "0.1.0",
                "commit": "abc",
                "processor": "A processor",
                "processors": 2.0,
                "threads": 1.0,
                "versions": "{}",
                "config": "{}",
                "command": f"train {method}",
                "wall_seconds": 60.0 * (seed + 1),
                "cpu_seconds": 3_600.0,
                "peak_gb": 1.5,
                "attempts": 1.0,
            }
            if score is None:
                rows.append(base)
                continue
            column = "success" if measures[task] == "success" else "mean_return"
            best = score if column == "success" else score + 5.0
            judged = {"accuracy": 0.8, "correlation": 0.5, "starc": 0.25} if asks else {}
            for i, value in enumerate((0.0, best, score)):
                learned = {"learned_return": 10.0 * i, "learned_return_min": 8.0 * i} if asks and i else {}
                row = {"steps": 100.0 * i, "labels": 50.0 * i if asks else 0.0, "mean_return": value, "seconds": i}
                rows.append(base | judged | row | learned | {column: value})
    frame = pd.DataFrame(rows)
    described = {"name": "synthetic", "sentence": "Known figures.", "reduced": "", "measure": None, "published": ""}
    methods = {name: METHODS[name] for name in dict.fromkeys(frame["method"])}
    return Results(frame, described | {"methods": methods, "measures": measures} | suite)


def full() -> Results:
    """Four methods, two tasks, four seeds, all finished."""
    rng = np.random.default_rng(0)
    return make_results(
        {
            ("random", "walk"): [100.0],
            ("random", "push"): [0.0],
            ("upper", "walk"): [900.0, 1000.0, 1100.0, 1000.0],
            ("upper", "push"): [1.0, 0.9, 1.0, 0.9],
            ("good", "walk"): list(rng.uniform(700, 900, 4)),
            ("good", "push"): list(rng.uniform(0.6, 0.9, 4)),
            ("poor", "walk"): list(rng.uniform(150, 300, 4)),
            ("poor", "push"): list(rng.uniform(0.1, 0.3, 4)),
        }
    )
