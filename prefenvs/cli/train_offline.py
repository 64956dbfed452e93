"""`prefenvs train iql`, `cpl` and `bc`: learners from a fixed data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from prefenvs.cli.offline import TrainOffline
from prefenvs.cli.offline_labels import LabelSource
from prefenvs.cli.train_reward import fit_image_reward, fit_reward
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeFloat, PositiveFraction
from prefenvs.runs import Run
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.agents.offline.iql import IQLConfig
    from prefenvs.agents.offline.learner import OfflineLearner
    from prefenvs.agents.offline.tables import RankedSegments
    from prefenvs.agents.rewards.ensemble import RewardEnsemble
    from prefenvs.preferences import Preference


@dataclass(frozen=True)
class TrainIQL(TrainOffline):
    """Train IQL on rewards learned from preferences, or on the true ones as the upper bound."""

    algorithm = "iql"
    one_loss = True

    true_reward: bool = False
    """Upper bound: learn from the data's true rewards instead of preferences."""
    constant_reward: bool = False
    """Control: learn from a reward of 1 for every step instead of preferences."""
    reward_model: Literal["mlp", "transformer", "gaussian", "image"] = "mlp"
    """mlp: an ensemble of small networks; transformer: Preference Transformer; gaussian: PEARL's robust reward; image:
    an ensemble on frames rendered from the data set's states."""
    encoder: str | None = None
    """With --reward-model image: a CLIP model, by folder or hub name, whose frozen features take the place of
    convolutions."""
    expectile: PositiveFraction | None = None
    """tau: which expectile of Q over the data's actions V estimates."""
    inv_temperature: NonNegativeFloat | None = None
    """Factor on the advantage in the actor's weights."""
    deterministic: bool = False
    """An actor without noise."""

    @property
    def _needs_preferences(self) -> bool:
        return not (self.true_reward or self.constant_reward)

    @property
    def _signal(self) -> str:
        if self.constant_reward:
            return "constant-reward"
        return "true-reward" if self.true_reward else super()._signal

    def _make_learners(
        self, each: Sequence[Self], dataset: OfflineDataset, labels: Sequence[list[Preference] | None]
    ) -> list[tuple[OfflineLearner[Any], int]]:
        from prefenvs.agents.offline.iql import fit_reward_models

        given = [own for own in labels if own is not None]
        if len(each) == 1 or not given or self.reward_model != "mlp":
            return super()._make_learners(each, dataset, labels)
        config, seeds = self._settings(dataset)[0], [options.seed for options in each]
        fitted = fit_reward_models(dataset, config, given, seeds, self.device)
        return [options._make_learner(dataset, own, one) for options, own, one in zip(each, given, fitted, strict=True)]

    def _settings(self, dataset: OfflineDataset) -> tuple[IQLConfig, int]:
        from prefenvs.agents.offline.presets import iql_settings

        if self.encoder is not None and self.reward_model != "image":
            raise PrefenvsError(f"--encoder goes with --reward-model image, not with {self.reward_model!r}")
        if self.true_reward and self.constant_reward:
            raise PrefenvsError("--true-reward and --constant-reward are two controls: choose one")
        rewards = "true" if self.true_reward else self.reward_model
        config, steps = iql_settings(find_task(dataset.task), rewards, self.preset)
        given = {"expectile": self.expectile, "inv_temperature": self.inv_temperature}
        # Equal returns have no range to be scaled by.
        rule = "none" if self.constant_reward else None
        config = self._override(config, **given, deterministic=self.deterministic or None, reward_rule=rule)
        return config, self.steps or steps

    def _make_learner(
        self,
        dataset: OfflineDataset,
        preferences: list[Preference] | None,
        fitted: tuple[RewardEnsemble, dict[str, float]] | None = None,
    ) -> tuple[OfflineLearner[Any], int]:
        from prefenvs.agents import IQL

        config, steps = self._settings(dataset)
        rewards = None
        if self.true_reward:
            rewards = dataset.trajectories.true_rewards
            if rewards is None:
                raise PrefenvsError(f"data set {dataset.name!r} holds no true rewards: leave --true-reward out")
        if self.constant_reward:
            rewards = np.ones(len(dataset.trajectories.observations), np.float32)
        model: Any
        model, figures = fitted or (None, {})
        if preferences is not None and model is None:
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
            learner.reward_figures = dict(figures)
        if self.true_reward:
            learner.learns_from = "true reward (upper bound)"
        elif self.constant_reward:
            learner.learns_from = "a constant reward (control)"
        return learner, steps

    def _keep(self, learner: OfflineLearner[Any], run: Run) -> None:
        model = getattr(learner, "reward_model", None)
        # An ensemble of small networks is kept with the checkpoint.
        if model is not None and self.reward_model != "mlp" and not run.path("reward.pt").exists():
            model.save(run.path("reward.pt"))


@dataclass(frozen=True)
class TrainCPL(TrainOffline):
    """Train CPL: a policy from preferences alone, without reward or value function."""

    algorithm = "cpl"
    one_loss = True

    variant: Literal["cpl", "cpl-kl", "cpl-bc"] = "cpl"
    """cpl-kl: relative to the cloned policy; cpl-bc: with a cloning loss beside the contrastive one."""
    dense: bool = False
    """With a simulated rater: --labels is a number of segments, every two of which are compared."""
    discount: Fraction | None = None
    """Weight of step t is discount^t; the published code has 1, the paper's formula gamma."""
    flip_rate: Fraction | None = None
    """Share of labels assumed to be flipped; corrected for without bias."""

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from prefenvs.agents import CPL
        from prefenvs.agents.offline.presets import cpl_settings

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
    one_loss = True

    best_share: PositiveFraction = 1.0
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
        from prefenvs.agents import BC
        from prefenvs.agents.offline.presets import bc_settings

        if self.true_reward and self.best_share == 1.0:
            raise PrefenvsError("--true-reward chooses the best episodes: give --best-share too, such as 0.1")
        config, steps = bc_settings(find_task(dataset.task), self.preset)
        config = self._override(config, loss=self.loss, best_share=self.best_share, best_by=self.best_by)
        returns = dataset.trajectories.returns if self.true_reward else None
        learner = BC(dataset, preferences, config, returns=returns, seed=self.seed, device=self.device)
        if self.true_reward:
            learner.learns_from = f"the best {self.best_share:.0%} of the episodes by true return"
        return learner, self.steps or steps


def rank(source: LabelSource, dataset: OfflineDataset) -> RankedSegments:
    """Score segments of a data set by a simulated rater's values of their steps, summed."""
    from prefenvs.agents.offline.tables import RankedSegments

    if source.kind == "given":
        raise PrefenvsError("--dense ranks segments by a simulated rater: give --preferences oracle or regret:EXPERT")
    if source.held_out:
        raise PrefenvsError("--dense has no held-out labels: leave --held-out away")
    from prefenvs.oracles.simulated.synthetic import SyntheticOracle

    oracle, rng = source.make_oracle(dataset), np.random.default_rng([source.seed, 1])
    if not isinstance(oracle, SyntheticOracle):
        raise PrefenvsError(f"--dense ranks segments by the values of their steps, which {oracle.name} does not give")
    segments = dataset.trajectories.sample(source.labels or 500, source.length(dataset), rng)
    return RankedSegments(segments, oracle.step_values(list(segments)).sum(1))
