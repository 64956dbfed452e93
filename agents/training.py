"""One training run in a run folder: learn, evaluate, keep checkpoints, stop and resume, and sum up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import configure

from agents.callbacks import CheckpointCallback, EvaluationCallback
from agents.interrupt import StopOnInterrupt
from agents.learner import PreferenceLearner
from agents.offline import OfflineLearner
from agents.offline_files import read_state
from prefenvs.curves import draw_learning_curve
from prefenvs.errors import PrefenvsError
from prefenvs.protocols import Policy
from prefenvs.runs import Run


def train(
    agent: PreferenceLearner, run: Run, total_steps: int, evaluate_every: int, episodes: int = 10, progress: bool = True
) -> dict[str, Any]:
    """Train until `total_steps` environment steps and return the summary that is written to the run folder.

    The folder then holds evaluations.csv, log/ (CSV and TensorBoard), the newest checkpoint, learning_curve.png and
    summary.json. After Ctrl-C the checkpoint is written before KeyboardInterrupt goes on, so a run can be resumed.
    """
    task = agent.recorder.buffer.task
    # A resumed run logs to a folder of its own, since the logger overwrites; TensorBoard shows them as one.
    agent.set_logger(configure(str(run.path(f"log/from-{agent.num_timesteps}")), ["csv", "tensorboard"]))
    evaluation = EvaluationCallback(run, task, evaluate_every, episodes, seed=agent.seed or 0)
    begin = time.time()
    stop = StopOnInterrupt(agent.oracle)
    try:
        with stop:
            agent.learn(
                total_steps - agent.num_timesteps if agent.num_timesteps else total_steps,
                callback=[evaluation, CheckpointCallback(run.checkpoint), stop],
                reset_num_timesteps=agent.num_timesteps == 0,
                progress_bar=progress,
            )
    except KeyboardInterrupt:
        if stop.safe:
            agent.save_checkpoint(run.checkpoint)
        print(f"\nstopped after {agent.num_timesteps} steps; to continue:")
        print(f"prefenvs train {agent.name} --resume {run.folder}")
        raise
    agent.save_checkpoint(run.checkpoint)
    summary = summarise(agent, run) | {"seconds": round(time.time() - begin, 1)}
    run.summarise(summary)
    asked = agent.learns_from == "preferences"
    learner = f"{agent.name}, {summary['labels']} labels" if asked else agent.learns_from
    draw_learning_curve(
        {learner: run.rows("evaluations")}, run.path("learning_curve.png"), f"{task}, seed {agent.seed}"
    )
    return summary


def summarise(agent: PreferenceLearner, run: Run) -> dict[str, Any]:
    """Return first and last evaluation, labels and learning signal of a run."""
    rows = run.rows("evaluations")
    return {
        "task": agent.recorder.buffer.task,
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


def load_policy(run: Run) -> Policy:
    """Return the policy of a run's newest checkpoint, ready to predict."""
    from stable_baselines3 import DQN

    from agents import PEBBLE, PrefPPO, StateRewardSAC

    path = run.checkpoint / "model.zip"
    if not path.is_file():
        raise PrefenvsError(
            f"{run.folder} holds no checkpoint yet (no {path.name} in {path.parent.name}/); train it further first"
        )
    algorithms: dict[str, type[PEBBLE] | type[PrefPPO] | type[DQN]] = {
        "train pebble": PEBBLE,
        "demo": PEBBLE,
        "train prefppo": PrefPPO,
        "train clip": StateRewardSAC,
        "train dqn": DQN,
    }
    command = run.record["command"]
    if command in algorithms:
        return algorithms[command].load(path, device="cpu")
    return load_offline(path)


def load_offline(path: Path, device: str = "cpu") -> OfflineLearner[Any]:
    """Return the learner from fixed data that a file holds, whichever it is; it can act, but has no data."""
    from agents import BC, CPL, DPPO, IPL, IQL, OPPO

    kinds: dict[str, type[OfflineLearner[Any]]] = {kind.name: kind for kind in (BC, CPL, DPPO, IPL, IQL, OPPO)}
    return kinds[read_state(path)["algorithm"]].load(path, device=device)
