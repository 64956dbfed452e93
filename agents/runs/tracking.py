"""Weights & Biases: what Stable-Baselines3's logger records, the evaluations among it, sent to a project."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger

from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.runs import Run

STEPS = "time/total_timesteps"
"""What the figures are drawn over."""


def check_wandb() -> None:
    """Raise a PrefenvsError where the package is not installed."""
    if importlib.util.find_spec("wandb") is None:
        raise PrefenvsError(
            "--wandb needs the package wandb, which is not installed: pip install wandb, or leave --wandb out; the run "
            "folder's log/ holds the same figures for TensorBoard and as CSV"
        )


class WandbOutput(KVWriter):
    """An output of Stable-Baselines3's logger: each dump is one `log` of a run of Weights & Biases."""

    def __init__(self, run: Any) -> None:
        """`run`: what `wandb.init` returned."""
        self.run = run
        run.define_metric(STEPS)
        run.define_metric("*", step_metric=STEPS)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send numbers; what the logger keeps from TensorBoard or from "wandb" is left out."""
        figures = {
            name: float(value)
            for name, value in key_values.items()
            if not {"tensorboard", "wandb"} & set(key_excluded.get(name) or ()) and _is_number(value)
        }
        self.run.log({**figures, STEPS: step})

    def close(self) -> None:
        """Wait until everything is sent."""
        self.run.finish()


def track(loggers: Sequence[Logger], runs: Sequence[Run], project: str, stack: ExitStack) -> None:
    """Send what each logger records to a run of its own in a project; `stack` ends them.

    A resumed run goes on in the one that it began. Raises PrefenvsError where the package is missing or refuses, as it
    does to somebody who has not logged in.
    """
    check_wandb()
    import wandb

    for logger, run in zip(loggers, runs, strict=True):
        record = run.record
        name = hashlib.sha256(f"{run.folder.absolute()} {record.get('started')}".encode()).hexdigest()[:16]
        config: Mapping[str, Any] = record["config"] | {"command": record["command"]}
        with failure_told(f"wandb refuses the project {project!r}", "run `wandb login`, or set WANDB_MODE=offline"):
            begun = wandb.init(
                project=project,
                id=name,
                name=run.folder.name,
                config=config,
                resume="allow",
                reinit="create_new",
                dir=str(run.folder),
            )
        output = WandbOutput(begun)
        stack.callback(output.close)
        logger.output_formats.append(output)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)
