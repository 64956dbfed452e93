"""Training runs in run folders: learn, evaluate, keep checkpoints, stop and resume, and sum up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import MaybeCallback

from prefenvs.agents.offline.files import read_state
from prefenvs.agents.offline.learner import OfflineLearner
from prefenvs.agents.online.learner import PreferenceLearner
from prefenvs.agents.online.pebble import PEBBLE
from prefenvs.agents.runs.callbacks import CheckpointCallback, EvaluationCallback
from prefenvs.agents.runs.evaluation_process import EvaluationProcess
from prefenvs.agents.runs.groups import checkpointed
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.bench.curves import draw_learning_curve
from prefenvs.errors import PrefenvsError
from prefenvs.protocols import Policy
from prefenvs.runs import Run


def train(
    agents: Sequence[PreferenceLearner],
    runs: Sequence[Run],
    total_steps: int,
    evaluate_every: int,
    episodes: int = 10,
    progress: bool = True,
    evaluate_beside: bool = False,
) -> list[dict[str, Any]]:
    """Train until `total_steps` environment steps and return the summaries that are written to the run folders.

    Of one agent and its run. The folder then holds evaluations.csv, log/ (CSV and TensorBoard), the newest
    checkpoint, learning_curve.png and summary.json. After Ctrl-C the checkpoints are written before
    KeyboardInterrupt goes on, so a run can be resumed. evaluate_beside: in a process of its own, on another core.
    Raises PrefenvsError, without a summary, for a run that was to learn from labels and got none.
    """
    for run in runs:
        _check_evaluations(run)
    (first,), begin = agents, time.time()
    stop, beside = StopOnInterrupt(first.oracle), EvaluationProcess() if evaluate_beside else None
    callbacks: list[MaybeCallback] = []
    for agent, run in zip(agents, runs, strict=True):
        # A resumed run logs to a folder of its own, since the logger overwrites; TensorBoard shows them as one.
        agent.set_logger(configure(str(run.path(f"log/from-{agent.num_timesteps}")), ["csv", "tensorboard"]))
        evaluation = EvaluationCallback(
            run, task_of(agent), evaluate_every, episodes, seed=agent.seed or 0, beside=beside
        )
        callbacks.append([evaluation, CheckpointCallback(run.checkpoint, beside=beside), stop])
    with checkpointed(agents, runs, stop, beside, "steps"):
        first.learn(
            total_steps - first.num_timesteps if first.num_timesteps else total_steps,
            callbacks[0],
            reset_num_timesteps=first.num_timesteps == 0,
            progress_bar=progress,
        )
    seconds = round(time.time() - begin, 1)
    labelled = [(agent, run) for agent, run in zip(agents, runs, strict=True) if not lacks_labels(agent)]
    summaries = [_sum_up(agent, run, seconds) for agent, run in labelled]
    for agent, run in zip(agents, runs, strict=True):
        _check_labels(agent, run)
    return summaries


def lacks_labels(agent: PreferenceLearner) -> bool:
    """Tell whether an agent was to learn from labels and has none, so that its reward was never learned."""
    return agent.learns_from == "preferences" and (agent.feedback is None or not agent.feedback.labels)


def _check_labels(agent: PreferenceLearner, run: Run) -> None:
    """Raise a PrefenvsError for a run that was to learn from labels and got none, with what can be done."""
    if not lacks_labels(agent):
        return
    asked = 0 if agent.feedback is None else agent.feedback.asked
    if not asked:
        length, task = agent.config.segment_length, task_of(agent)
        why = f"no two segments of {length} steps were recorded in {task}: lower --segment-length or raise --steps"
    elif agent.oracle is not None and agent.oracle.pending:
        why = f"its {asked} queries still wait for an answer: train with --wait, or raise --steps"
    else:
        why = f"all {asked} queries were skipped: choose another rater, or raise --labels"
    raise PrefenvsError(f"{run.folder} learned nothing, since it got no label; {why}")


def task_of(agent: PreferenceLearner) -> str:
    """Return the id of the task that an agent is trained on."""
    return agent.recorder.buffer.task


def _sum_up(agent: PreferenceLearner, run: Run, seconds: float) -> dict[str, Any]:
    """Write what a finished run leaves beside its checkpoint, and return its summary."""
    summary = summarise(agent, run) | {"seconds": seconds}
    run.summarise(summary)
    asked = agent.learns_from == "preferences"
    learner = f"{agent.name}, {summary['labels']} labels" if asked else agent.learns_from
    title = f"{task_of(agent)}, seed {agent.seed}"
    draw_learning_curve({learner: run.rows("evaluations")}, run.path("learning_curve.png"), title)
    return summary


def summarise(agent: PreferenceLearner, run: Run) -> dict[str, Any]:
    """Return first and last evaluation, labels and learning signal of a run."""
    rows = run.rows("evaluations")
    return {
        "task": task_of(agent),
        "algorithm": agent.name,
        "learns_from": agent.learns_from,
        "seed": agent.seed,
        "steps": agent.num_timesteps,
        "labels": 0 if agent.feedback is None else agent.feedback.labels,
        "queries": 0 if agent.feedback is None else agent.feedback.asked,
        "first": rows[0],
        "last": rows[-1],
        "best_mean_return": max(row["mean_return"] for row in rows),
    }


def _check_evaluations(run: Run) -> None:
    """Raise a PrefenvsError now where the rows of a resumed run could not be summed up at its end."""
    if any(not {"steps", "mean_return", "seconds"} <= row.keys() for row in run.rows("evaluations")):
        raise PrefenvsError(
            f"{run.path('evaluations.csv')} is damaged (its header lacks mean_return or seconds): "
            "put it back from a copy, or remove the file"
        )


def load_policy(run: Run) -> Policy:
    """Return the policy of a run's newest checkpoint, ready to predict."""
    from prefenvs.agents import PrefPPO, StateRewardSAC
    from prefenvs.agents.runs.dqn import TrueRewardDQN

    path = run.checkpoint / "model.zip"
    if not path.is_file():
        raise PrefenvsError(
            f"{run.folder} holds no checkpoint yet (no {path.name} in {path.parent.name}/); train it further first"
        )
    algorithms: dict[str, type[PEBBLE] | type[PrefPPO] | type[TrueRewardDQN]] = {
        "train pebble": PEBBLE,
        "train prefppo": PrefPPO,
        "train clip": StateRewardSAC,
        "train dqn": TrueRewardDQN,
    }
    command = run.record["command"]
    if command in algorithms:
        return algorithms[command].load(path, device="cpu")
    return load_offline(path)


def load_offline(path: Path, device: str = "cpu") -> OfflineLearner[Any]:
    """Return the learner from fixed data that a file holds, whichever it is; it can act, but has no data."""
    from prefenvs.agents import BC, CPL, DPPO, IPL, IQL, OPPO

    kinds: dict[str, type[OfflineLearner[Any]]] = {kind.name: kind for kind in (BC, CPL, DPPO, IPL, IQL, OPPO)}
    return kinds[read_state(path)["algorithm"]].load(path, device=device)
