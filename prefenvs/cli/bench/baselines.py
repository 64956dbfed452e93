"""`prefenvs bench random` and `prefenvs bench comparisons`: baselines that are rows of benchmark tables."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import prefenvs
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Evaluation, evaluate, random_policy
from prefenvs.limits import PositiveFloat, PositiveInt, Seed
from prefenvs.protocols import Policy
from prefenvs.runs import Run
from prefenvs.segments import Array
from prefenvs.tasks import find_task


@dataclass(frozen=True)
class Random:
    """Measure uniformly random actions: the floor that every learner has to leave behind."""

    task: str
    """Task id."""
    folder: Path
    """Run folder to write."""
    seed: Seed = 0
    """Seed."""
    episodes: PositiveInt = 20
    """Episodes."""
    horizon: PositiveInt | None = None
    """Steps after which an episode is cut off, for data sets whose time limit is earlier than the task's."""
    still: bool = False
    """Standing still, the middle of each action's range, in the place of random actions."""

    def run(self) -> None:
        """Write a run folder with one evaluation."""
        env = prefenvs.make(self.task)
        policy = _Still(env.action_space) if self.still else random_policy(env.action_space, self.seed)
        env.close()
        run = Run.create(self.folder, "bench random", asdict(self) | {"folder": str(self.folder)}, False)
        begin = time.time()
        _finish(run, policy, self, begin, {"algorithm": "still" if self.still else "random"}, self.horizon)


class _Still:
    """Takes the action in the middle of its range, whatever it sees."""

    def __init__(self, action_space: spaces.Space[Any]) -> None:
        if not isinstance(action_space, spaces.Box):
            raise PrefenvsError(f"standing still needs actions with a range, this task has {action_space}")
        self.action = (action_space.low + action_space.high) / 2

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return one action for each of the observations [N, obs]."""
        return np.broadcast_to(self.action, (len(observation), *self.action.shape)).astype(np.float32), None


@dataclass(frozen=True)
class Comparisons:
    """Train imitation's preference comparisons, with its own PPO and reward net, and measure the result once."""

    task: str
    """Task id; imitation needs episodes of one length."""
    folder: Path
    """Run folder to write."""
    steps: PositiveInt = 200_000
    """Environment steps; what imitation samples beyond them for its fragments is counted in the results."""
    labels: PositiveInt = 500
    """Comparisons."""
    oracle: str = "oracle"
    """Only oracle: imitation's synthetic rater takes the larger true return."""
    seed: Seed = 0
    """Seed."""
    episodes: PositiveInt = 10
    """Episodes of the evaluation."""
    initial_epoch_multiplier: PositiveFloat = 200.0
    """How many times longer the reward net is trained on the first comparisons than on later ones."""
    threads: PositiveInt = 1
    """PyTorch threads; small networks are slower with more."""

    def run(self) -> None:
        """Train, evaluate and write a run folder; an interrupted run starts anew, as imitation cannot resume.

        Raises PrefenvsError for another rater than imitation's own.
        """
        import torch

        from prefenvs.agents.baselines.imitation import ComparisonsConfig, train_preference_comparisons

        if self.oracle != "oracle":
            raise PrefenvsError(f"imitation's preference comparisons know the rater 'oracle' only, not {self.oracle!r}")
        task = find_task(self.task)
        torch.set_num_threads(self.threads)
        run = Run.create(self.folder, "bench comparisons", asdict(self) | {"folder": str(self.folder)}, False)
        begin = time.time()
        config = ComparisonsConfig(initial_epoch_multiplier=self.initial_epoch_multiplier)
        result = train_preference_comparisons(
            task.id, self.steps, self.labels, self.seed, config, folder=run.path("log")
        )
        spent = {"steps": int(result.metrics["env_steps"]), "labels": self.labels}
        record = {"algorithm": "imitation preference comparisons", "metrics": result.metrics}
        _finish(run, result.agent, self, begin, record | spent)


def _finish(
    run: Run,
    policy: Policy,
    command: Random | Comparisons,
    begin: float,
    record: dict[str, Any],
    horizon: int | None = None,
) -> None:
    """Evaluate and write what a cell of a benchmark has to write; `record` may tell steps and labels spent."""
    task, episodes = find_task(command.task), command.episodes
    result: Evaluation = evaluate(policy, task.id, episodes=episodes, seed=command.seed, horizon=horizon)
    record = {"steps": 0, "labels": 0, "task": task.id, "seed": command.seed} | record
    row = {
        "steps": record["steps"],
        "labels": record["labels"],
        "mean_return": round(result.mean_return, 4),
        "std_return": round(float(result.returns.std()), 4),
        "success": "" if result.success_rate is None else result.success_rate,
        "seconds": round(time.time() - begin, 1),
    }
    run.append("evaluations", row)
    last = run.rows("evaluations")[-1]
    run.summarise(record | {"evaluation_horizon": horizon or task.horizon, "first": last, "last": last})
    print(f"{task.id}: true return {result.mean_return:.1f} over {episodes} episodes")
