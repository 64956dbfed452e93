"""Inverse preference learning: preferences fit Q directly, through the reward that Q and V imply."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from prefenvs.agents.nets.mlp import BatchedMLP, initialise
from prefenvs.agents.nets.windows import ragged_rows
from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.iql import advantage_weights, expectile_loss
from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.offline.tables import build_pair_table
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.agents.rewards.losses import preference_loss
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    AtLeastTwo,
    Fraction,
    OpenFraction,
    PositiveFloat,
    PositiveFraction,
    PositiveInt,
    check_settings,
)
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference
from prefenvs.segments import Segment
from prefenvs.tasks import Task


@dataclass(frozen=True)
class IPLConfig(OfflineConfig):
    """Settings of IPL with IQL; the defaults are the released ones for locomotion (Hejna and Sadigh 2023)."""

    discount: OpenFraction = 0.99
    """gamma."""
    expectile: OpenFraction = 0.7
    """tau: which expectile of Q over the data's actions V estimates."""
    inv_temperature: PositiveFloat = 3.0
    """Factor on the advantage in the actor's weights; the released code divides by 0.3333 instead."""
    weight_clip: PositiveFloat = 100.0
    """Largest weight of a transition in the actor's loss."""
    regularisation: PositiveFloat = 0.5
    """lambda: weight of the mean squared implied reward."""
    replay_weight: Fraction = 0.5
    """Weight of the data set's transitions against those of labelled segments, in all losses but the preferences'."""
    target_rate: PositiveFraction = 0.005
    """rho: Polyak coefficient of the target critics."""
    batch_size: PositiveInt = 256
    """Transitions of the data set in a gradient step."""
    pairs: PositiveInt = 8
    """Labelled pairs in a gradient step."""
    segment_steps: AtLeastTwo = 64
    """Steps of each labelled segment, drawn anew each time; shorter segments are taken whole."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate of all networks (Adam)."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers of every network (ReLU)."""
    limit_values: bool = True
    """Limit V(s') in implied rewards to 1 / (lambda (1 - gamma)); not so in the released settings for Meta-World."""

    def __post_init__(self) -> None:
        check_settings(self)


class Mixed(NamedTuple):
    """2 P T transitions of labelled segments, then B of the data set; `inside` and `targets` belong to the former.

    observations, next_observations: [2 P T + B, obs]; actions: [2 P T + B, act]; continues: [2 P T + B], 0 where the
    task ended the episode. inside: [P, 2, T] bool, which transitions are real; targets: [P, 2].
    """

    observations: Tensor
    actions: Tensor
    next_observations: Tensor
    continues: Tensor
    inside: Tensor
    targets: Tensor


class IPL(OfflineLearner[IPLConfig]):
    """Inverse preference learning with IQL: no reward network.

    The implied reward of a transition is r(s, a, s') = Q(s, a) - gamma (1 - d) V(s'), with V(s') held fixed and, by
    default, limited to 1 / (lambda (1 - gamma)). Each critic minimises the cross entropy between labels and the softmax
    of implied rewards summed over a segment's transitions, plus lambda E[r^2]; V and the actor are IQL's. A segment of
    T steps has T - 1 transitions, because the observation after its last step is not part of it. V, critics and actor
    all use V and the targets as they were before the step; the released code steps V first.
    """

    name = "ipl"
    config_type = IPLConfig

    def _build(self) -> None:
        c, inputs = self.config, self.observation_size + self.action_size
        self.critics = BatchedMLP(2, [inputs, *c.hidden, 1], initialise=initialise).to(self.device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.value = BatchedMLP(1, [self.observation_size, *c.hidden, 1], initialise=initialise).to(self.device)
        self.actor = TanhActor(self.observation_size, self.action_size, c.hidden, orthogonal=True).to(self.device)
        trained = [parameter for module in (self.critics, self.value, self.actor) for parameter in module.parameters()]
        self.optimiser = make_adam([{"params": trained}], c.learning_rate)
        self._online: list[Tensor] = list(self.critics.parameters())
        self._target: list[Tensor] = list(self.targets.parameters())

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        dataset.warn_of_unknown_ends()
        self.pairs = build_pair_table(preferences or (), dataset.trajectories, self.device)
        self.labels = len(self.pairs)
        if int(self.pairs.lengths.min()) < 2:
            raise PrefenvsError("IPL needs segments of at least 2 steps: a transition leads from one to the next")

    def _update(self) -> dict[str, Tensor]:
        c = self.config
        batch = self._draw()
        inputs = torch.cat([batch.observations, batch.actions], 1)
        with torch.no_grad():
            q_low = self.targets(inputs).amin(0).squeeze(-1)
            limit = 1.0 / (c.regularisation * (1.0 - c.discount)) if c.limit_values else math.inf
            next_values = self.value(batch.next_observations).reshape(-1).clamp(-limit, limit)
        rewards = self.critics(inputs).squeeze(-1) - c.discount * batch.continues * next_values
        preference = segment_losses(rewards[:, : batch.inside.numel()], batch.inside, batch.targets).mean()
        regularisation = c.regularisation * self._mean(rewards.square(), batch.inside)
        values = self.value(batch.observations).reshape(-1)
        value_loss = self._mean(expectile_loss(q_low - values, c.expectile), batch.inside)
        weights = advantage_weights(q_low - values.detach(), c.inv_temperature, c.weight_clip)
        actor_loss = self._mean(-weights * self.actor.log_prob(batch.observations, batch.actions), batch.inside)

        # The losses of critics, V and actor share no parameter, so that one backward pass serves them all.
        self.optimiser.zero_grad(set_to_none=True)
        (preference + regularisation + value_loss + actor_loss).backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        torch._foreach_lerp_(self._target, self._online, c.target_rate)
        figures = {"preference_loss": preference, "regularisation": regularisation, "value_loss": value_loss}
        figures |= {"actor_loss": actor_loss, "implied_reward": rewards.mean()}
        return {name: figure.detach() for name, figure in figures.items()}

    def _mean(self, values: Tensor, inside: Tensor) -> Tensor:
        """Return the weighted mean of values [..., 2 P T + B]: of the labelled transitions inside, and of the rest."""
        labelled = (values[..., : inside.numel()] * inside.flatten()).sum(-1) / inside.sum()
        weight = self.config.replay_weight
        return ((1.0 - weight) * labelled + weight * values[..., inside.numel() :].mean(-1)).mean()

    def _draw(self) -> Mixed:
        """Draw pairs, a window of each of their segments, and transitions of the data set."""
        data, c = self.data, self.config
        assert data is not None
        chosen = torch.randint(len(self.pairs), (c.pairs,), device=self.device, generator=self.generator)
        starts, lengths = self.pairs.starts[chosen], self.pairs.lengths[chosen]
        steps = min(c.segment_steps, self.pairs.length)
        room = (lengths - steps + 1).clamp_min(1)
        offsets = torch.rand(room.shape, device=self.device, generator=self.generator) * room
        first = starts + offsets.long()
        # The last step of a window is the next one of the step before it.
        rows, inside = ragged_rows(first, starts + lengths - 1, steps - 1)
        labelled = rows.flatten()
        numbers = torch.randint(len(data.rows), (c.batch_size,), device=self.device, generator=self.generator)
        rows = torch.cat([labelled, data.rows[numbers]])
        next_rows = torch.cat([labelled + 1, data.next_rows[numbers]])
        continues = torch.cat([torch.ones_like(labelled, dtype=torch.float32), data.continues[numbers]])
        following = data.observations[next_rows]
        targets = self.pairs.targets[chosen]
        return Mixed(data.observations[rows], data.actions[rows], following, continues, inside, targets)

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels whose segment has the larger sum of implied rewards; NaN without any."""
        return label_accuracy(preferences, self._imply)

    @torch.no_grad()
    def _imply(self, segment: Segment) -> float:
        """Return the sum of the critics' mean implied rewards over the transitions of a segment."""
        steps = (torch.from_numpy(np.asarray(part, np.float32)) for part in (segment.observations, segment.actions))
        observations, actions = self._scale(*steps)
        q = self.critics(torch.cat([observations, actions], 1)).mean(0).squeeze(-1)[:-1]
        return float((q - self.config.discount * self.value(observations).reshape(-1)[1:]).sum())

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "value": self.value, "critics": self.critics, "targets": self.targets}


def segment_losses(rewards: Tensor, inside: Tensor, targets: Tensor) -> Tensor:
    """Return the cross entropy [critics, P] of implied rewards [critics, 2 P T], summed where `inside` [P, 2, T]."""
    returns = (rewards.view(-1, *inside.shape) * inside).sum(-1)
    return preference_loss(returns, targets)


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return IPL's settings (Hejna and Sadigh 2023): those released for Meta-World, or locomotion's.

    On Meta-World the number of transitions of the data set in a batch, and their weight, are still locomotion's: the
    sources at hand do not tell them.
    """
    config, total = IPLConfig(), 1_000_000
    if task.family == "metaworld":
        hidden = (256, 256, 256)
        config = IPLConfig(regularisation=3.0, expectile=0.75, hidden=hidden, pairs=16, segment_steps=16)
        config, total = dataclasses.replace(config, limit_values=False), 200_000
    if name == "small":
        config, total = dataclasses.replace(config, hidden=(256, 256), learning_rate=1e-3), 20_000
    return Settings(config, steps or total)


ALGORITHM = Algorithm(
    name="ipl",
    title="IPL",
    source="offline",
    learner=IPL,
    config=IPLConfig,
    preset=preset,
    presets=("published", "small"),
    rows=(Row("ipl", "IPL"),),
    upper="iql-true-reward",
)
