"""`prefenvs train` from a fixed data set: which data, which labels, and the runs of one or several seeds."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefenvs.agents.registry import Algorithm, Offline, Settings
from prefenvs.cli.train import labels as offline_labels
from prefenvs.cli.train.labels import LabelOptions, Labels, LabelSource
from prefenvs.cli.train.options import (
    EXAMPLE,
    Training,
    advise_preset,
    has_checkpoint,
    read_groups,
    record_of,
    report,
)
from prefenvs.datasets.d4rl.entries import find_d4rl
from prefenvs.datasets.load import load_dataset
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveFloat, PositiveInt
from prefenvs.runs import Run
from prefenvs.tasks import Task, find_task, has_environment

if TYPE_CHECKING:
    from prefenvs.agents.offline.tables import RankedSegments


@dataclass(frozen=True)
class DataOptions:
    """Required: the data to learn from."""

    dataset: str = ""
    """Data set by name or path: D4RL (d4rl/halfcheetah-medium-v2), Minari (minari/...), imitation, .npz files, LeRobot,
    robomimic, or videos."""
    task: str = ""
    """Task to evaluate on, where the data set does not tell it; without one the policy is not evaluated."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take, and so may a label table; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings, and their labels."""


@dataclass(frozen=True)
class OfflineTraining(Training):
    """How long, where, and when the policy is measured."""

    evaluate_every: PositiveInt = 5_000
    """Gradient steps between two evaluations."""
    compile: bool = False
    """Compile the loss by torch.compile (iql, bc, cpl): on a CPU IQL is a tenth to a fifth faster by it, CPL slower."""


@dataclass(frozen=True)
class Fitting:
    """One seed's training, the labels that it learns from, and its learner."""

    training: OfflineTraining
    labels: Labels
    learner: Any


def train_offline(
    algorithm: Algorithm, arguments: Sequence[str], given: Mapping[str, str], resumed: Run | None
) -> None:
    """Train from fixed data, or continue to, and print the figures."""
    kept = {} if resumed is None else resumed.config
    names = {name: str(kept.get(name) or given.get(name.replace("_", "-"), "")) for name in ("dataset", "task")}
    gib = kept.get("max_gib") or _number(given.get("max-gib"))
    skip = bool(kept.get("skip_damaged", given.get("skip-damaged", "false") != "false"))
    only_help = not names["dataset"] and {"-h", "--help"} & {*arguments}
    dataset = None if only_help else _load(names["dataset"], names["task"], gib, skip)
    task = find_task(names["task"] or EXAMPLE) if dataset is None else task_of(dataset)
    first = {"data": DataOptions(), "rater": LabelOptions()}
    groups, settings = read_groups(algorithm, arguments, given, task, first, OfflineTraining, resumed)
    assert dataset is not None
    groups["data"] = dataclasses.replace(groups["data"], task=dataset.task)
    _check_labels_matter(given, settings)
    fittings = _assemble(algorithm, groups, settings, dataset, resumed)
    if resumed is None:
        advise_preset(algorithm, settings, given, groups["training"].device)
    _train(algorithm, groups, settings, fittings, dataset, resumed)


def _check_labels_matter(given: Mapping[str, str], settings: Settings) -> None:
    """Raise a PrefenvsError for an option about labels where the learner's options need none."""
    options = settings.options
    if options is None or options.needs_labels(settings.config):
        return
    # Ranks are made of as many segments as there would be labels.
    ranked = ("labels", "preferences", "held-out") if getattr(options, "dense", False) else ()
    for flag in ("shuffle-labels", "labels", "preferences", "held-out", "lists", "list-questions"):
        if flag in given and flag not in ranked:
            raise PrefenvsError(f"--{flag} is about labels, of which this learner needs none here: leave it out")


def _number(text: str | None) -> float | None:
    """The number that a word says; what is none is refused later."""
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and 0 < number < math.inf else None


def _load(name: str, task: str, max_gib: float | None, skip_damaged: bool) -> OfflineDataset:
    if not name:
        raise PrefenvsError("say what to learn from: --dataset NAME or FOLDER (`prefenvs collect` makes some)")
    dataset = load_dataset(name, task or None, max_gib=max_gib, skip_damaged=skip_damaged)
    if not dataset.trajectories.actions.shape[1] or not dataset.trajectories.observations.shape[1]:
        what = "actions" if not dataset.trajectories.actions.shape[1] else "observations"
        way = "`prefenvs actions` infers actions" if what == "actions" else "`prefenvs features` makes some of pictures"
        raise PrefenvsError(
            f"data set {name} holds no {what}, of which a policy learns: {way}; without them fit a reward with "
            "`prefenvs reward`, or compare its policies with `prefenvs judge --dataset`"
        )
    if dataset.task:
        find_task(dataset.task)
    if not has_environment(dataset.task):
        why = "tells no task to act in, so nothing is evaluated: --task ID names one"
        print(f"data set {dataset.name!r} {why}", flush=True)
    return dataset


def task_of(dataset: OfflineDataset) -> Task:
    """Return the task of a data set; where it tells none, a row without id, for the presets of no family."""
    if dataset.task:
        return find_task(dataset.task)
    return Task("", "", "", horizon=dataset.time_limit, segment_length=min(50, dataset.time_limit), fps=1, source="")


def _assemble(
    algorithm: Algorithm, groups: Mapping[str, Any], settings: Settings, dataset: OfflineDataset, resumed: Run | None
) -> list[Fitting]:
    """Gather labels and make the learner of each seed; no folder is made before all settings were checked."""
    import torch

    training, options, wanted = groups["training"], settings.options, groups["rater"]
    each = training.of_each_seed() if resumed is None else [training]
    _check_speed(algorithm, training, len(each))
    torch.set_num_threads(training.threads)
    true_reward = bool(getattr(options, "true_reward", False))
    needs = options is None or options.needs_labels(settings.config)
    sources = [LabelSource(wanted, one.seed, groups["data"].max_gib) for one in each]
    skip = groups["data"].skip_damaged
    labels = [_labels_of(source, dataset, resumed, skip) if needs else Labels(None, [], {}) for source in sources]
    parts = [
        Offline(
            dataset,
            own.train,
            one.seed,
            one.device,
            one.folder if resumed is None else resumed.folder,
            partial(rank, source, dataset),
            dataset.trajectories.true_rewards if true_reward else None,
            dataset.trajectories.returns if true_reward and dataset.trajectories.true_rewards is not None else None,
        )
        for one, own, source in zip(each, labels, sources, strict=True)
    ]
    learners = algorithm.make_offline(settings, parts)
    for learner in learners:
        learner.check_run(settings.steps)
        if training.compile:
            learner.compile()
        if resumed is not None and has_checkpoint(resumed):
            learner.resume(resumed.checkpoint)
    return [Fitting(*parts) for parts in zip(each, labels, learners, strict=True)]


def _labels_of(source: LabelSource, dataset: OfflineDataset, resumed: Run | None, skip_damaged: bool) -> Labels:
    """Return the labels of the run that is resumed, or those that the options name."""
    if resumed is not None and resumed.path("preferences.sqlite").is_file():
        return offline_labels.kept(resumed)
    labels = source.read(dataset)
    return offline_labels.labels_at_hand(labels, dataset.trajectories) if skip_damaged else labels


def _check_speed(algorithm: Algorithm, training: OfflineTraining, seeds: int) -> None:
    """Raise a PrefenvsError for options of speed that cannot be had, before anything else takes time."""
    if not training.compile:
        return
    from prefenvs.agents.offline.single_loss import check_compiler

    if not hasattr(algorithm.learner, "compile"):
        raise PrefenvsError(f"--compile goes with iql, bc and cpl, not with {algorithm.name}")
    if seeds > 1:
        raise PrefenvsError("--compile goes with one seed: updates of several in one pass are slower by it")
    check_compiler("inductor", training.device)


def _train(
    algorithm: Algorithm,
    groups: Mapping[str, Any],
    settings: Settings,
    fittings: Sequence[Fitting],
    dataset: OfflineDataset,
    resumed: Run | None,
) -> None:
    from prefenvs.agents.runs.train import group_of, train

    learners, training = [fitting.learner for fitting in fittings], groups["training"]
    group_of(learners)
    rater = groups["rater"].rater
    signal = rater if settings.options is None else settings.options.signal(rater, settings.config)
    runs = [
        resumed or _create_run(algorithm, {**groups, "training": fitting.training}, fitting, signal)
        for fitting in fittings
    ]
    facts = [_facts(fitting, dataset, signal) for fitting in fittings]
    with contextlib.ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked())
        summaries = train(
            learners,
            runs,
            settings.steps,
            training.evaluate_every,
            training.episodes,
            training.progress,
            training.evaluate_async,
            facts,
            training.wandb,
        )
    for fitting, run, summary in zip(fittings, runs, summaries, strict=True):
        if fitting.labels.held_out:
            accuracy = fitting.learner.preference_accuracy(fitting.labels.held_out)
            summary["held_out_accuracy"] = None if math.isnan(accuracy) else accuracy
        caution = ""
        if scores_hold(dataset) and summary["last"] is not None:
            differs = find_d4rl(dataset.name).differs if dataset.name.startswith("d4rl/") else ""
            caution = f" (not quite D4RL's: {differs})" if differs else ""
            summary["normalised_score"] = float(dataset.normalised_score(summary["last"]["mean_return"]))
        run.summarise(summary)
        report(summary, run, dataset=dataset, caution=caution)


def _create_run(algorithm: Algorithm, groups: Mapping[str, Any], fitting: Fitting, signal: str) -> Run:
    training, data = fitting.training, groups["data"]
    about = re.sub(r"[^\w.-]+", "-", find_task(data.task).file_name if data.task else Path(data.dataset).stem)
    name = f"{about}-{algorithm.name.replace(':', '-')}-{signal}-{training.seed}"
    run = Run.create(training.folder or Path("runs") / name, f"train {algorithm.name}", record_of(groups))
    if fitting.labels.train is not None:
        offline_labels.keep(run, fitting.labels)
    from prefenvs.agents.rewards.kinds import ENSEMBLE

    model = getattr(fitting.learner, "reward_model", None)
    # The ensemble lies in the checkpoint; what takes long to fit is kept before training begins.
    if model is not None and getattr(groups.get("learner"), "reward_model", ENSEMBLE[0]) not in ENSEMBLE:
        model.save(run.path("reward.pt"))
    return run


def _facts(fitting: Fitting, dataset: OfflineDataset, signal: str) -> dict[str, Any]:
    """Return what the summary tells about the data and labels."""
    held_out, left_out = fitting.labels.held_out, dict(fitting.labels.left_out)
    answered = sum(not preference.skipped for preference in fitting.labels.train or ())
    if getattr(fitting.learner, "drops_ties", False) and fitting.learner.labels < answered:
        left_out["tied"] = answered - fitting.learner.labels
    facts: dict[str, Any] = {"dataset": dataset.name, "signal": signal}
    facts |= {"inferred_actions": dataset.inferred_share} if dataset.inferred is not None else {}
    facts |= {"left_out": sum(left_out.values()), "left_out_because": left_out}
    return facts | ({"held_out_labels": len(held_out)} if held_out else {})


def scores_hold(dataset: OfflineDataset) -> bool:
    """Tell whether a data set has reference scores for its task, over the episodes by which policies are evaluated."""
    if dataset.reference_scores is None:
        return False
    if not dataset.name.startswith("d4rl/"):
        return True
    entry = find_d4rl(dataset.name)
    return entry.horizon is not None and entry.horizon == dataset.horizon and entry.task == dataset.task


def rank(source: LabelSource, dataset: OfflineDataset) -> RankedSegments:
    """Score segments of a data set by a simulated rater's values of their steps, summed.

    Raises PrefenvsError for options that do not go with ranks, and a rater without values of steps.
    """
    import numpy as np

    from prefenvs.agents.offline.tables import RankedSegments
    from prefenvs.oracles.simulated.synthetic import SyntheticOracle

    if source.kind == "given":
        raise PrefenvsError("--dense ranks segments by a simulated rater: give --preferences oracle or regret:EXPERT")
    if source.options.held_out:
        raise PrefenvsError("--dense has no held-out labels: leave it out")
    oracle, rng = source.make_oracle(dataset), np.random.default_rng([source.seed, 1])
    if not isinstance(oracle, SyntheticOracle):
        raise PrefenvsError(f"--dense ranks segments by the values of their steps, which {oracle.name} does not give")
    segments = dataset.trajectories.sample(source.options.labels or 500, source.length(dataset), rng)
    return RankedSegments(segments, oracle.step_values(list(segments)).sum(1))
