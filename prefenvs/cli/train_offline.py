"""`prefenvs train iql`, `cpl` and `bc`: learners from a fixed data set."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from prefenvs.cli import offline_labels
from prefenvs.cli.offline_labels import LabelSource, RegretForm
from prefenvs.cli.train_reward import fit_image_reward, fit_reward
from prefenvs.datasets.offline import OfflineDataset, load_dataset
from prefenvs.errors import PrefenvsError
from prefenvs.packages import check_packages
from prefenvs.runs import Run
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from agents.offline import OfflineLearner
    from agents.offline_data import RankedSegments
    from prefenvs.preferences import Preference


@dataclass(frozen=True)
class TrainOffline(ABC):
    """What every learner from fixed data is told; settings that are not given are the published ones."""

    algorithm: ClassVar[str]

    dataset: str = ""
    """D4RL name (d4rl/halfcheetah-medium-v2) or file, Minari name (minari/...) or folder, or folder of .npz files."""
    task: str = ""
    """Task to evaluate on, where the data set does not tell it."""
    preferences: str = "oracle"
    """oracle[:teacher], regret:EXPERT[:teacher], a store, or a folder of published labels.

    oracle: a simulated rater by partial return, made on the spot. regret: one by the advantages of an expert, a run
    folder of `train iql --true-reward`, `train pebble --true-reward` or `train dqn`, or a .zip of Stable-Baselines3.
    """
    regret_form: RegretForm = "advantage"
    """Regret as the sum of advantages, telescoped by V (deterministic), or so without the last action (visited: CPL's).

    The telescoped forms need V alone, which is learned sooner than the small differences that advantages are.
    """
    labels: int | None = None
    """Labels to learn from: 500 from a simulated rater, by default all that a store or file holds."""
    segment_length: int | None = None
    """Steps in a segment, for simulated raters."""
    held_out: float = 0.0
    """Share of the episodes kept for measuring how well held-out labels are predicted; never by single labels."""
    preset: Literal["published", "small"] = "published"
    """small: smaller networks and batches and larger steps, for a CPU."""
    steps: int | None = None
    """Gradient steps."""
    normalise_observations: bool | None = None
    """Give observations mean 0 and standard deviation 1."""
    seed: int = 0
    """Seed of everything in training; evaluation has seeds of its own."""
    evaluate_every: int = 5_000
    """Gradient steps between two evaluations."""
    episodes: int = 10
    """Episodes in an evaluation."""
    device: str = "auto"
    """Where to train: auto, cpu or cuda."""
    threads: int = 1
    """PyTorch threads; small networks are slower with more."""
    folder: Path | None = None
    """Run folder; runs/<task>-<algorithm>-<learning signal>-<seed> by default."""
    resume: Path | None = None
    """Continue the run in this folder; all other options come from it."""
    progress: bool = True
    """Show a progress bar with an ETA."""

    def run(self) -> None:
        """Train, or continue to train, and print the returns before and after."""
        check_packages()
        if self.resume is not None:
            run = Run.resume(self.resume, f"train {self.algorithm}")
            options = dataclasses.replace(self, **run.config | {"folder": run.folder, "progress": self.progress})
            options._train(options._load(), run)
            return
        dataset = self._load()
        options = dataclasses.replace(self, task=dataset.task)
        options._train(dataset, None)

    def _load(self) -> OfflineDataset:
        if not self.dataset:
            raise PrefenvsError("say what to learn from: --dataset NAME or FOLDER (`prefenvs collect` makes some)")
        if self.steps is not None and self.steps < 1:
            raise PrefenvsError(f"--steps must be at least 1, got {self.steps}")
        dataset = load_dataset(self.dataset, self.task or None)
        if not dataset.task:
            raise PrefenvsError(f"data set {dataset.name!r} does not tell its task: give --task ID (`prefenvs tasks`)")
        find_task(dataset.task)
        return dataset

    def _train(self, dataset: OfflineDataset, resumed: Run | None) -> None:
        import torch

        from agents.offline_training import train_offline

        torch.set_num_threads(self.threads)
        train: list[Preference] | None = None
        held_out: list[Preference] = []
        between = 0
        if self._needs_preferences:
            train, held_out, between = self._preferences(dataset, resumed)
        # Settings are checked before a folder is made.
        learner, steps = self._make_learner(dataset, train)
        learner._check_total(steps)
        if resumed is None:
            folder = self.folder or Path("runs") / f"{dataset.task}-{self.algorithm}-{self._signal}-{self.seed}"
            run = Run.create(folder, f"train {self.algorithm}", dataclasses.asdict(self))
            if train is not None:
                offline_labels.keep(run, train, held_out)
        else:
            run = resumed
            if (run.checkpoint / "model.zip").is_file():
                learner.resume(run.checkpoint)
        self._keep(learner, run)
        facts: dict[str, Any] = {"dataset": dataset.name, "signal": self._signal, "left_out": between}
        if held_out:
            facts["held_out_labels"] = len(held_out)
        summary = train_offline(learner, run, steps, self.evaluate_every, self.episodes, self.progress, facts)
        if held_out:
            accuracy = learner.preference_accuracy(held_out)
            summary["held_out_accuracy"] = None if math.isnan(accuracy) else accuracy
            run.summarise(summary)
        report(summary, dataset, run)

    @property
    def _needs_preferences(self) -> bool:
        return True

    @property
    def _signal(self) -> str:
        """What is learned from, in a word."""
        kind = self._source().kind
        return kind if kind != "given" else Path(self.preferences).stem

    def _preferences(
        self, dataset: OfflineDataset, resumed: Run | None
    ) -> tuple[list[Preference], list[Preference], int]:
        if resumed is not None and resumed.path("preferences.sqlite").is_file():
            return (*offline_labels.kept(resumed), 0)
        return self._source().read(dataset)

    def _source(self) -> LabelSource:
        return LabelSource(
            self.preferences, self.labels, self.segment_length, self.held_out, self.seed, self.regret_form
        )

    @abstractmethod
    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        """Return the learner and how many gradient steps it is to make."""

    def _keep(self, learner: OfflineLearner[Any], run: Run) -> None:  # noqa: B027 - most have nothing to keep
        """Put beside the run what `_make_learner` needs when the run is resumed."""

    def _override(self, config: Any, **given: Any) -> Any:
        """Put what was given on the command line in place of the published settings."""
        given["normalise_observations"] = self.normalise_observations
        return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class TrainIQL(TrainOffline):
    """Train IQL on rewards learned from preferences, or on the true ones as the upper bound."""

    algorithm = "iql"

    true_reward: bool = False
    """Upper bound: learn from the data's true rewards instead of preferences."""
    reward_model: Literal["mlp", "transformer", "gaussian", "image"] = "mlp"
    """mlp: an ensemble of small networks; transformer: Preference Transformer; gaussian: PEARL's robust reward; image:
    an ensemble on frames rendered from the data set's states."""
    encoder: str | None = None
    """With --reward-model image: a CLIP model, by folder or hub name, whose frozen features take the place of
    convolutions."""
    expectile: float | None = None
    """tau: which expectile of Q over the data's actions V estimates."""
    inv_temperature: float | None = None
    """Factor on the advantage in the actor's weights."""
    deterministic: bool = False
    """An actor without noise."""

    @property
    def _needs_preferences(self) -> bool:
        return not self.true_reward

    @property
    def _signal(self) -> str:
        return "true-reward" if self.true_reward else super()._signal

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from agents import IQL
        from agents.published_offline import iql_settings

        config, steps = iql_settings(dataset.name, dataset.task, not self.true_reward, self.preset)
        config = self._override(
            config,
            expectile=self.expectile,
            inv_temperature=self.inv_temperature,
            deterministic=self.deterministic or None,
        )
        rewards = None
        if self.true_reward:
            rewards = dataset.trajectories.true_rewards
            if rewards is None:
                raise PrefenvsError(f"data set {dataset.name!r} holds no true rewards: leave --true-reward out")
        if self.encoder is not None and self.reward_model != "image":
            raise PrefenvsError(f"--encoder goes with --reward-model image, not with {self.reward_model!r}")
        model: Any = None
        if preferences is not None:
            where = self.seed, self.device, self.folder
            if self.reward_model == "image":
                model = fit_image_reward(dataset.task, preferences, self.preset, self.encoder, *where)
            elif self.reward_model != "mlp":
                model = fit_reward(self.reward_model, preferences, self.preset, *where)
        learner = IQL(
            dataset,
            preferences if model is None else None,
            config,
            reward_model=model,
            rewards=rewards,
            seed=self.seed,
            device=self.device,
        )
        if model is not None and preferences is not None:
            learner.labels = sum(not preference.skipped for preference in preferences)
        if self.true_reward:
            learner.learns_from = "true reward (upper bound)"
        return learner, self.steps or steps

    def _keep(self, learner: OfflineLearner[Any], run: Run) -> None:
        model = getattr(learner, "reward_model", None)
        if model is not None and not run.path("reward.pt").exists():
            model.save(run.path("reward.pt"))


@dataclass(frozen=True)
class TrainCPL(TrainOffline):
    """Train CPL: a policy from preferences alone, without reward or value function."""

    algorithm = "cpl"

    variant: Literal["cpl", "cpl-kl", "cpl-bc"] = "cpl"
    """cpl-kl: relative to the cloned policy; cpl-bc: with a cloning loss beside the contrastive one."""
    dense: bool = False
    """With a simulated rater: --labels is a number of segments, every two of which are compared."""
    discount: float | None = None
    """Weight of step t is discount^t; the published code has 1, the paper's formula gamma."""
    flip_rate: float | None = None
    """Share of labels assumed to be flipped; corrected for without bias."""

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from agents import CPL
        from agents.published_offline import cpl_settings

        config, steps = cpl_settings(self.variant, self.steps, self.preset)
        config = self._override(config, discount=self.discount, flip_rate=self.flip_rate)
        ranking = rank(self._source(), dataset) if self.dense else None
        return CPL(dataset, preferences, config, ranking=ranking, seed=self.seed, device=self.device), steps

    @property
    def _needs_preferences(self) -> bool:
        return not self.dense


@dataclass(frozen=True)
class TrainBC(TrainOffline):
    """Train behaviour cloning, of all data or of its best share."""

    algorithm = "bc"

    best_share: float = 1.0
    """Clone only this share of the labelled segments, the best by preference."""
    best_by: Literal["win_rate", "bradley_terry"] = "win_rate"
    """How segments are ordered: by the share of comparisons won, or by Bradley-Terry strength."""
    true_reward: bool = False
    """Baseline on privileged information: clone the best share of the episodes by true return."""
    loss: Literal["nll", "mse"] | None = None
    """nll: a Gaussian by maximum likelihood; mse: a deterministic actor by squared errors."""

    @property
    def _needs_preferences(self) -> bool:
        return self.best_share < 1.0 and not self.true_reward

    @property
    def _signal(self) -> str:
        if self.best_share == 1.0:
            return "all"
        return f"best{self.best_share:g}-{'true-reward' if self.true_reward else super()._signal}"

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from agents import BC
        from agents.published_offline import bc_settings

        if self.true_reward and self.best_share == 1.0:
            raise PrefenvsError("--true-reward chooses the best episodes: give --best-share too, such as 0.1")
        config, steps = bc_settings(dataset.task, self.preset)
        config = self._override(config, loss=self.loss, best_share=self.best_share, best_by=self.best_by)
        returns = dataset.trajectories.returns if self.true_reward else None
        learner = BC(dataset, preferences, config, returns=returns, seed=self.seed, device=self.device)
        if self.true_reward:
            learner.learns_from = f"the best {self.best_share:.0%} of the episodes by true return"
        return learner, self.steps or steps


def rank(source: LabelSource, dataset: OfflineDataset) -> RankedSegments:
    """Score segments of a data set by a simulated rater's worth of their steps, summed."""
    from agents.offline_data import RankedSegments

    if source.kind == "given":
        raise PrefenvsError("--dense ranks segments by a simulated rater: give --preferences oracle or regret:EXPERT")
    if source.held_out:
        raise PrefenvsError("--dense has no held-out labels: leave --held-out away")
    import numpy as np

    oracle, data = source.make_oracle(dataset), dataset.trajectories
    episodes, _ = offline_labels.split_episodes(data, 0.0, source.seed)
    rng = np.random.default_rng([source.seed, 1])
    segments = offline_labels.sample(data, episodes, source.labels or 500, source.length(dataset), rng)
    return RankedSegments(segments, oracle.worth(list(segments)).sum(1))


def report(summary: dict[str, Any], dataset: OfflineDataset, run: Run) -> None:
    """Print the figures of a finished run, the final policy's and the best one's apart."""
    print(f"{summary['task']}, {summary['algorithm']} on {summary['learns_from']}, a single seed ({summary['seed']})")
    between = f" ({summary['left_out']} between the sides left out)" if summary["left_out"] else ""
    print(f"{summary['dataset']}: {len(dataset)} episodes; labels: {summary['labels']}{between}; "
          f"{summary['updates']} gradient steps")  # fmt: skip
    if summary.get("held_out_accuracy") is not None:
        print(f"held-out labels predicted: {summary['held_out_accuracy']:.1%} of {summary['held_out_labels']}")
    for name, row in (("before", summary["first"]), ("final", summary["last"]), ("best", summary["best"])):
        solved = "" if math.isnan(row["success"]) else f", success {row['success']:.0%}"
        note = f" (chosen by this very evaluation, at step {row['steps']:.0f})" if name == "best" else ""
        print(f"true return, {name:6} {row['mean_return']:.1f} +- {row['std_return']:.1f}{solved}{note}")
    print(f"run folder: {run.folder}")
