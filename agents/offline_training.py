"""One run of a learner from fixed data in a run folder: learn, evaluate, keep checkpoints, stop, resume, sum up."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.logger import configure

from agents.callbacks import CheckpointCallback, EvaluationCallback
from agents.interrupt import StopOnInterrupt
from agents.offline import OfflineLearner
from agents.reward_model import RewardEnsemble
from prefenvs.curves import draw_learning_curve
from prefenvs.runs import Run


def train_offline(
    learner: OfflineLearner[Any],
    run: Run,
    total_updates: int,
    evaluate_every: int,
    episodes: int = 10,
    progress: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train until `total_updates` gradient steps and return the summary that is written to the run folder.

    The folder then holds evaluations.csv, log/ (CSV and TensorBoard), the newest checkpoint, learning_curve.png and
    summary.json, with `facts` in it. After Ctrl-C the checkpoint is written before KeyboardInterrupt goes on.
    """
    learner.set_logger(configure(str(run.path(f"log/from-{learner.num_timesteps}")), ["csv", "tensorboard"]))
    evaluation = EvaluationCallback(run, learner.task, evaluate_every, episodes, seed=learner.seed)
    begin, stop = time.time(), StopOnInterrupt()
    left = total_updates - learner.num_timesteps
    try:
        with stop:
            if left > 0:
                learner.learn(
                    left,
                    callback=[evaluation, CheckpointCallback(run.checkpoint), stop],
                    progress_bar=progress,
                    reset_num_timesteps=learner.num_timesteps == 0,
                )
    except KeyboardInterrupt:
        if stop.safe:
            learner.save_checkpoint(run.checkpoint)
        print(f"\nstopped after {learner.num_timesteps} updates; to continue:")
        print(f"prefenvs train {learner.name} --resume {run.folder}")
        raise
    learner.save_checkpoint(run.checkpoint)
    model = getattr(learner, "reward_model", None)
    if isinstance(model, RewardEnsemble):
        model.save(run.checkpoint / "reward.pt")
    summary = summarise_offline(learner, run) | dict(facts or {}) | {"seconds": round(time.time() - begin, 1)}
    run.summarise(summary)
    label = f"{learner.name} from {summary['learns_from']}"
    title = f"{learner.task}, seed {learner.seed}"
    draw_learning_curve({label: run.rows("evaluations")}, run.path("learning_curve.png"), title, unit="gradient steps")
    return summary


def summarise_offline(learner: OfflineLearner[Any], run: Run) -> dict[str, Any]:
    """Return a run's figures; `last` is the final policy's evaluation, `best` that of the best of all, kept apart.

    The best one was chosen by the very evaluation that it reports, so it is an optimistic figure.
    """
    rows = run.rows("evaluations")
    measure = "mean_return" if math.isnan(rows[-1]["success"]) else "success"
    return {
        "task": learner.task,
        "algorithm": learner.name,
        "learns_from": learner.learns_from,
        "seed": learner.seed,
        "updates": learner.num_timesteps,
        "labels": learner.labels,
        "first": rows[0],
        "last": rows[-1],
        "best": max(rows, key=lambda row: (row[measure], row["mean_return"])),
    }
