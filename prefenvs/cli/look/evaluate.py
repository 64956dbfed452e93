"""`prefenvs evaluate RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from prefenvs.evaluate import Evaluation, evaluate
from prefenvs.limits import PositiveInt, Seed
from prefenvs.runs import Run, to_json
from prefenvs.tasks import has_reward


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained policy by the hidden reward, in environments and with seeds that training never saw."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote."""
    task: str | None = None
    """Task to evaluate on, by default the run's own; for runs on data that tell none."""
    episodes: PositiveInt = 20
    """Episodes."""
    seed: Seed = 1
    """Seed of the evaluation; training itself evaluated with its own."""
    stochastic: bool = False
    """Sample actions instead of taking the mean."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print the returns."""
        run = Run.open(self.run_folder)
        result, record = evaluate_run(run, self.episodes, self.seed, not self.stochastic, task=self.task)
        figures = {
            "task": record["task"],
            "episodes": len(result.returns),
            "mean_return": float(result.returns.mean()),
            "std_return": float(result.returns.std()),
            "min_return": float(result.returns.min()),
            "max_return": float(result.returns.max()),
            "success": None if result.success is None else float(result.success.mean()),
        }
        if self.json:
            print(to_json(figures))
            return
        print(f"{figures['task']}, {figures['episodes']} episodes, evaluation seed {self.seed}")
        if not has_reward(record["task"]):
            print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
            return
        print(f"true return: {figures['mean_return']:.1f} +- {figures['std_return']:.1f} (std over episodes), "
              f"{figures['min_return']:.1f} to {figures['max_return']:.1f}")  # fmt: skip
        if figures["success"] is not None:
            print(f"success: {figures['success']:.0%}")


def evaluate_run(
    run: Run, episodes: int, seed: int, deterministic: bool = True, record: int = 0, task: str | None = None
) -> tuple[Evaluation, dict[str, str]]:
    """Evaluate the newest checkpoint of a run; returns the evaluation and the run's configuration.

    task: in the place of the run's own. Raises PrefenvsError for a run on data that tell none, without it.
    """
    from prefenvs.agents.runs.train import load_policy

    task = task or run.task
    policy = load_policy(run)
    result = evaluate(
        policy,
        task,
        episodes=episodes,
        seed=seed,
        deterministic=deterministic,
        record=record,
        horizon=getattr(policy, "horizon", None),
    )
    return result, run.config | {"task": task}
