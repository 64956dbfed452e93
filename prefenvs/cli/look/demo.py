"""`prefenvs demo`, the main job: PEBBLE learns a MuJoCo task from a simulated rater, and a video shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from prefenvs.cli.look.record import record_run
from prefenvs.cli.train.command import train
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.limits import PositiveInt, Seed
from prefenvs.runs import Run


@dataclass(frozen=True)
class Demo:
    """Train PEBBLE to close a door from a simulated rater's preferences for a few minutes, then record the policy."""

    seed: Seed = 0
    """Seed."""
    steps: PositiveInt = 25_000
    """Environment steps."""
    labels: PositiveInt = 1_000
    """Label budget."""
    folder: Path | None = None
    """Run folder; runs/demo-<time> by default."""
    progress: bool = True
    """Show progress bars."""

    def run(self) -> None:
        """Train, print the returns before and after, and write the run folder."""
        gl_backend()  # a machine that cannot render says so before it trains
        folder = self.folder or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
        train(self.training(folder))
        print(f"video: {record_run(Run.open(folder), folder / 'policy.mp4', episodes=3, seed=self.seed)}")
        print(f"learning curve: {folder / 'learning_curve.png'}")

    def training(self, folder: Path) -> list[str]:
        """Return the command line of the training that the demo is."""
        options = {
            "task": "metaworld-door-close-v3",
            "preset": "small",
            "seed": self.seed,
            "steps": self.steps,
            "labels": self.labels,
            "per-session": 60,
            "interact": 1_000,
            "segment-length": 50,
            "unsupervised-steps": 4_000,
            "selector": "uniform",
            "evaluate-every": 5_000,
            "episodes": 5,
            "folder": folder,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["pebble", *words, "--progress" if self.progress else "--no-progress"]
