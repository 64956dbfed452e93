"""The options of every training, the groups of flags around them, and the figures of a finished run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefenvs.agents.registry import (
    Algorithm,
    Settings,
    describe_algorithm,
    list_algorithms,
)
from prefenvs.cli.train.flags import keywords_of, parse_groups, restore
from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, PositiveInt, Seed
from prefenvs.runs import Run
from prefenvs.tasks import Task, has_reward

if TYPE_CHECKING:
    from prefenvs.datasets.offline import OfflineDataset
    from prefenvs.preferences import Oracle

EXAMPLE = "dmc-walker-walk-v0"
"""Whose defaults the help shows where no task is named."""
NOW = ("resume", "progress", "evaluate-async", "threads")
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
    """Steps between two evaluations: of the environment online, gradient steps from fixed data.

    A fifth of a short run, but at least 1,000.
    """
    episodes: PositiveInt = 10
    """Episodes in an evaluation."""
    evaluate_async: bool = False
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
    wandb: str | None = None
    """Send what is logged to this project of Weights & Biases too; log/ holds it for TensorBoard and as CSV."""

    def of_each_seed(self) -> list[Training]:
        """Return the training of each seed; raises PrefenvsError where one stands twice."""
        if not self.seeds:
            return [self]
        if len(set(self.seeds)) < len(self.seeds):
            raise PrefenvsError(f"--seeds names a seed twice: {' '.join(map(str, self.seeds))}")
        return [
            dataclasses.replace(self, seed=seed, seeds=(), folder=folder_of(self.folder, seed)) for seed in self.seeds
        ]


def folder_of(folder: Path | None, seed: int) -> Path | None:
    """Return the run folder of one seed of several."""
    if folder is None:
        return None
    name = str(folder)
    return Path(name.replace("{seed}", str(seed)) if "{seed}" in name else f"{name}-{seed}")


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
    # A short run gets a curve too.
    every = min(training.evaluate_every, max(settings.steps // 5, 1_000))
    groups: dict[str, Any] = {
        **first,
        "training": training(settings.steps, preset, evaluate_every=every),
        "algorithm": settings.config,
    }
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
    if groups["training"].wandb is not None:
        from prefenvs.agents.runs.tracking import check_wandb

        check_wandb()
    options = groups.get("learner", settings.options)
    settings = Settings(groups["algorithm"], groups["training"].steps, options)
    return groups, settings


def advise_preset(algorithm: Algorithm, settings: Settings, given: Mapping[str, str], device: str) -> None:
    """Say what the published size means where nobody has chosen it and there is no GPU."""
    import torch

    smaller = " or ".join(f"--preset {name}" for name in algorithm.presets[1:])
    if smaller and "preset" not in given and (device == "cpu" or (device == "auto" and not torch.cuda.is_available())):
        hidden = getattr(settings.options, "hidden", None) or getattr(settings.config, "hidden", None)
        networks = f" and networks of {len(hidden)}x{hidden[0]}" if hidden else ""
        print(
            f"preset {algorithm.presets[0]}: {settings.steps:,} steps{networks}, on a CPU; {smaller} is made for one",
            file=sys.stderr,
        )


def record_of(groups: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings as a run folder keeps them."""
    return {name: value for group in groups.values() for name, value in dataclasses.asdict(group).items()}


def _restore(groups: Mapping[str, Any], run: Run) -> dict[str, Any]:
    """Return the groups as a run folder has kept them; raises PrefenvsError for a setting that this version lacks."""
    saved = run.config
    known = {field.name for group in groups.values() for field in dataclasses.fields(group)}
    # A run of an algorithm that knows no other reward says so for those who read it.
    unknown = sorted(set(saved) - known - {"true_reward"})
    try:
        if unknown:
            raise PrefenvsError(f"it has the setting {unknown[0]!r}")
        return {title: restore(group, saved) for title, group in groups.items()}
    except PrefenvsError as error:
        raise PrefenvsError(
            f"{run.folder} was made by another version ({error}, which this one does not know): resume it with that "
            "version, or start anew in another --folder"
        ) from None


def check_resume(given: Mapping[str, str]) -> None:
    """Raise a PrefenvsError for flags that a resumed run has settled already."""
    if "seeds" in given:
        raise PrefenvsError("--resume continues one run: leave out --seeds, and resume each seed's run")
    from prefenvs.oracles import list_raters

    raters = {flag for rater in list_raters().values() for flag in rater.flags.values()}
    for flag in given:
        if flag not in NOW and flag not in raters:
            raise PrefenvsError(f"--{flag} comes from the run that --resume continues: leave it out")


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
    about = summary["task"] or "no task"
    print(f"{about}, {summary['algorithm']} on {summary['learns_from']}, a single seed ({summary['seed']})")
    if "expert_steps" in summary:
        print(f"interventions: {summary['interventions']}; {summary['expert_steps']} of {summary['steps']} environment "
              "steps were the expert's")  # fmt: skip
    elif dataset is None:
        print(f"labels: {summary['labels']} from {summary['queries']} queries; {summary['steps']} environment steps")
    else:
        print(f"{summary['dataset']}: {len(dataset)} episodes; labels: {summary['labels']}; "
              f"{summary['updates']} gradient steps")  # fmt: skip
    if summary.get("left_out"):
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["left_out_because"].items())
        print(f"labels left out: {summary['left_out']} ({reasons})")
    if summary.get("held_out_accuracy") is not None:
        print(f"held-out labels predicted: {summary['held_out_accuracy']:.1%} of {summary['held_out_labels']}")
    rows = {"before": first, "final": last} | ({} if best is last else {"best": best})
    if last is None:
        print(f"not evaluated: the data tell no task to act in; `prefenvs evaluate {run.folder} --task ID` does it")
    elif has_reward(summary["task"]):
        for name, row in rows.items():
            solved = "" if row["success"] != row["success"] else f", success {row['success']:.0%}"
            note = f" (chosen by this very evaluation, at step {row['steps']:.0f})" if name == "best" else ""
            note = " (std over episodes)" if name == "before" else note
            print(f"true return, {name:6} {row['mean_return']:.1f} +- {row['std_return']:.1f}{solved}{note}")
    else:
        print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
    if summary["learns_from"] == "a reward of states":
        print(f"learned return before and after: {first['learned_return']:.2f}, {last['learned_return']:.2f}")
    if "normalised_score" in summary:
        print(f"normalised score, final {summary['normalised_score']:.1f}{caution}")
    print(f"run folder: {run.folder}")
    acts = "" if last is None else "record, evaluate, diagnose or "
    print(f"next: prefenvs {acts}export RUN; tensorboard --logdir RUN/log")
    told = getattr(rater, "summary", None)
    for line in () if told is None else told():
        print(line)
