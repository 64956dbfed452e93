"""Stable-Baselines3 callbacks for preference learning: evaluation by the hidden reward, and checkpoints."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from prefenvs.agents.runs.evaluation_process import EvaluationProcess, Order
from prefenvs.evaluate import Env, Evaluation
from prefenvs.runs import Run
from prefenvs.tasks import has_reward

if TYPE_CHECKING:
    from prefenvs.agents.offline.learner import OfflineLearner
    from prefenvs.agents.online.learner import LearnedReturns, PreferenceLearner
    from prefenvs.agents.online.pebble import PEBBLE


FIRST = 30.0
"""Seconds after which the first checkpoint is written."""


class EvaluationCallback(BaseCallback):
    """Measure the policy by the true return in environments of its own, print it, and add a row to evaluations.csv.

    Columns: steps, labels, mean_return, std_return, success (share of episodes; empty where there is none), seconds,
    learned_return and learned_return_min: the same episodes' mean return by the learned reward, of the ensemble's mean
    and of its most pessimistic member (empty before a reward is learned, and where none is).
    """

    def __init__(
        self,
        run: Run,
        task: str,
        every: int,
        episodes: int = 5,
        seed: int = 0,
        envs: list[Env] | None = None,
        evaluator: EvaluationProcess | None = None,
    ) -> None:
        """Measure after every so many steps, before the first and after the last.

        envs: environments to evaluate in, or an empty list to keep them in; callbacks of one task may share it.
        evaluator: a process that evaluates while training goes on; callbacks may share it too.
        """
        super().__init__()
        self.run, self.task, self.every, self.episodes, self.seed = run, task, every, episodes, seed
        self.evaluator = evaluator
        # Making environments takes longer than an episode, so they stay open from one evaluation to the next.
        self.envs = [] if envs is None else envs
        self._next = 0
        self._measured = -1.0
        self._begin = 0.0

    def _on_training_start(self) -> None:
        self.run.drop_rows_after("evaluations", self.num_timesteps)
        rows = self.run.rows("evaluations")
        self._begin = time.time() - (rows[-1]["seconds"] if rows else 0.0)
        self._measured = rows[-1]["steps"] if rows else -1
        due = self.num_timesteps - self.num_timesteps % self.every
        self._next = due + self.every
        # At the beginning, and where a run was stopped on the very step of an evaluation.
        if self._measured < due:
            self.measure()

    def _on_rollout_start(self) -> None:
        # Between two rollouts the agent is whole, should something have gone wrong.
        if self.evaluator is not None:
            self.evaluator.poll()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps - self.num_timesteps % self.every + self.every
            self.measure()
        return True

    def _on_training_end(self) -> None:
        if self._measured < self.num_timesteps:
            self.measure()
        if self.evaluator is not None:
            self.evaluator.drain()
        while self.envs:
            self.envs.pop().close()

    def measure(self) -> None:
        """Evaluate the present policy, and write the row when the result is there."""
        self._measured = self.num_timesteps
        feedback, learned = getattr(self.model, "feedback", None), getattr(self.model, "reward_learned", False)
        horizon = getattr(self.model, "horizon", None)
        order = Order(self.task, self.episodes, self.seed, record=learned, horizon=horizon)
        row = {
            "steps": self.num_timesteps,
            "labels": getattr(self.model, "labels", 0) if feedback is None else feedback.labels,
            "seconds": round(time.time() - self._begin, 1),
        }
        learner = cast("PreferenceLearner", self.model)
        returns: LearnedReturns | None
        if self.evaluator is None:
            returns = learner.learned_returns if learned else None
            self._write(row, returns, order.carry_out(self.model, self.envs))
        else:
            # The reward as it is now, not as it will be when the result comes.
            returns = learner.keep_learned_returns() if learned else None
            self.evaluator.submit(self.model, order, partial(self._write, row, returns))

    def _write(self, row: dict[str, Any], learned_returns: LearnedReturns | None, result: Evaluation) -> None:
        learned = None
        if learned_returns is not None and result.trajectories is not None:
            learned = learned_returns(result.trajectories)
        figures = {
            "steps": row["steps"],
            "labels": row["labels"],
            "mean_return": round(float(result.returns.mean()), 4),
            "std_return": round(float(result.returns.std()), 4),
            "success": "" if result.success is None else float(result.success.mean()),
            "seconds": row["seconds"],
            "learned_return": "" if learned is None else round(float(learned.mean()), 4),
            "learned_return_min": "" if learned is None else round(float(learned.min()), 4),
        }
        self.run.append("evaluations", figures)
        self._tell(figures)
        self.logger.record("evaluation/true_return", figures["mean_return"])
        if result.success is not None:
            self.logger.record("evaluation/success", figures["success"])
        if learned is not None:
            self.logger.record("evaluation/learned_return", figures["learned_return"])

    def _tell(self, row: dict[str, Any]) -> None:
        """Print an evaluation as one line, above a progress bar."""
        unit = "update" if self.model.get_env() is None else "step"
        known = f"true return {row['mean_return']:.1f} +- {row['std_return']:.1f} (std over episodes), "
        solved = "" if row["success"] == "" else f"success {row['success']:.0%}, "
        figures = f"{known if has_reward(self.task) else ''}{solved}{row['labels']} labels"
        tqdm.write(f"seed {self.seed}, {unit} {row['steps']:,}: {figures}")
        sys.stdout.flush()


class KeepBest(EvaluationCallback):
    """Evaluations after which the policy is kept that the learned reward, as it is at the end, calls best.

    Each of the policies at the last evaluations plays episodes that no evaluation has. The last row of evaluations.csv
    is that of the policy kept. Nothing here reads a true reward.
    """

    def __init__(self, count: int, *args: Any, **kwargs: Any) -> None:
        """count: evaluations, the last ones, whose policies are compared; the rest is `EvaluationCallback`'s."""
        super().__init__(*args, **kwargs)
        self.count, self.folder = count, self.run.path("policies")

    def measure(self) -> None:
        """Evaluate the present policy, and remember it."""
        super().measure()
        if getattr(self.model, "reward_learned", False):
            self.folder.mkdir(exist_ok=True)
            torch.save(self.model.policy.state_dict(), self.folder / f"{self.num_timesteps}.pt")

    def _on_training_end(self) -> None:
        if self._measured < self.num_timesteps:
            self.measure()
        # The last row is there before another may take its place.
        if self.evaluator is not None:
            self.evaluator.drain()
        chosen = self._choose() if self.folder.exists() else self.num_timesteps
        if chosen != self.num_timesteps:
            tqdm.write(f"seed {self.seed}: the policy of step {chosen:,} is kept, which the learned reward calls best")
            self._load(chosen)
            self.run.drop_rows_after("evaluations", self.num_timesteps - 1)
            self.measure()
        self.logger.record("evaluation/kept_policy_of_step", chosen)
        super()._on_training_end()

    def _choose(self) -> int:
        """Return at which step the policy was that the learned reward calls best."""
        learner = cast("PreferenceLearner", self.model)
        steps = sorted(int(path.stem) for path in self.folder.glob("*.pt"))
        steps = [step for step in steps if step <= self.num_timesteps][-self.count :]
        order = Order(self.task, self.episodes, self.seed, record=True, first=self.episodes)
        returns = []
        for step in steps:
            self._load(step)
            played = order.carry_out(self.model, self.envs).trajectories
            assert played is not None
            rewards, _ = learner.learned_reward(played.observations, played.actions, played.ends)
            returns.append(float(np.sum(rewards, dtype=np.float64)) / len(played))
        self._load(steps[-1])
        return steps[int(np.argmax(returns))]

    def _load(self, step: int) -> None:
        path = self.folder / f"{step}.pt"
        self.model.policy.load_state_dict(torch.load(path, map_location=self.model.device, weights_only=True))


class CheckpointCallback(BaseCallback):
    """Write the run's checkpoint every so many seconds of wall-clock time, and sooner at first.

    The first one comes after `FIRST` seconds, each of the next ones after twice the time, up to `seconds`.

    An evaluation under way in `evaluator` is waited for, since a resumed run does not evaluate it again.
    """

    def __init__(self, folder: Path, seconds: float = 600.0, evaluator: EvaluationProcess | None = None) -> None:
        super().__init__()
        self.folder, self.seconds, self.evaluator = folder, seconds, evaluator
        self._last, self._wait = time.monotonic(), min(FIRST, seconds)

    def _on_rollout_start(self) -> None:
        # Between two rollouts: within one, the newest step is recorded but not yet in the replay buffer.
        if time.monotonic() - self._last >= self._wait:
            if self.evaluator is not None:
                self.evaluator.drain()
            cast("PEBBLE | OfflineLearner[Any]", self.model).save_checkpoint(self.folder)
            self._last, self._wait = time.monotonic(), min(2.0 * self._wait, self.seconds)

    def _on_step(self) -> bool:
        return True
