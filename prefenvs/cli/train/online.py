"""`prefenvs train` in environments: the rater, the run of one seed, and several seeds as processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefenvs.agents.registry import Algorithm, Online
from prefenvs.cli.raters import looks_at_pictures, make_rater, rater_on
from prefenvs.cli.train import raters as train_raters
from prefenvs.cli.train.options import EXAMPLE, Training, advise_preset, has_checkpoint, read_groups, record_of, report
from prefenvs.envs import draws_live
from prefenvs.errors import PrefenvsError
from prefenvs.internal.child import end_with_parent
from prefenvs.limits import NonNegativeInt
from prefenvs.runs import Run
from prefenvs.tasks import Task, find_task


@dataclass(frozen=True)
class OnlineTask:
    """Required."""

    task: str = ""
    """Task id (`prefenvs tasks` lists them), module:NAME, or an id that --import MODULE registers."""


@dataclass(frozen=True)
class RewardTraining(Training):
    """How long, where, and when the policy is measured."""

    reward_model: str | None = None
    """What takes the ensemble's place: transformer, gaussian or groups, with small settings, or module:NAME of your own
    (see `prefenvs.protocols.RewardModel`)."""
    keep_best: NonNegativeInt = 0
    """End with the policy, of those at so many last evaluations, that the learned reward calls best, by episodes of
    their own; 0 ends with the last one."""


def train_online(algorithm: Algorithm, arguments: Sequence[str], given: Mapping[str, str], resumed: Run | None) -> None:
    """Train in an environment, or continue to; raises PrefenvsError for what does not fit together."""
    import torch

    from prefenvs.agents.runs.train import train as train_runs

    words: dict[str, str] = dict(given)
    if resumed is not None:
        words |= _words_of(resumed.config)
    control = next((flag for flag in ("true-reward", "exploration-only") if words.get(flag) == "true"), None)
    first = {"environment": OnlineTask()} | _signal_groups(algorithm, given, words, control)
    named = words.get("task", "")
    if not named and not {"-h", "--help"} & {*arguments}:
        raise PrefenvsError("say which task to train on: --task ID (`prefenvs tasks` lists them)")
    kind = RewardTraining if control is None and algorithm.takes_reward_model else Training
    groups, settings = read_groups(algorithm, arguments, given, find_task(named or EXAMPLE), first, kind, resumed)
    training: Training = groups["training"]
    task = find_task(groups["environment"].task)
    torch.set_num_threads(training.threads)
    rater = groups.get("rater")
    signal = {"exploration-only": "no-labels", "true-reward": "true-reward"}.get(control or "", "")
    if algorithm.signal == "true":
        signal = "true-reward"
    elif rater is not None:
        signal = re.sub(r"[^\w.-]+", "-", rater.oracle)
    if resumed is None and training.seeds:
        _check_seeds(words)
    each = training.of_each_seed()
    folders = [_folder(one, task, algorithm, signal) for one in each]
    oracle = None
    if rater is not None:
        _check_lists(getattr(settings.config, "lists", None), words)
        oracle = make_rater(rater.oracle, rater, task.id, each[0].seed)
    reward = groups["clip"].make(task, device=training.device) if algorithm.signal == "states" else None
    film = rater is not None and looks_at_pictures(dict(words)) and draws_live(task.id)
    own = getattr(training, "reward_model", None)
    given_to = Online(task, oracle, each[0].seed, training.device, reward, film, own)
    agent = algorithm.make_online(settings, given_to)
    _check_ensemble(agent, given)
    if resumed is None:
        # All is checked before a folder is made, or a process started.
        agent.check_run(settings.steps)
        for folder in folders:
            Run.check_new(folder, algorithm.resumes)
        if training.seeds:
            agent.get_env().close()
            _train_seeds(algorithm, arguments, each)
            return
        advise_preset(algorithm, settings, given, training.device)
        record = record_of(groups) | ({"true_reward": True} if algorithm.signal == "true" else {})
        run = Run.create(folders[0], f"train {algorithm.name}", record, resumable=algorithm.resumes)
    else:
        run = resumed
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.locked())
        if rater is not None:
            train_raters.attach_rater(agent, run, stack, film)
        if resumed is not None and has_checkpoint(run):
            agent.resume(run.checkpoint)
        (summary,) = train_runs(
            [agent],
            [run],
            settings.steps,
            training.evaluate_every,
            training.episodes,
            training.progress,
            training.evaluate_async,
            wandb=training.wandb,
            keep_best=getattr(training, "keep_best", 0),
        )
    report(summary, run, oracle)


def _signal_groups(
    algorithm: Algorithm, given: Mapping[str, str], words: Mapping[str, str], control: str | None
) -> dict[str, Any]:
    """Return the group of options about what is learned from; raises PrefenvsError for one that has no effect."""
    if algorithm.signal == "labels" and control is not None:
        train_raters.check_no_rater(given, f"--{control}")
    elif algorithm.signal == "labels":
        return train_raters.rater_groups(words)
    elif algorithm.signal == "states":
        from prefenvs.oracles.clip.options import ClipOptions

        return {"clip": ClipOptions()}
    return {}


def _folder(training: Training, task: Task, algorithm: Algorithm, signal: str) -> Path:
    """Return the run folder: the one that is named, or one below runs/."""
    parts = (task.file_name, algorithm.name.replace(":", "-"), signal, training.seed)
    return training.folder or Path("runs") / "-".join(str(part) for part in parts if part != "")


def _words_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run folder has kept as words of a command line, by flag."""
    return {
        name.replace("_", "-"): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config.items()
        if value is not None and not isinstance(value, dict | list)
    }


def _check_ensemble(agent: Any, given: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for a setting of the reward ensemble where another model is in its place."""
    from prefenvs.agents.online.learner import OF_PICTURES
    from prefenvs.agents.rewards.ensemble import RewardEnsemble
    from prefenvs.agents.rewards.image.observed import PixelReward

    model = getattr(agent, "reward_model", None)
    if model is None or isinstance(model, RewardEnsemble):
        return
    known = OF_PICTURES if isinstance(model, PixelReward) else ()
    for flag in given:
        if flag.startswith("reward.") and flag.removeprefix("reward.").replace("-", "_") not in known:
            raise PrefenvsError(
                f"--{flag} is about the reward ensemble, in whose place is {type(model).__name__}: leave it out"
            )


def _check_lists(lists: str | None, words: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for ranked lists by a rater whose answers are late."""
    from prefenvs.oracles.make import read_spec

    spec, _ = rater_on(words)
    if lists is not None and read_spec(spec).rater.late:
        raise PrefenvsError(f"--lists {lists} needs a rater that answers at once, and {spec} does not: leave it out")


def _check_seeds(words: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for several seeds of a rater whose answers are late or cost something."""
    from prefenvs.oracles.make import read_spec

    spec, _ = rater_on(words)
    rater = read_spec(spec).rater
    if rater.late or rater.name in ("clip", "hybrid"):
        raise PrefenvsError(f"--seeds goes with simulated raters, not with --oracle {spec}: train one seed")


def _train_seeds(algorithm: Algorithm, arguments: Sequence[str], each: Sequence[Training]) -> None:
    """Train each seed in a process of its own, as many at a time as there are processors for their threads."""
    rest, words = [], iter(arguments)
    pending = next(words, None)
    while pending is not None:
        flag = pending.partition("=")[0]
        following = next(words, None)
        if flag in ("--seeds", "--folder"):
            while following is not None and not following.startswith("--"):
                following = next(words, None)
        else:
            rest.append(pending)
        pending = following
    lines = []
    for one in each:
        place = [] if one.folder is None else ["--folder", str(one.folder)]
        line = [*rest, "--seed", str(one.seed), *place, "--no-progress"]
        lines.append([sys.executable, "-m", "prefenvs", "train", algorithm.name, *line])
    most = max((os.cpu_count() or 1) // each[0].threads, 1)
    failed = run_side_by_side(lines, most)
    if failed:
        seeds = ", ".join(str(each[number].seed) for number in failed)
        raise PrefenvsError(f"{len(failed)} of {len(each)} seeds failed ({seeds}): see above why")


def run_side_by_side(lines: Sequence[Sequence[str]], most: int) -> list[int]:
    """Run programs, `most` at a time, and return which failed.

    A KeyboardInterrupt goes on once all have been asked to stop, and have ended.
    """
    waiting, running, failed = list(enumerate(lines)), dict[int, subprocess.Popen[bytes]](), list[int]()
    call_off = dict[int, Callable[[], None]]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                number, line = waiting.pop(0)
                # In a session of its own, or a terminal's Ctrl-C would reach it twice.
                running[number] = subprocess.Popen(line, start_new_session=True)
                call_off[number] = end_with_parent(running[number].pid)
            time.sleep(0.05)
            for number, process in [(n, p) for n, p in running.items() if p.poll() is not None]:
                failed += [number] if process.returncode else []
                del running[number]
                call_off.pop(number)()
    finally:
        stop(list(running.values()))
        for each in call_off.values():
            each()
    return sorted(failed)


def stop(running: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask programs to stop, and wait until they have; a further Ctrl-C is passed on to those that have not yet."""
    for process in running:
        process.terminate()
    while running:
        try:
            time.sleep(0.05)
            running = [process for process in running if process.poll() is None]
        except KeyboardInterrupt:
            for process in running:
                process.terminate()
