"""`prefenvs train` in environments: the rater, the run of one seed, and several seeds as processes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefenvs.agents.registry import (
    Algorithm,
    Online,
)
from prefenvs.cli.raters import looks_at_pictures, make_rater, rater_on
from prefenvs.cli.train import raters as train_raters
from prefenvs.cli.train.options import EXAMPLE, Training, has_checkpoint, read_groups, record_of, report
from prefenvs.envs import draws_live
from prefenvs.errors import PrefenvsError
from prefenvs.runs import Run
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class OnlineTask:
    """What you must say."""

    task: str = ""
    """Task id (`prefenvs tasks` lists them), module:NAME, or an id that --import MODULE registers."""


def train_online(algorithm: Algorithm, arguments: Sequence[str], given: Mapping[str, str], resumed: Run | None) -> None:
    """Train in an environment, or continue to; raises PrefenvsError for what does not fit together."""
    import torch

    from prefenvs.agents.runs.train import train as train_runs

    words: dict[str, str] = dict(given)
    if resumed is not None:
        words |= _words_of(resumed.config)
    first: dict[str, Any] = {"environment": OnlineTask()}
    control = next((flag for flag in ("true-reward", "exploration-only") if words.get(flag) == "true"), None)
    if algorithm.signal == "labels" and control is not None:
        train_raters.check_no_rater(given, f"--{control}")
    elif algorithm.signal == "labels":
        first |= train_raters.rater_groups(words)
    elif algorithm.signal == "states":
        from prefenvs.oracles.clip.options import ClipOptions

        first["clip"] = ClipOptions()
    named = words.get("task", "")
    if not named and not {"-h", "--help"} & {*arguments}:
        raise PrefenvsError("say which task to train on: --task ID (`prefenvs tasks` lists them)")
    groups, settings = read_groups(algorithm, arguments, given, find_task(named or EXAMPLE), first, Training, resumed)
    training: Training = groups["training"]
    if resumed is None and training.seeds:
        _check_seeds(words)
        _train_seeds(algorithm, arguments, training)
        return
    task = find_task(groups["environment"].task)
    torch.set_num_threads(training.threads)
    rater = groups.get("rater")
    oracle = None
    if rater is not None:
        oracle = make_rater(rater.oracle, groups.get("rater_options"), task.id, training.seed)
    reward = groups["clip"].make(task, device=training.device) if algorithm.signal == "states" else None
    film = rater is not None and looks_at_pictures(dict(words)) and draws_live(task.id)
    agent = algorithm.make_online(settings, Online(task, oracle, training.seed, training.device, reward, film))
    # Settings are checked before a folder is made.
    if resumed is None:
        agent.check_run(settings.steps)
        who = "true-reward" if rater is None else re.sub(r"[^A-Za-z0-9.-]+", "-", rater.oracle)
        signal = {"labels": "no-labels" if control == "exploration-only" else who, "true": "true-reward"}
        parts = (task.file_name, algorithm.name.replace(":", "-"), signal.get(algorithm.signal, ""), training.seed)
        folder = training.folder or Path("runs") / "-".join(str(part) for part in parts if part != "")
        record = record_of(groups) | ({"true_reward": True} if algorithm.signal == "true" else {})
        run = Run.create(folder, f"train {algorithm.name}", record, resumable=algorithm.resumes)
    else:
        run = resumed
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.locked())
        if film:
            agent.recorder.film(run.path("recordings"))
        if rater is not None:
            train_raters.attach_rater(agent, run, stack)
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
        )
    report(summary, run, oracle)


def _words_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what a run folder has kept as words of a command line, by flag."""
    return {
        name.replace("_", "-"): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in config.items()
        if value is not None and not isinstance(value, dict | list)
    }


def _check_seeds(words: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for several seeds of a rater whose answers are late or cost something."""
    from prefenvs.oracles.make import read_spec

    spec, _ = rater_on(words)
    rater = read_spec(spec).rater
    if rater.late or rater.name in ("clip", "hybrid"):
        raise PrefenvsError(f"--seeds goes with simulated raters, not with --oracle {spec}: train one seed")


def _train_seeds(algorithm: Algorithm, arguments: Sequence[str], training: Training) -> None:
    """Train each seed in a process of its own, as many at a time as there are processors for their threads."""
    each = training.of_each_seed()
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
        lines.append([*rest, "--seed", str(one.seed), *place, "--no-progress"])
    most = max((os.cpu_count() or 1) // training.threads, 1)
    failed = run_side_by_side(
        [[sys.executable, "-m", "prefenvs", "train", algorithm.name, *line] for line in lines], most
    )
    if failed:
        seeds = ", ".join(str(each[number].seed) for number in failed)
        raise PrefenvsError(f"{len(failed)} of {len(each)} seeds failed ({seeds}): see above why")


def run_side_by_side(lines: Sequence[Sequence[str]], most: int) -> list[int]:
    """Run programs, `most` at a time, and return which failed; an interrupt is passed on once, and waited for."""
    waiting, running, failed = list(enumerate(lines)), dict[int, subprocess.Popen[bytes]](), list[int]()
    try:
        while waiting or running:
            while waiting and len(running) < most:
                number, line = waiting.pop(0)
                running[number] = subprocess.Popen(line, start_new_session=True)
            time.sleep(0.05)
            for number, process in [(n, p) for n, p in running.items() if p.poll() is not None]:
                failed += [number] if process.returncode else []
                del running[number]
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return sorted(failed)
