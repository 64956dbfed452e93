"""Contrastive preference learning: a policy from preferences alone, without reward, value function or dynamics."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from prefenvs.agents.nets.windows import ragged_rows
from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.single_loss import Drawn, SingleLossConfig, SingleLossLearner
from prefenvs.agents.offline.tables import PairTable, RankedSegments, build_pair_table, find_rows
from prefenvs.agents.registry import Algorithm, Offline, OfflineOptions, Row, Settings
from prefenvs.agents.rewards.losses import FlipCorrection, cross_entropy
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    FlipRate,
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
)
from prefenvs.metrics.accuracy import credit, label_accuracy
from prefenvs.preferences import Preference
from prefenvs.segments import Segment
from prefenvs.tasks import Task


@dataclass(frozen=True)
class CPLConfig(SingleLossConfig):
    """Settings of CPL; the defaults are those published for Meta-World from states (Hejna et al. 2024)."""

    alpha: PositiveFloat = 0.1
    """Factor on log-probabilities; it and the segment length set the scale of the scores together."""
    conservative: PositiveFraction = 0.5
    """lambda in (0, 1]: factor on the score of the segment not preferred; below 1 it keeps the policy near the data."""
    discount: PositiveFraction = 1.0
    """Weight of step t is discount^t; the published code has 1, the paper's formula gamma."""
    bc_coefficient: NonNegativeFloat = 0.0
    """Weight of a behaviour-cloning loss on all labelled segments, beside the contrastive one (CPL-BC has 1)."""
    kl: bool = False
    """Score by log pi - log pi_ref, with the policy at the end of the cloning stage as pi_ref (CPL-KL)."""
    pretrain_updates: NonNegativeInt = 200_000
    """Gradient steps of behaviour cloning at the beginning, of 500,000 in all as published."""
    pretrain_batch: PositiveInt | None = None
    """Single steps of the whole data set in a batch of that stage; None clones the batch's labelled segments, as
    published, which costs as much as a contrastive step."""
    warmup_updates: NonNegativeInt = 10_000
    """Steps after that stage, whose optimiser is forgotten, in which the learning rate rises from 0."""
    rate_factor: PositiveFloat = 1.0
    """Factor on the learning rate after that stage (CPL-KL has 0.1)."""
    learning_rate: PositiveFloat = 1e-4
    """Learning rate (Adam)."""
    batch_size: PositiveInt = 96
    """Pairs of segments in a gradient step; with ranked segments, twice as many segments, each compared with each."""
    hidden: tuple[PositiveInt, ...] = (512, 512)
    """Sizes of the actor's hidden layers (ReLU)."""
    dropout: FractionBelowOne = 0.25
    """Share of hidden units dropped while training."""
    gaussian: bool = False
    """Learn a Gaussian; otherwise log pi is minus the squared error of a deterministic actor, as published."""
    flip_rate: FlipRate = 0.0
    """Share of labels assumed to be flipped, below 0.5."""
    correction: FlipCorrection = "unbiased"
    """How the loss allows for flipped labels (see `prefenvs.agents.rewards.losses.cross_entropy`)."""


class CPL(SingleLossLearner[CPLConfig]):
    """Contrastive preference learning (Hejna et al. 2024, "Contrastive Preference Learning").

    A segment's score is g = sum_t discount^t alpha log pi(a_t | s_t), and the loss of a pair is
    -log(exp(g+) / (exp(g+) + exp(conservative g-))). A stage of behaviour cloning comes first.
    """

    name = "cpl"
    config_type: ClassVar[type[CPLConfig]] = CPLConfig

    def __init__(
        self,
        dataset: OfflineDataset,
        preferences: Sequence[Preference] | None = None,
        config: CPLConfig | None = None,
        *,
        ranking: RankedSegments | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        action_space: spaces.Box | None = None,
    ) -> None:
        """Make the learner.

        preferences: pairs of segments of the data set ("sparse" labels); or ranking: segments with scores, every two of
        which are compared ("dense" labels).
        """
        self._give(preferences, ranking)
        super().__init__(dataset, preferences, config, seed=seed, device=device, action_space=action_space)

    def _give(self, preferences: Sequence[Preference] | None, ranking: RankedSegments | None = None) -> None:
        if (preferences is None) == (ranking is None):
            raise PrefenvsError("CPL needs preferences, or ranking=... in their place")
        self._ranking = ranking

    def _build(self) -> None:
        c = self.config
        sizes = self.observation_size, self.action_size
        actor = TanhActor(*sizes, c.hidden, c.dropout, c.gaussian, orthogonal=True, precision=c.precision)
        self.actor = actor.to(self.device)
        self.reference = copy.deepcopy(self.actor).requires_grad_(False)
        self.optimiser = make_adam([{"params": list(self.actor.parameters())}], c.learning_rate)

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        data, ranking = dataset.trajectories, self._ranking
        if preferences is not None:
            self.pairs: PairTable | None = build_pair_table(preferences, data, self.device)
            self.labels = len(self.pairs)
            return
        assert ranking is not None
        if self.config.flip_rate:
            raise PrefenvsError("flip_rate is for labels of pairs; a ranking has none: leave it at 0")
        self.pairs, n, length = None, len(ranking.segments), ranking.segments.length
        lengths = torch.full((n,), length).numpy()
        starts = find_rows(data, ranking.segments.episodes, ranking.segments.starts, lengths)
        self.starts = torch.from_numpy(starts).to(self.device)
        self.scores = torch.from_numpy(ranking.scores).to(self.device)
        self.length, self.labels = length, n

    def check_run(self, total_updates: int) -> None:
        """Raise a PrefenvsError for a run that ends with its behaviour cloning, or scores by a clone and makes none."""
        if self.config.kl and not self.config.pretrain_updates:
            raise PrefenvsError("kl scores relative to the cloned policy, and pretrain_updates=0 clones none: raise it")
        if self.config.pretrain_updates >= total_updates:
            raise PrefenvsError(
                f"behaviour cloning takes the first {self.config.pretrain_updates} updates, but only {total_updates} "
                "are to be made: train for longer or lower pretrain_updates"
            )

    def _before_update(self) -> None:
        c = self.config
        since = self.num_timesteps - c.pretrain_updates
        if since == 0:
            self._end_pretraining()
        if since >= 0:
            rise = min(1.0, (since + 1) / c.warmup_updates) if c.warmup_updates else 1.0
            self.optimiser.param_groups[0]["lr"] = c.learning_rate * c.rate_factor * rise

    @property
    def _cloning(self) -> bool:
        """Whether the next update belongs to the cloning stage."""
        return self.num_timesteps < self.config.pretrain_updates

    def _draw(self) -> Drawn:
        """Draw single steps [B] or segments: pairs of them [B, 2, T], of a ranking [2 B, T].

        inside: which steps count, where some segment is shorter than T; targets: the chance that each segment of a pair
        is preferred [B, 2], or scores in a ranking [2 B].
        """
        assert self.data is not None
        if self._cloning and self.config.pretrain_batch is not None:
            observations, actions = self.data.draw_steps(self.config.pretrain_batch, self.generator)
            drawn: Drawn = {"observations": observations, "actions": actions}
        else:
            rows, drawn = self._draw_segments()
            drawn |= {"observations": self.data.observations[rows], "actions": self.data.actions[rows]}
        drawn["dropped"] = self.actor.draw_dropped(drawn["actions"].shape[:-1], self.generator)
        return drawn

    def _draw_segments(self) -> tuple[Tensor, Drawn]:
        size, pairs = self.config.batch_size, self.pairs
        if pairs is None:
            chosen = torch.randint(len(self.starts), (2 * size,), device=self.device, generator=self.generator)
            starts = self.starts[chosen]
            return ragged_rows(starts, starts + self.length, self.length)[0], {"targets": self.scores[chosen]}
        chosen = torch.randint(len(pairs), (size,), device=self.device, generator=self.generator)
        drawn: Drawn = {"targets": pairs.targets[chosen]}
        starts, lengths = pairs.starts[chosen], pairs.lengths[chosen]
        rows, inside = ragged_rows(starts, starts + lengths, pairs.length)
        if pairs.ragged:
            drawn["inside"] = inside
        return rows, drawn

    def _loss(self, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        c, inside = self.config, drawn.get("inside")
        observations, actions = drawn["observations"], drawn["actions"]
        log_probs = self.actor.log_prob(observations, actions, drawn["dropped"])
        bc_loss = -_mean_inside(log_probs, inside)
        if self._cloning:
            return bc_loss, {"bc_loss": bc_loss}
        scored = log_probs
        if c.kl:
            with torch.no_grad():
                reference = self.reference.log_prob(observations, actions)
            scored = log_probs - reference
        scores, targets = segment_scores(scored, c.alpha, c.discount, inside), drawn["targets"]
        if self.pairs is None:
            loss = ranking_loss(scores, targets, c.conservative)
            shape = scores.shape[0], scores.shape[0]
            compared = scores[:, None].expand(shape), scores.expand(shape)
            preferred = targets[:, None] > targets
        else:
            loss = pair_loss(scores, targets, c.conservative, c.flip_rate, c.correction).mean()
            compared, preferred = (scores, scores.flip(-1)), targets > targets.flip(-1)
        # Over decided labels: the share of which the preferred segment has the higher score, without the bias.
        credits = credit(torch.stack(compared, -1), compared[0][..., None])
        accuracy = (credits * preferred).sum() / preferred.sum().clamp_min(1)
        figures = {"contrastive_loss": loss, "bc_loss": bc_loss, "accuracy": accuracy}
        return (loss + c.bc_coefficient * bc_loss if c.bc_coefficient else loss), figures

    def _end_pretraining(self) -> None:
        """Freeze the reference policy where it is used, and forget the optimiser's state."""
        self.reference.load_state_dict(self.actor.state_dict())
        self.optimiser = make_adam([{"params": list(self.actor.parameters())}], self.config.learning_rate)

    @torch.no_grad()
    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels whose segment has the higher score, without bias; NaN without any."""
        return label_accuracy(preferences, self._score)

    def _score(self, segment: Segment) -> float:
        steps = (torch.from_numpy(np.asarray(x, np.float32)) for x in (segment.observations, segment.actions))
        observations, actions = self._scale(*steps)
        log_probs = self.actor.log_prob(observations, actions)
        if self.config.kl:
            log_probs = log_probs - self.reference.log_prob(observations, actions)
        return float(segment_scores(log_probs, self.config.alpha, self.config.discount))

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "reference": self.reference}


def _mean_inside(log_probs: Tensor, inside: Tensor | None) -> Tensor:
    return log_probs.mean() if inside is None else (log_probs * inside).sum() / inside.sum()


def segment_scores(log_probs: Tensor, alpha: float, discount: float = 1.0, inside: Tensor | None = None) -> Tensor:
    """Return sum_t discount^t alpha log pi(a_t | s_t), [...], for [..., T]; steps outside a segment count nothing."""
    weights = alpha * discount ** torch.arange(log_probs.shape[-1], device=log_probs.device, dtype=log_probs.dtype)
    if inside is not None:
        log_probs = log_probs * inside
    return log_probs @ weights


def pair_loss(
    scores: Tensor,
    targets: Tensor,
    bias: float = 1.0,
    flip_rate: float = 0.0,
    correction: FlipCorrection = "unbiased",
) -> Tensor:
    """Return the loss [B] of scores [B, 2] under targets [B, 2], the chance that each segment is preferred.

    Of one side it is -log(exp(g_k) / (exp(g_k) + exp(bias g_other))) (Hejna et al. 2024, eq. 5 and 10), and the two are
    weighted by the targets; bias 1 is Bradley-Terry's cross entropy. `flip_rate`, `correction`: see `cross_entropy`.
    """
    return cross_entropy(logsigmoid(scores - bias * scores.flip(-1)), targets, None, flip_rate, correction)


def ranking_loss(scores: Tensor, ranks: Tensor, bias: float = 1.0) -> Tensor:
    """Return the mean of `pair_loss` over all pairs of n segments, scores [n], the higher of `ranks` [n] preferred.

    n forward passes give n (n - 1) / 2 comparisons; segments of equal rank are tied.
    """
    margins = scores[:, None] - bias * scores[None, :]
    preferred = (ranks[:, None] > ranks[None, :]).to(scores.dtype) + 0.5 * (ranks[:, None] == ranks[None, :])
    preferred = preferred.fill_diagonal_(0.0)
    return -(preferred * logsigmoid(margins)).sum() / preferred.sum()


Variant = Literal["cpl", "cpl-kl", "cpl-bc"]


@dataclass(frozen=True)
class CPLOptions(OfflineOptions):
    """Which CPL, from which labels."""

    variant: Variant = "cpl"
    """cpl-kl: relative to the cloned policy; cpl-bc: with a cloning loss beside the contrastive one."""
    dense: bool = False
    """With a simulated rater: --labels is a number of segments, every two of which are compared."""

    def needs_labels(self, config: CPLConfig) -> bool:
        """Not where segments are ranked."""
        return not self.dense


def preset(
    task: Task, name: str = "published", *, variant: Variant = "cpl", steps: int | None = None, **_: Any
) -> Settings:
    """Return the settings of CPL or a variant (Hejna et al. 2024), whatever the task.

    steps: of another number of steps than the published 500,000, cloning and warm-up take the same shares.
    """
    config, small = CPLConfig(), name == "small"
    if variant == "cpl-kl":
        config = CPLConfig(alpha=0.2, conservative=0.75, kl=True, rate_factor=0.1)
    elif variant == "cpl-bc":
        config = CPLConfig(conservative=1.0, bc_coefficient=1.0)
    total = steps or (20_000 if small else 500_000)
    config = dataclasses.replace(config, pretrain_updates=total * 2 // 5, warmup_updates=total // 50)
    if small:
        config = dataclasses.replace(
            config, hidden=(128, 128), learning_rate=3e-4, batch_size=16, pretrain_batch=256, dropout=0.1
        )
    return Settings(config, total, CPLOptions(variant))


def _make(settings: Settings, each: Sequence[Offline]) -> list[CPL]:
    made = []
    for one in each:
        ranking = one.rank() if settings.options.dense and one.rank is not None else None
        config = settings.config
        made.append(CPL(one.dataset, one.preferences, config, ranking=ranking, seed=one.seed, device=one.device))
    return made


ALGORITHM = Algorithm(
    name="cpl",
    title="CPL",
    source="offline",
    learner=CPL,
    config=CPLConfig,
    options=CPLOptions,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    together=True,
    rows=(
        Row("cpl", "CPL", controls=("cpl-shuffled",), bound="iql-true-reward"),
        Row("cpl-shuffled", "CPL on shuffled labels (control)", {"shuffle_labels": True}),
    ),
    upper="iql-true-reward",
)
