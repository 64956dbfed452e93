"""Behaviour cloning, of all data or of the best share of it by preference or by return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from scipy.special import expit
from torch import Tensor, nn

from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.single_loss import Drawn, SingleLossConfig, SingleLossLearner
from prefenvs.agents.offline.tables import PairTable, RankedSegments, build_pair_table, find_rows
from prefenvs.agents.registry import Algorithm, Offline, OfflineOptions, Row, Settings
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import FractionBelowOne, PositiveFloat, PositiveFraction, PositiveInt
from prefenvs.preferences import Preference
from prefenvs.segments import Array
from prefenvs.tasks import Task

BestBy = Literal["win_rate", "bradley_terry"]


@dataclass(frozen=True)
class BCConfig(SingleLossConfig):
    """Settings of behaviour cloning; networks, batch and learning rate are those of IQL's actor."""

    loss: Literal["nll", "mse"] = "nll"
    """nll: a Gaussian by maximum likelihood; mse: a deterministic actor by squared errors."""
    best_share: PositiveFraction = 1.0
    """Clone only this share of what was labelled, or of the episodes where returns are given: the best of it."""
    best_by: BestBy = "win_rate"
    """Order segments by the share of comparisons won, or by Bradley-Terry strength, which knows who was beaten."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate (Adam)."""
    batch_size: PositiveInt = 256
    """Steps of the data in a gradient step."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the actor's hidden layers (ReLU)."""
    dropout: FractionBelowOne = 0.0
    """Share of hidden units dropped while training."""


class BC(SingleLossLearner[BCConfig]):
    """Behaviour cloning; the losses are -log pi(a | s), or |pi(s) - a|^2 summed over actions, means over the batch.

    With `best_share` below 1 only the best segments by preference are cloned (the top share of Chen et al. 2021 with
    preferences in the place of returns), or the best episodes by the returns that are handed over.
    """

    name = "bc"
    config_type: ClassVar[type[BCConfig]] = BCConfig

    def __init__(
        self,
        dataset: OfflineDataset,
        preferences: Sequence[Preference] | None = None,
        config: BCConfig | None = None,
        *,
        ranking: RankedSegments | None = None,
        returns: Array | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        action_space: spaces.Box | None = None,
    ) -> None:
        """Make the learner.

        preferences, or ranking: by which segments the best share is chosen. returns: [E], by which episodes are chosen;
        handing over the true ones makes a baseline that learns from the true reward.
        """
        self._give(preferences, ranking, returns)
        super().__init__(dataset, preferences, config, seed=seed, device=device, action_space=action_space)

    def _give(
        self,
        preferences: Sequence[Preference] | None,
        ranking: RankedSegments | None = None,
        returns: Array | None = None,
    ) -> None:
        self._ranking, self._returns = ranking, returns

    def _build(self) -> None:
        c = self.config
        sizes = self.observation_size, self.action_size
        gaussian = c.loss == "nll"
        self.actor = TanhActor(*sizes, c.hidden, c.dropout, gaussian, precision=c.precision).to(self.device)
        self.optimiser = make_adam([{"params": list(self.actor.parameters())}], c.learning_rate)

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        data, share = dataset.trajectories, self.config.best_share
        given = sum(source is not None for source in (preferences, self._ranking, self._returns))
        if share < 1.0 and given != 1:
            raise PrefenvsError(
                f"best_share={share} needs one thing to tell the best by: preferences, ranking=... or returns=..."
            )
        self.learns_from = "the data's actions"
        if share == 1.0:
            rows = np.arange(len(data.observations))
        elif self._returns is not None:
            if self._returns.shape != (len(data),):
                raise PrefenvsError(f"returns have shape {self._returns.shape}; the data set has {len(data)} episodes")
            best = choose_best(self._returns, share, self.seed)
            rows = np.concatenate([np.arange(data.begins[i], data.ends[i]) for i in best])
            self.learns_from = f"the best {share:.0%} of the episodes by given returns"
        else:
            starts, lengths, strengths = self._strengths(dataset, preferences)
            best = choose_best(strengths, share, self.seed)
            # A step that several chosen segments share counts once.
            windows = [np.arange(starts[i], starts[i] + lengths[i]) for i in best]
            rows = np.unique(np.concatenate(windows))
            self.learns_from = f"the best {share:.0%} of the labelled segments by preference"
        self.rows = torch.from_numpy(rows).to(self.device)

    def _strengths(
        self, dataset: OfflineDataset, preferences: Sequence[Preference] | None
    ) -> tuple[Array, Array, Array]:
        """Return first row, length and strength of each labelled segment, [M] each."""
        if self._ranking is not None:
            segments = self._ranking.segments
            lengths = np.full(len(segments), segments.length)
            starts = find_rows(dataset.trajectories, segments.episodes, segments.starts, lengths)
            self.labels = len(segments)
            return starts, lengths, self._ranking.scores
        pairs = build_pair_table(preferences or [], dataset.trajectories, torch.device("cpu"))
        self.labels = len(pairs)
        return rate_segments(pairs, self.config.best_by)

    def _draw(self) -> Drawn:
        assert self.data is not None
        chosen = torch.randint(len(self.rows), (self.config.batch_size,), device=self.device, generator=self.generator)
        rows = self.rows[chosen]
        dropped = self.actor.draw_dropped(rows.shape, self.generator)
        return {"observations": self.data.observations[rows], "actions": self.data.actions[rows], "dropped": dropped}

    def _loss(self, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -self.actor.log_prob(**drawn).mean()
        return loss, {"bc_loss": loss}

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor}


def choose_best(strengths: Array, share: float, seed: int = 0) -> Array:
    """Return the indices of the strongest `share` of M items, at least one; equal ones are drawn at random."""
    shuffled = np.random.default_rng(seed).permutation(len(strengths))
    count = max(math.ceil(share * len(strengths) - 1e-9), 1)
    order: Array = shuffled[np.argsort(-strengths[shuffled], kind="stable")]
    return order[:count]


def rate_segments(pairs: PairTable, by: BestBy, prior: float = 0.1) -> tuple[Array, Array, Array]:
    """Return first row, length and strength, [M] each, of the M distinct segments in a table of pairs.

    win_rate: the mean over a segment's comparisons of the chance that it was preferred. bradley_terry: the strengths s
    that maximise sum p_k log sigmoid(s_k - s_other) - prior / 2 |s|^2, unique for any set of comparisons.
    """
    places = np.stack([pairs.starts.numpy().ravel(), pairs.lengths.numpy().ravel()], 1)
    segments, index = np.unique(places, axis=0, return_inverse=True)
    ids, targets = index.reshape(-1, 2), pairs.targets.numpy().astype(np.float64)
    won = np.bincount(ids.ravel(), targets.ravel())
    strengths: Array = won / np.bincount(ids.ravel())
    if by == "bradley_terry":
        from scipy.optimize import minimize

        def loss(s: Array) -> tuple[float, Array]:
            margin = s[ids[:, 0]] - s[ids[:, 1]]
            value = -(targets[:, 0] * margin - np.logaddexp(0.0, margin)).sum() + 0.5 * prior * (s @ s)
            slope = expit(margin) - targets[:, 0]
            gradient = np.bincount(ids[:, 0], slope, len(s)) - np.bincount(ids[:, 1], slope, len(s)) + prior * s
            return float(value), gradient

        strengths = minimize(loss, np.zeros(len(segments)), jac=True, method="L-BFGS-B").x
    return segments[:, 0], segments[:, 1], strengths


@dataclass(frozen=True)
class BCOptions(OfflineOptions):
    """By what the best share is told."""

    true_reward: bool = False
    """Baseline on privileged information: clone the best share of the episodes by true return."""

    def needs_labels(self, config: BCConfig) -> bool:
        """Only to choose the best by preference."""
        return config.best_share < 1.0 and not self.true_reward

    def signal(self, rater: str, config: BCConfig) -> str:
        """All data, or the best share by whom."""
        if config.best_share == 1.0:
            return "all"
        return f"best{config.best_share:g}-{'true-reward' if self.true_reward else rater}"


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return settings of behaviour cloning for data of a task.

    On Meta-World those of CPL's cloning stage, for all of its 500,000 steps; elsewhere, where no publication is
    followed, those of IQL's actor without dropout.
    """
    config, total = BCConfig(), 1_000_000
    if name == "small":
        config, total = BCConfig(loss="mse", hidden=(128, 128), learning_rate=1e-3), 20_000
    elif task.family == "metaworld":
        # One batch of the published stage holds 2 * 96 segments of 64 steps.
        config = BCConfig(loss="mse", learning_rate=1e-4, batch_size=12_288, hidden=(512, 512), dropout=0.25)
        total = 500_000
    return Settings(config, steps or total)


def _make(settings: Settings, each: Sequence[Offline]) -> list[BC]:
    config, true_reward = settings.config, settings.options.true_reward
    if true_reward and config.best_share == 1.0:
        raise PrefenvsError("--true-reward chooses the best episodes: give --best-share too, such as 0.1")
    made = []
    for one in each:
        learner = BC(one.dataset, one.preferences, config, returns=one.returns, seed=one.seed, device=one.device)
        if true_reward:
            learner.learns_from = f"the best {config.best_share:.0%} of the episodes by true return"
        made.append(learner)
    return made


ALGORITHM = Algorithm(
    name="bc",
    title="behaviour cloning",
    source="offline",
    learner=BC,
    config=BCConfig,
    options=BCOptions,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    together=True,
    rows=(
        Row("bc", "behaviour cloning of all data", asks=False),
        Row("bc-10", "behaviour cloning of the preferred 10%", {"best_share": 0.1}),
    ),
    upper="iql-true-reward",
)
