"""What `prefenvs train iql`, `cpl`, `bc`, `oppo`, `ipl` and `dppo` have in common: learners from a fixed data set."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from prefenvs.cli import offline_labels
from prefenvs.cli.offline_labels import Labels, LabelSource, RegretForm
from prefenvs.cli.run_options import RunOptions
from prefenvs.cli.seeds import check_resume, of_seeds
from prefenvs.cli.train import has_checkpoint
from prefenvs.datasets.d4rl import find_d4rl
from prefenvs.datasets.load import load_dataset
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, Fraction, PositiveFloat, PositiveInt, Seed
from prefenvs.runs import Run
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.agents.offline.learner import OfflineLearner
    from prefenvs.agents.offline.single_loss import SingleLossLearner
    from prefenvs.preferences import Preference


@dataclass(frozen=True)
class TrainOffline(RunOptions, ABC):
    """What every learner from fixed data is told; settings that are not given are the published ones."""

    algorithm: ClassVar[str]
    one_loss: ClassVar[bool] = False
    """Whether it is one of those learners whose update lowers one loss (prefenvs.agents.offline.single_loss)."""

    dataset: str = ""
    """D4RL name (d4rl/halfcheetah-medium-v2) or file, Minari name (minari/...) or folder, or folder of .npz files."""
    task: str = ""
    """Task to evaluate on, where the data set does not tell it."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the data set may take; by default 4."""
    preferences: str = "oracle"
    """A rater that answers on the spot, a store, or a folder of published labels.

    Raters are those of `train pebble --oracle`: oracle, mistake, crowd-mujoco, coin, module:NAME, ... or
    regret:EXPERT, by the advantages of a run folder of `train iql --true-reward`, `train pebble --true-reward` or
    `train dqn`, or a .zip of Stable-Baselines3.
    """
    regret_form: RegretForm = "advantage"
    """Regret as the sum of advantages, telescoped by V (deterministic), or so without the last action (visited: CPL's).

    The telescoped forms need V alone, which is learned sooner than the small differences that advantages are.
    """
    regret_discount: Fraction = 1.0
    """The rater's discount within a segment, for regret: 1 as in CPL's labels; no learner's own discount."""
    labels: PositiveInt | None = None
    """Labels to learn from: 500 from a simulated rater, by default all that a store or file holds."""
    segment_length: PositiveInt | None = None
    """Steps in a segment, for simulated raters."""
    shuffle_labels: bool = False
    """Control: permute the labels over their queries, so that they say nothing."""
    held_out: Fraction = 0.0
    """Share of the episodes kept for measuring how well held-out labels are predicted; never by single labels."""
    preset: Literal["published", "small"] = "published"
    """small: smaller networks and batches and larger steps, for a CPU."""
    steps: PositiveInt | None = None
    """Gradient steps."""
    normalise_observations: bool | None = None
    """Give observations mean 0 and standard deviation 1."""
    seeds: tuple[Seed, ...] = ()
    """Several seeds trained side by side in one process, each with the result that it has alone (iql, cpl, bc).

    Each has a run folder of its own: {seed} in --folder becomes the seed, or else it is appended.
    """
    precision: Literal["float32", "bfloat16"] | None = None
    """bfloat16 multiplies in that type within the networks (iql, bc, cpl): faster where the processor has it."""
    compile: bool = False
    """Compile the loss by torch.compile (iql, bc, cpl): on a CPU IQL is a tenth to a fifth faster by it, CPL slower."""
    device: DeviceName = "auto"
    """Where to train: auto, cpu or cuda."""
    evaluate_every: PositiveInt = 5_000
    """Gradient steps between two evaluations."""

    def run(self) -> None:
        """Train, or continue to train, and print the returns before and after."""
        if self.resume is not None:
            check_resume(self.seeds)
            run = Run.resume(self.resume, f"train {self.algorithm}")
            options = dataclasses.replace(self, **run.config | {"folder": run.folder, "progress": self.progress})
            dataset = options._load()
            options._train(options._assemble([options], dataset, run), dataset)
            return
        dataset = self._load()
        options = dataclasses.replace(self, task=dataset.task)
        each = of_seeds(options, self.seeds) if self.seeds else [options]
        self._train(self._assemble(each, dataset), dataset)

    def _load(self) -> OfflineDataset:
        if not self.dataset:
            raise PrefenvsError("say what to learn from: --dataset NAME or FOLDER (`prefenvs collect` makes some)")
        if self.steps is not None and self.steps < 1:
            raise PrefenvsError(f"--steps must be at least 1, got {self.steps}")
        dataset = load_dataset(self.dataset, self.task or None, max_gib=self.max_gib)
        if not dataset.task:
            raise PrefenvsError(f"data set {dataset.name!r} does not tell its task: give --task ID (`prefenvs tasks`)")
        find_task(dataset.task)
        return dataset

    def _assemble(self, each: Sequence[Self], dataset: OfflineDataset, resumed: Run | None = None) -> list[_Training]:
        """Gather labels and make the learner of each seed; no folder is made before all settings were checked."""
        import torch

        self._check_speed(len(each))
        if self.shuffle_labels and not self._needs_preferences:
            raise PrefenvsError("--shuffle-labels is about labels, of which this learner needs none: leave it out")
        torch.set_num_threads(self.threads)
        nothing = Labels(None, [], {})
        labels = [one._preferences(dataset, resumed) if one._needs_preferences else nothing for one in each]
        made = self._make_learners(each, dataset, [own.train for own in labels])
        for learner, steps in made:
            learner._check_total(steps)
            if self.compile:
                cast("SingleLossLearner[Any]", learner).compile()
            if resumed is not None and has_checkpoint(resumed):
                learner.resume(resumed.checkpoint)
        return [
            _Training(options, learner, steps, own, resumed)
            for options, (learner, steps), own in zip(each, made, labels, strict=True)
        ]

    def _check_speed(self, seeds: int) -> None:
        """Raise a PrefenvsError for options of speed that cannot be had, before anything else takes time."""
        from prefenvs.agents.offline.single_loss import check_compiler

        for name in ("compile", "precision"):
            if getattr(self, name) and not self.one_loss:
                raise PrefenvsError(f"--{name} goes with iql, bc and cpl, not with {self.algorithm}")
        if self.compile:
            if seeds > 1:
                raise PrefenvsError("--compile goes with one seed: updates of several in one pass are slower by it")
            check_compiler("inductor", self.device)

    def _train(self, trainings: Sequence[_Training], dataset: OfflineDataset) -> None:
        from prefenvs.agents.runs.train_offline import train_offline, training_of

        learners, facts = [t.learner for t in trainings], [t.facts(dataset.name) for t in trainings]
        training_of(learners)
        runs = [training.open_run() for training in trainings]
        steps = trainings[0].steps
        schedule = self.evaluate_every, self.episodes, self.progress
        with contextlib.ExitStack() as locks:
            for run in runs:
                locks.enter_context(run.locked())
            summaries = train_offline(learners, runs, steps, *schedule, facts, self.evaluate_beside)
        for training, run, summary in zip(trainings, runs, summaries, strict=True):
            if training.labels.held_out:
                accuracy = training.learner.preference_accuracy(training.labels.held_out)
                summary["held_out_accuracy"] = None if math.isnan(accuracy) else accuracy
            if scores_hold(dataset):
                last = summary["last"]["mean_return"]
                summary["normalised_score"] = float(dataset.normalised_score(last))
            run.summarise(summary)
            report(summary, dataset, run)

    @property
    def _needs_preferences(self) -> bool:
        return True

    @property
    def _signal(self) -> str:
        """What is learned from, in a word."""
        kind = self._source().kind
        return kind.replace(":", "-") if kind != "given" else Path(self.preferences).stem

    def _preferences(self, dataset: OfflineDataset, resumed: Run | None) -> Labels:
        """Return the labels of the run that is resumed, or those that the options name."""
        if resumed is not None and resumed.path("preferences.sqlite").is_file():
            return offline_labels.kept(resumed)
        return self._source().read(dataset)

    def _source(self) -> LabelSource:
        return LabelSource(
            self.preferences,
            self.labels,
            self.segment_length,
            self.held_out,
            self.seed,
            self.regret_form,
            self.regret_discount,
            self.shuffle_labels,
        )

    def _make_learners(
        self, each: Sequence[Self], dataset: OfflineDataset, labels: Sequence[list[Preference] | None]
    ) -> list[tuple[OfflineLearner[Any], int]]:
        """Return each seed's learner, and how many gradient steps it is to make."""
        return [options._make_learner(dataset, own) for options, own in zip(each, labels, strict=True)]

    @abstractmethod
    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        """Return the learner and how many gradient steps it is to make."""

    def _keep(self, learner: OfflineLearner[Any], run: Run) -> None:
        """Put beside the run what `_make_learner` needs when the run is resumed."""

    def _override(self, config: Any, **given: Any) -> Any:
        """Put what was given on the command line in place of the published settings."""
        given |= {"normalise_observations": self.normalise_observations, "precision": self.precision}
        return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class _Training:
    """One learner, the labels it learns from, and the run that it continues, if any."""

    options: TrainOffline
    learner: OfflineLearner[Any]
    steps: int
    labels: Labels
    resumed: Run | None

    def open_run(self) -> Run:
        """Return the run folder, made anew unless one is continued."""
        options, run = self.options, self.resumed
        if run is None:
            name = f"{find_task(options.task).file_name}-{options.algorithm}-{options._signal}-{options.seed}"
            folder = options.folder or Path("runs") / name
            run = Run.create(folder, f"train {options.algorithm}", dataclasses.asdict(options))
            if self.labels.train is not None:
                offline_labels.keep(run, self.labels)
        options._keep(self.learner, run)
        return run

    def facts(self, dataset: str) -> dict[str, Any]:
        """Return what the summary tells about the labels."""
        held_out, left_out = self.labels.held_out, dict(self.labels.left_out)
        answered = sum(not preference.skipped for preference in self.labels.train or ())
        if self.options.algorithm == "oppo" and self.learner.labels < answered:
            left_out["tied"] = answered - self.learner.labels
        facts: dict[str, Any] = {"dataset": dataset, "signal": self.options._signal}
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


def report(summary: dict[str, Any], dataset: OfflineDataset, run: Run) -> None:
    """Print the figures of a finished run, the final policy's and the best one's apart."""
    print(f"{summary['task']}, {summary['algorithm']} on {summary['learns_from']}, a single seed ({summary['seed']})")
    print(f"{summary['dataset']}: {len(dataset)} episodes; labels: {summary['labels']}; "
          f"{summary['updates']} gradient steps")  # fmt: skip
    if summary["left_out"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["left_out_because"].items())
        print(f"labels left out: {summary['left_out']} ({reasons})")
    if summary.get("held_out_accuracy") is not None:
        print(f"held-out labels predicted: {summary['held_out_accuracy']:.1%} of {summary['held_out_labels']}")
    for name, row in (("before", summary["first"]), ("final", summary["last"]), ("best", summary["best"])):
        solved = "" if math.isnan(row["success"]) else f", success {row['success']:.0%}"
        note = f" (chosen by this very evaluation, at step {row['steps']:.0f})" if name == "best" else ""
        print(f"true return, {name:6} {row['mean_return']:.1f} +- {row['std_return']:.1f}{solved}{note}")
    if "normalised_score" in summary:
        differs = find_d4rl(dataset.name).differs if dataset.name.startswith("d4rl/") else ""
        caution = f" (not quite D4RL's: {differs})" if differs else ""
        print(f"normalised score, final {summary['normalised_score']:.1f}{caution}")
    print(f"run folder: {run.folder}")
