"""Stable-Baselines3 callbacks for preference learning: evaluation by the hidden reward, and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stable_baselines3.common.callbacks import BaseCallback

from prefenvs.envs import make
from prefenvs.evaluate import Env, evaluate
from prefenvs.runs import Run
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

if TYPE_CHECKING:
    from agents.learner import PreferenceLearner
    from agents.offline import OfflineLearner
    from agents.pebble import PEBBLE


ENVS = 5
"""Environments in which an evaluation's episodes are played side by side."""


class EvaluationCallback(BaseCallback):
    """Measure the policy by the true return in environments of its own, and add a row to the run's evaluations.csv.

    Columns: steps, labels, mean_return, std_return, success (share of episodes; empty where there is none), seconds,
    learned_return and learned_return_min: the same episodes' mean return by the learned reward, of the ensemble's mean
    and of its most pessimistic member (empty before a reward is learned, and where none is).
    """

    def __init__(
        self, run: Run, task: str, every: int, episodes: int = 5, seed: int = 0, envs: list[Env] | None = None
    ) -> None:
        """`envs`: environments to evaluate in, or an empty list to keep them in; callbacks of one task may share it."""
        super().__init__()
        self.run, self.task, self.every, self.episodes, self.seed = run, task, every, episodes, seed
        # Making environments takes longer than an episode, so they stay open from one evaluation to the next.
        self.envs = [] if envs is None else envs
        self._next = 0
        self._begin = 0.0

    def _on_training_start(self) -> None:
        self.run.drop_rows_after("evaluations", self.num_timesteps)
        rows = self.run.rows("evaluations")
        self._begin = time.time() - (rows[-1]["seconds"] if rows else 0.0)
        self._next = self.num_timesteps - self.num_timesteps % self.every + self.every
        if not rows:
            self.measure()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps - self.num_timesteps % self.every + self.every
            self.measure()
        return True

    def _on_training_end(self) -> None:
        rows = self.run.rows("evaluations")
        if not rows or rows[-1]["steps"] < self.num_timesteps:
            self.measure()
        while self.envs:
            self.envs.pop().close()

    def measure(self) -> None:
        """Evaluate the present policy and write the row."""
        learned = getattr(self.model, "reward_learned", False)
        if not self.envs:
            self.envs += [make(self.task) for _ in range(min(ENVS, self.episodes))]
        result = evaluate(
            self.model,
            self.task,
            episodes=self.episodes,
            seed=self.seed,
            record=self.episodes if learned else 0,
            envs=self.envs,
            success_key=find_task(self.task).success_key,
        )
        returns = self._learned_returns(result.trajectories)
        feedback = getattr(self.model, "feedback", None)
        row = {
            "steps": self.num_timesteps,
            "labels": getattr(self.model, "labels", 0) if feedback is None else feedback.labels,
            "mean_return": round(float(result.returns.mean()), 4),
            "std_return": round(float(result.returns.std()), 4),
            "success": "" if result.success is None else float(result.success.mean()),
            "seconds": round(time.time() - self._begin, 1),
            "learned_return": "" if returns is None else round(float(returns.mean()), 4),
            "learned_return_min": "" if returns is None else round(float(returns.min()), 4),
        }
        self.run.append("evaluations", row)
        self.logger.record("evaluation/true_return", row["mean_return"])
        if result.success is not None:
            self.logger.record("evaluation/success", row["success"])
        if returns is not None:
            self.logger.record("evaluation/learned_return", row["learned_return"])

    def _learned_returns(self, trajectories: Trajectories | None) -> Array | None:
        """Return each member's mean return [M] over the evaluation's episodes."""
        if trajectories is None:
            return None
        return cast("PreferenceLearner", self.model).learned_returns(trajectories)


class CheckpointCallback(BaseCallback):
    """Write the run's checkpoint every so many seconds of wall-clock time."""

    def __init__(self, folder: Path, seconds: float = 600.0) -> None:
        super().__init__()
        self.folder, self.seconds = folder, seconds
        self._last = time.monotonic()

    def _on_rollout_start(self) -> None:
        # Between two rollouts: within one, the newest step is recorded but not yet in the replay buffer.
        if time.monotonic() - self._last >= self.seconds:
            cast("PEBBLE | OfflineLearner[Any]", self.model).save_checkpoint(self.folder)
            self._last = time.monotonic()

    def _on_step(self) -> bool:
        return True
