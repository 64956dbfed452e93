"""Runs of learners from fixed data in run folders: learn, evaluate, keep checkpoints, stop, resume, sum up."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import MaybeCallback

from prefenvs.agents.offline.learner import OfflineLearner
from prefenvs.agents.offline.seeds import SeedGroup
from prefenvs.agents.offline.single_loss import SingleLossLearner
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.runs.callbacks import CheckpointCallback, EvaluationCallback
from prefenvs.agents.runs.evaluation_process import EvaluationProcess
from prefenvs.agents.runs.groups import checkpointed
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.bench.curves import draw_learning_curve
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Env
from prefenvs.runs import Run
from prefenvs.tasks import find_task


def train_offline(
    learners: Sequence[OfflineLearner[Any]],
    runs: Sequence[Run],
    total_updates: int,
    evaluate_every: int,
    episodes: int = 10,
    progress: bool = True,
    facts: Sequence[Mapping[str, Any]] | None = None,
    evaluate_beside: bool = False,
) -> list[dict[str, Any]]:
    """Train until `total_updates` gradient steps and return the summaries that are written to the run folders.

    Several learners, which may differ in their seeds alone, train side by side. A folder then holds evaluations.csv,
    log/ (CSV and TensorBoard), the newest checkpoint, learning_curve.png and summary.json, with its `facts` in it.
    After Ctrl-C the checkpoints are written before KeyboardInterrupt goes on. evaluate_beside: in a process of its own.
    """
    begin, stop, beside = time.time(), StopOnInterrupt(), EvaluationProcess() if evaluate_beside else None
    train = training_of(learners)
    callbacks: list[MaybeCallback] = []
    envs: list[Env] = []
    for learner, run in zip(learners, runs, strict=True):
        learner.set_logger(configure(str(run.path(f"log/from-{learner.num_timesteps}")), ["csv", "tensorboard"]))
        evaluation = EvaluationCallback(run, learner.task, evaluate_every, episodes, learner.seed, envs, beside)
        callbacks.append([evaluation, CheckpointCallback(run.checkpoint, beside=beside)])
    # The first learner's callbacks come first of all, where every learner has made equally many updates.
    callbacks[0] = [stop, *callbacks[0]]  # type: ignore[misc]
    made = learners[0].num_timesteps
    with checkpointed(learners, runs, stop, beside, "updates"):
        if made < total_updates:
            train(total_updates - made, callbacks, progress_bar=progress, reset_num_timesteps=made == 0)
    seconds = {"seconds": round(time.time() - begin, 1)}
    return [
        _sum_up(learner, run, dict(more) | seconds)
        for learner, run, more in zip(learners, runs, facts or [{}] * len(runs), strict=True)
    ]


def training_of(learners: Sequence[OfflineLearner[Any]]) -> Callable[..., object]:
    """Return `learn` of one learner, or of a group, with a callback for each; raises PrefenvsError if none can be."""
    if len(learners) == 1:
        return lambda total, callbacks, **options: learners[0].learn(total, callbacks[0], **options)
    members = [learner for learner in learners if isinstance(learner, SingleLossLearner)]
    if len(members) < len(learners):
        raise PrefenvsError(f"{learners[0].name} trains one seed at a time: several go with iql, cpl and bc")
    return SeedGroup(members).learn


def _sum_up(learner: OfflineLearner[Any], run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a finished run leaves beside its checkpoint, and return its summary."""
    model = getattr(learner, "reward_model", None)
    if isinstance(model, RewardEnsemble):
        model.save(run.checkpoint / "reward.pt")
    summary = summarise_offline(learner, run) | dict(facts)
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
        "evaluation_horizon": learner.horizon or find_task(learner.task).horizon,
        "first": rows[0],
        "last": rows[-1],
        "best": max(rows, key=lambda row: (row[measure], row["mean_return"])),
    }
