"""Training runs in run folders, of every algorithm: learn, evaluate, keep checkpoints, stop and resume, and sum up."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from gymnasium.spaces import flatdim
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

import prefenvs
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.offline.files import read_state
from prefenvs.agents.offline.learner import OfflineLearner
from prefenvs.agents.offline.seeds import SeedGroup
from prefenvs.agents.offline.single_loss import SingleLossLearner
from prefenvs.agents.registry import find_algorithm
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.kinds import make_reward_model, read_reward
from prefenvs.agents.runs.callbacks import CheckpointCallback, EvaluationCallback, KeepBest
from prefenvs.agents.runs.evaluation_process import EvaluationFailed, EvaluationProcess
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.agents.runs.tracking import track
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Env
from prefenvs.metrics.curves import draw_learning_curve
from prefenvs.protocols import Policy, RewardModel
from prefenvs.runs import Run
from prefenvs.tasks import find_task, has_environment

Learner = Any
"""An algorithm of Stable-Baselines3, or an `OfflineLearner`: `learn`, `set_logger`, `num_timesteps`, `seed`, `get_env`.

A run folder asks it further for name, task, labels, learns_from, and save_checkpoint.
"""


def train(
    learners: Sequence[Learner],
    runs: Sequence[Run],
    total: int,
    evaluate_every: int,
    episodes: int = 10,
    progress: bool = True,
    evaluate_async: bool = False,
    facts: Sequence[Mapping[str, Any]] | None = None,
    wandb: str | None = None,
    keep_best: int = 0,
) -> list[dict[str, Any]]:
    """Train until `total` steps, of environment or gradient, and return the summaries written to the run folders.

    Several learners, from fixed data and different in their seeds alone, train side by side. A folder then holds
    evaluations.csv, log/ (CSV and TensorBoard), the newest checkpoint, learning_curve.png and summary.json, with its
    `facts` in it. Where its data tell no task to act in, a learner is not evaluated. After Ctrl-C the checkpoints are
    written before KeyboardInterrupt goes on, so a run can be resumed.
    evaluate_async: in a process of its own, on another core. wandb: a project to send what is logged to as well.
    keep_best: end with the policy, of those at so many last evaluations, that the learned reward calls best; policies/
    holds them.
    Raises PrefenvsError, without a summary, for a run that was to learn from labels and got none.
    """
    for run in runs:
        _check_evaluations(run)
    made = learners[0].num_timesteps
    before = [row["seconds"] for row in runs[0].rows("evaluations") if row["steps"] <= made] if made else []
    begin = time.time() - max(before, default=0.0)
    together = group_of(learners)
    stop, evaluator = (
        StopOnInterrupt(getattr(learners[0], "oracle", None)),
        EvaluationProcess() if evaluate_async and has_environment(learners[0].task) else None,
    )
    callbacks: list[list[BaseCallback]] = []
    envs: list[Env] = []
    for learner, run in zip(learners, runs, strict=True):
        # A resumed run logs to a folder of its own, since the logger overwrites; TensorBoard shows them as one.
        learner.set_logger(configure(str(run.path(f"log/from-{learner.num_timesteps}")), ["csv", "tensorboard"]))
        own: list[BaseCallback] = [CheckpointCallback(run.checkpoint, evaluator=evaluator)]
        if has_environment(learner.task):
            seed = learner.seed or 0
            measured = run, learner.task, evaluate_every, episodes, seed, envs, evaluator
            own.insert(0, KeepBest(keep_best, *measured) if keep_best else EvaluationCallback(*measured))
        callbacks.append(own)
    # The first learner's callbacks come first of all, where every learner has made equally many steps.
    callbacks[0] = [stop, *callbacks[0]]
    with ExitStack() as stack, checkpointed(learners, runs, stop, evaluator):
        if wandb is not None:
            track([learner.logger for learner in learners], runs, wandb, stack)
        if made < total:
            learn, given = (learners[0].learn, callbacks[0]) if together is None else (together.learn, callbacks)
            learn(total - made, given, progress_bar=progress, reset_num_timesteps=made == 0)
            # The last evaluation comes after the last of the learner's own writes.
            for learner in learners:
                learner.logger.record("time/total_timesteps", learner.num_timesteps, exclude="tensorboard")
                learner.logger.dump(learner.num_timesteps)
    seconds = {"seconds": round(time.time() - begin, 1)}
    ended = list(zip(learners, runs, facts or [{}] * len(runs), strict=True))
    summaries = [_sum_up(learner, run, dict(own) | seconds) for learner, run, own in ended if not lacks_labels(learner)]
    for learner, run, _ in ended:
        _check_labels(learner, run)
    return summaries


def group_of(learners: Sequence[Learner]) -> SeedGroup | None:
    """Return several learners as one, or None for a single one; raises PrefenvsError where they cannot share steps."""
    if len(learners) == 1:
        return None
    if not all(isinstance(learner, SingleLossLearner) for learner in learners):
        raise PrefenvsError(f"{learners[0].name} trains one seed at a time: several share steps with iql, cpl and bc")
    return SeedGroup(learners)


@contextmanager
def checkpointed(
    learners: Sequence[Learner], runs: Sequence[Run], stop: StopOnInterrupt, evaluator: EvaluationProcess | None
) -> Iterator[None]:
    """Write each learner's checkpoint into its run folder when training ends.

    Meanwhile no other process can continue the runs. After Ctrl-C or SIGTERM, and where an evaluation beside training
    fails, the commands that continue are printed too, and the exception goes on. After any other error they are printed
    where there is a checkpoint.
    """
    with ExitStack() as held:
        held.enter_context(evaluator or nullcontext())
        for run in runs:
            held.enter_context(run.locked())
        try:
            with stop:
                yield
        except (KeyboardInterrupt, EvaluationFailed):
            if stop.safe:
                _save(learners, runs)
            print(f"\nstopped after {learners[0].num_timesteps} {unit_of(learners[0])}")
            _tell_way_on(learners, runs, "to continue")
            if stop.safe and evaluator is not None:
                with suppress(EvaluationFailed):
                    evaluator.drain()
            raise
        except PrefenvsError:
            # A rater may be gone for good, hours into the run.
            kept = [run for run in runs if run.has_checkpoint]
            _tell_way_on(learners, kept, "once that is mended, from the newest checkpoint")
            raise
        _save(learners, runs)


def _tell_way_on(learners: Sequence[Learner], runs: Sequence[Run], when: str) -> None:
    for run in runs if hasattr(learners[0], "resume") else ():
        print(f"{when}: prefenvs {run.record['command']} --resume {shlex.quote(str(run.folder))}")


def _save(learners: Sequence[Learner], runs: Sequence[Run]) -> None:
    for learner, run in zip(learners, runs, strict=True):
        learner.save_checkpoint(run.checkpoint)


def unit_of(learner: Learner) -> str:
    """Return what a learner's steps are: "steps" of an environment, or gradient "updates" on fixed data."""
    return "updates" if learner.get_env() is None else "steps"


def lacks_labels(learner: Learner) -> bool:
    """Tell whether an online learner was to learn from labels and has none, so that its reward was never learned."""
    if learner.learns_from != "preferences" or not hasattr(learner, "feedback"):
        return False
    return learner.feedback is None or not learner.feedback.labels


def _check_labels(learner: Learner, run: Run) -> None:
    """Raise a PrefenvsError for a run that was to learn from labels and got none, with what can be done."""
    if not lacks_labels(learner):
        return
    asked = 0 if learner.feedback is None else learner.feedback.asked
    # A run's store stands before its rater.
    rater = getattr(learner.oracle, "oracle", learner.oracle)
    trouble, reasons = getattr(rater, "trouble", None), getattr(rater, "reasons", None)
    if not asked:
        length, task = learner.config.segment_length, learner.task
        why = f"no two segments of {length} steps were recorded in {task}: lower --segment-length or raise --steps"
    elif learner.oracle is not None and learner.oracle.pending:
        way_out = "train with --wait, or raise --steps" if trouble is None else trouble.message
        why = f"its {asked} queries still wait for an answer: {way_out}"
    else:
        told = f" ({', '.join(f'{reason} {count}' for reason, count in reasons.most_common())})" if reasons else ""
        why = f"all {asked} queries were skipped{told}: choose another rater, or raise --labels"
    raise PrefenvsError(f"{run.folder} learned nothing, since it got no label; {why}")


def _sum_up(learner: Learner, run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write what a finished run leaves beside its checkpoint, and return its summary."""
    model = getattr(learner, "reward_model", None)
    if isinstance(model, RewardEnsemble):
        model.save(run.checkpoint / "reward.pt")
    summary = summarise(learner, run) | dict(facts)
    run.summarise(summary)
    if summary["last"] is None:
        return summary
    labels = f", {summary['labels']} labels" if summary["labels"] else ""
    title, unit = f"{learner.task}, seed {learner.seed}", "environment steps"
    if unit_of(learner) == "updates":
        unit = "gradient steps"
    curve = {f"{learner.name} from {summary['learns_from']}{labels}": run.rows("evaluations")}
    draw_learning_curve(curve, run.path("learning_curve.png"), title, unit=unit)
    return summary


def summarise(learner: Learner, run: Run) -> dict[str, Any]:
    """Return a run's figures; `last` is the final policy's evaluation, `best` that of the best of all, kept apart.

    The best one was chosen by the very evaluation that it reports, so it is an optimistic figure. Where there is no
    task to evaluate on, all are None.
    """
    rows, feedback = run.rows("evaluations"), getattr(learner, "feedback", None)
    measure = "mean_return" if not rows or math.isnan(rows[-1]["success"]) else "success"
    horizon = getattr(learner, "horizon", None)
    labels = getattr(learner, "labels", 0) if feedback is None else feedback.labels
    watched = {name: getattr(learner, name) for name in ("interventions", "expert_steps") if hasattr(learner, name)}
    return watched | {
        "task": learner.task,
        "algorithm": learner.name,
        "learns_from": learner.learns_from,
        "seed": learner.seed,
        unit_of(learner): learner.num_timesteps,
        "labels": labels,
        "queries": getattr(learner, "asked", labels) if feedback is None else feedback.asked,
        "evaluation_horizon": horizon or (find_task(learner.task).horizon if has_environment(learner.task) else None),
        "first": rows[0] if rows else None,
        "last": rows[-1] if rows else None,
        "best": max(rows, key=lambda row: (row[measure], row["mean_return"]), default=None),
        "best_mean_return": max((row["mean_return"] for row in rows), default=None),
    }


def _check_evaluations(run: Run) -> None:
    """Raise a PrefenvsError now where the rows of a resumed run could not be summed up at its end."""
    if any(not {"steps", "mean_return", "seconds"} <= row.keys() for row in run.rows("evaluations")):
        raise PrefenvsError(
            f"{run.path('evaluations.csv')} is damaged (its header lacks mean_return or seconds): "
            "put it back from a copy, or remove the file"
        )


def load_policy(run: Run) -> Policy:
    """Return the policy of a run's newest checkpoint, ready to predict.

    Raises PrefenvsError for a run without a checkpoint, or without a policy.
    """
    path = run.checkpoint / "model.zip"
    if not path.is_file():
        raise PrefenvsError(
            f"{run.folder} holds no checkpoint yet (no {path.name} in {path.parent.name}/); train it further first"
        )
    command, _, name = run.record["command"].partition(" ")
    if command != "train" or not name:
        raise PrefenvsError(f"{run.folder} is a run of `prefenvs {run.record['command']}`, which trains no policy")
    algorithm = find_algorithm(name)
    if algorithm.source == "offline":
        return load_offline(path, name=name)
    policy: Policy = algorithm.learner.load(path, device="cpu")
    return policy


def find_reward(run: Run) -> Path | None:
    """Return the file of the reward that a run has learned; None where it has learned none.

    A checkpoint holds a reward model too before the first answer, and where nobody is asked.
    """
    inside = run.checkpoint / "reward.pt"
    path = next((place for place in (inside, run.path("reward.pt")) if place.is_file()), None)
    state = run.checkpoint / "state.json"
    if path != inside or not state.is_file():
        return path
    with damage_told(state, "put the checkpoint back from a copy"):
        feedback = json.loads(state.read_text())["feedback"]
        return path if feedback is not None and feedback.get("fitted", True) else None


def load_reward(run: Run) -> RewardModel | None:
    """Return the reward that a run has learned, this library's or the user's own; None if it has none.

    Raises PrefenvsError for a reward of rendered pictures, which takes no observations; see `read_reward`.
    """
    path, named = find_reward(run), str(run.config.get("reward_model") or "")
    if path is None:
        return None
    if ":" not in named:
        return read_reward(path)
    env = prefenvs.make(run.task)
    kind = type(make_reward_model(named, flatdim(env.observation_space), flatdim(env.action_space), seed=0))
    env.close()
    with damage_told(path, f"put it back from a copy, or mend {kind.__name__}.load"):
        model: RewardModel = kind.load(path)
    return model


def load_offline(path: Path, device: str = "cpu", name: str | None = None) -> OfflineLearner[Any]:
    """Return the learner from fixed data that a file holds, whichever it is; it can act, but has no data."""
    kind: type[OfflineLearner[Any]] = find_algorithm(name or read_state(path)["algorithm"]).learner
    return kind.load(path, device=device)
