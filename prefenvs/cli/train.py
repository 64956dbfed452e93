"""`prefenvs train ALGORITHM`: built from the algorithm's declaration, every field of its configuration a flag."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefenvs.agents.registry import (
    ALGORITHMS,
    Algorithm,
    Online,
    Settings,
    describe_algorithm,
    find_algorithm,
    list_algorithms,
)
from prefenvs.cli import train_raters
from prefenvs.cli.flags import given_flags, keywords_of, parse_groups, restore
from prefenvs.cli.raters import make_rater, rater_on
from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, PositiveInt, Seed
from prefenvs.runs import Run
from prefenvs.tasks import Task, find_task, has_reward

if TYPE_CHECKING:
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.preferences import Oracle

EXAMPLE = "dmc-walker-walk-v0"
"""Whose defaults the help shows where no task is named."""
NOW = ("resume", "progress", "evaluate-beside", "threads")
"""Flags that may stand beside --resume."""


@dataclass(frozen=True)
class Training:
    """How long, where, and when the policy is measured."""

    steps: PositiveInt
    """Steps of training: of the environment online, gradient steps from fixed data."""
    preset: str
    """Where the defaults come from: the published settings for the task, or small ones for a CPU."""
    seed: Seed = 0
    """Seed of everything in training; evaluation has seeds of its own."""
    seeds: tuple[Seed, ...] = ()
    """Several seeds, each with the result that it has alone and a run folder of its own.

    {seed} in --folder becomes the seed, or else it is appended. iql, cpl and bc share gradient steps among the seeds;
    online, each seed is a process.
    """
    evaluate_every: PositiveInt = 10_000
    """Steps between two evaluations: of the environment online, gradient steps from fixed data."""
    episodes: PositiveInt = 10
    """Episodes in an evaluation."""
    evaluate_beside: bool = False
    """Evaluate in a process of its own while training goes on, which takes another core."""
    threads: PositiveInt = 1
    """PyTorch threads; small networks are slower with more."""
    device: DeviceName = "auto"
    """Where to train: auto, cpu or cuda."""
    folder: Path | None = None
    """Run folder; by default one below runs/, named by task, algorithm, learning signal and seed."""
    resume: Path | None = None
    """Continue the run in this folder; all other options come from it."""
    progress: bool = True
    """Show a progress bar with an ETA."""

    def of_each_seed(self) -> list[Training]:
        """Return the training of each seed; raises PrefenvsError where one stands twice."""
        if not self.seeds:
            return [self]
        if len(set(self.seeds)) < len(self.seeds):
            raise PrefenvsError(f"--seeds names a seed twice: {' '.join(map(str, self.seeds))}")
        return [
            dataclasses.replace(self, seed=seed, seeds=(), folder=folder_of(self.folder, seed)) for seed in self.seeds
        ]


@dataclass(frozen=True)
class OnlineTask:
    """What you must say."""

    task: str = ""
    """Task id; `prefenvs tasks` lists them."""


def folder_of(folder: Path | None, seed: int) -> Path | None:
    """Return the run folder of one seed of several."""
    if folder is None:
        return None
    name = str(folder)
    return Path(name.replace("{seed}", str(seed)) if "{seed}" in name else f"{name}-{seed}")


def train(arguments: Sequence[str]) -> None:
    """Train, or continue to train, and print the returns before and after.

    arguments: the algorithm's name and its flags. Raises PrefenvsError for what does not fit together.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(describe_algorithms())
        if not arguments:
            raise PrefenvsError("say which algorithm: prefenvs train ALGORITHM")
        return
    name, *rest = arguments
    algorithm, given = find_algorithm(name), given_flags(rest)
    resumed = None
    if "resume" in given and not {"-h", "--help"} & {*rest}:
        resumed = Run.resume(Path(given["resume"]), f"train {name}")
        if not algorithm.resumes:
            raise PrefenvsError(f"`prefenvs train {name}` cannot be resumed: start anew in another --folder")
        _check_resume(given)
    if algorithm.source == "offline":
        from prefenvs.cli.offline import train_offline

        train_offline(algorithm, rest, given, resumed)
    else:
        _train_online(algorithm, rest, given, resumed)


def describe_algorithms() -> str:
    """Return the list of algorithms, a line each; none is imported."""
    found = {name: describe_algorithm(place) for name, place in list_algorithms().items()}
    width = max(map(len, found))
    lines = [f"  {name:{width}}  {sentence}" for name, sentence in found.items()]
    usage = "usage: prefenvs train ALGORITHM [OPTIONS]\n\nTrain an agent. Each algorithm has its own options, with the"
    usage += " defaults of a task and preset:\nprefenvs train pebble --task dmc-walker-walk-v0 --preset small --help"
    return "\n".join([f"{usage}\n\nalgorithms:", *lines, "", "An algorithm of your own is called module:NAME."])


def algorithm_table() -> str:
    """Return the algorithms as a table in Markdown, made from their declarations."""
    learns = {"labels": "a rater's preferences", "states": "a reward of states", "true": "the true reward"}
    lines = ["| algorithm | `prefenvs train` | learns from | configuration |", "|---|---|---|---|"]
    for name in ALGORITHMS:
        algorithm = find_algorithm(name)
        where = "an environment" if algorithm.source == "online" else "a data set"
        lines.append(
            f"| {algorithm.title} | `{name}` | {where}, {learns[algorithm.signal]} | `{algorithm.config.__name__}` |"
        )
    return "\n".join(lines)


def read_groups(
    algorithm: Algorithm,
    arguments: Sequence[str],
    given: Mapping[str, str],
    task: Task,
    first: Mapping[str, Any],
    training: type[Training],
    resumed: Run | None,
) -> tuple[dict[str, Any], Settings]:
    """Return the groups of options as the command line has them, and the settings of the run.

    first: groups before that of the training. The defaults are the preset's for the task, or what a resumed run has
    kept.
    """
    saved = {} if resumed is None else resumed.config
    known = dict(saved) if resumed is not None else keywords_of(algorithm.preset, given)
    name = str(saved.get("preset") or given.get("preset", ""))
    preset = name if name in algorithm.presets else algorithm.presets[0]
    chosen = {key: value for key, value in known.items() if value is not None and key not in ("task", "name")}
    settings = algorithm.settings(task, preset, **chosen)
    groups: dict[str, Any] = {**first, "training": training(settings.steps, preset), "algorithm": settings.config}
    if settings.options is not None and dataclasses.fields(settings.options):
        groups["learner"] = settings.options
    if resumed is not None:
        groups = _restore(groups, resumed)
    example = "" if set(given) & {"task", "dataset", "resume"} else f" Defaults are those of {task.id}."
    groups = parse_groups(
        arguments,
        groups,
        f"prefenvs train {algorithm.name}",
        f"{describe_algorithm(list_algorithms().get(algorithm.name, algorithm.name))}{example}",
        {"preset": Literal[algorithm.presets]},
        settings.options.unused() if hasattr(settings.options, "unused") else (),
    )
    options = groups.get("learner", settings.options)
    settings = Settings(groups["algorithm"], groups["training"].steps, options)
    return groups, settings


def record_of(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings as a run folder keeps them."""
    return {name: value for group in groups.values() for name, value in dataclasses.asdict(group).items()}


def _restore(groups: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return the groups as a run folder has kept them; raises PrefenvsError for a setting that this version lacks."""
    saved = run.config
    known = {field.name for group in groups.values() for field in dataclasses.fields(group)}
    unknown = sorted(set(saved) - known)
    try:
        if unknown:
            raise PrefenvsError(f"it has the setting {unknown[0]!r}")
        return {title: restore(group, saved) for title, group in groups.items()}
    except PrefenvsError as error:
        raise PrefenvsError(
            f"{run.folder} was made by another version ({error}, which this one does not know): resume it with that "
            "version, or start anew in another --folder"
        ) from None


def _check_resume(given: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for flags that a resumed run has settled already."""
    if "seeds" in given:
        raise PrefenvsError("--resume continues one run: leave --seeds away, and resume each seed's run")
    from prefenvs.oracles import list_raters

    raters = {flag for rater in list_raters().values() for flag in rater.flags.values()}
    for flag in given:
        if flag not in NOW and flag not in raters:
            raise PrefenvsError(f"--{flag} comes from the run that --resume continues: leave it out")


def _train_online(
    algorithm: Algorithm, arguments: Sequence[str], given: Mapping[str, str], resumed: Run | None
) -> None:
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
    agent = algorithm.make_online(settings, Online(task, oracle, training.seed, training.device, reward))
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
            training.evaluate_beside,
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


def has_checkpoint(run: Run) -> bool:
    """Tell whether a run can go on from a checkpoint, and say so where it starts anew."""
    if not run.has_checkpoint:
        print(f"{run.folder} holds no checkpoint yet: the run starts anew", flush=True)
    return run.has_checkpoint


def report(
    summary: Mapping[str, Any],
    run: Run,
    rater: Oracle | None = None,
    dataset: OfflineDataset | None = None,
    caution: str = "",
) -> None:
    """Print the figures of a finished run, the final policy's and the best one's apart."""
    first, last, best = summary["first"], summary["last"], summary["best"]
    print(f"{summary['task']}, {summary['algorithm']} on {summary['learns_from']}, a single seed ({summary['seed']})")
    if dataset is None:
        print(f"labels: {summary['labels']} of {summary['queries']} queries; {summary['steps']} environment steps")
    else:
        print(f"{summary['dataset']}: {len(dataset)} episodes; labels: {summary['labels']}; "
              f"{summary['updates']} gradient steps")  # fmt: skip
    if summary.get("left_out"):
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["left_out_because"].items())
        print(f"labels left out: {summary['left_out']} ({reasons})")
    if summary.get("held_out_accuracy") is not None:
        print(f"held-out labels predicted: {summary['held_out_accuracy']:.1%} of {summary['held_out_labels']}")
    rows = {"before": first, "final": last, "best": best}
    if has_reward(summary["task"]):
        for name, row in rows.items():
            solved = "" if row["success"] != row["success"] else f", success {row['success']:.0%}"
            note = f" (chosen by this very evaluation, at step {row['steps']:.0f})" if name == "best" else ""
            print(f"true return, {name:6} {row['mean_return']:.1f} +- {row['std_return']:.1f}{solved}{note}")
    else:
        print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
    if summary["learns_from"] == "a reward of states":
        print(f"learned return before and after: {first['learned_return']:.2f}, {last['learned_return']:.2f}")
    if "normalised_score" in summary:
        print(f"normalised score, final {summary['normalised_score']:.1f}{caution}")
    print(f"run folder: {run.folder}")
    told = getattr(rater, "summary", None)
    if told is not None:
        print("\n".join(told()))
