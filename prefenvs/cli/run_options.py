"""What every `prefenvs train` is told about its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefenvs.limits import PositiveInt, Seed


@dataclass(frozen=True)
class RunOptions:
    """Where a run goes, when it is measured, and how it goes on."""

    seed: Seed = 0
    """Seed of everything in training; evaluation has seeds of its own."""
    evaluate_every: PositiveInt = 10_000
    """Steps between two evaluations: of the environment online, gradient steps from fixed data."""
    episodes: PositiveInt = 10
    """Episodes in an evaluation."""
    evaluate_beside: bool = False
    """Evaluate in a process of its own while training goes on, which takes another core."""
    threads: PositiveInt = 1
    """PyTorch threads; small networks are slower with more."""
    folder: Path | None = None
    """Run folder; by default one below runs/, named by task, algorithm, learning signal and seed."""
    resume: Path | None = None
    """Continue the run in this folder; all other options come from it."""
    progress: bool = True
    """Show a progress bar with an ETA."""
