"""What reward models of whole segments share: fitting to preferences, relabelling of episodes, files.

`PreferenceTransformer` and `GaussianReward` say what a network is, what it scores, and which loss it has.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from tqdm import trange

from prefenvs.agents.nets.saved import saved_state
from prefenvs.agents.nets.windows import window_batches
from prefenvs.agents.rewards.losses import credit_labels, is_decided, preference_loss
from prefenvs.agents.rewards.tables import QueryTable, check_shapes, prepare_labels
from prefenvs.errors import PrefenvsError
from prefenvs.limits import FractionBelowOne, NonNegativeFloat, PositiveFloat, PositiveInt, check_settings
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

Aggregate = Literal["mean", "sum"]


@dataclass(frozen=True)
class SegmentRewardConfig:
    """Settings that all reward models of segments have; the defaults are Preference Transformer's (Kim et al. 2023)."""

    learning_rate: PositiveFloat = 1e-4
    """First and last learning rate (AdamW); in between it rises linearly to ten times that and decays by a cosine."""
    peak: PositiveFloat = 10.0
    """How many times `learning_rate` the highest rate is."""
    warmup: FractionBelowOne = 0.1
    """Share of the gradient steps in which the rate rises."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay (AdamW)."""
    batch_size: PositiveInt = 256
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 10_000
    """Passes over the labels in one fit; each fit has its own schedule of learning rates."""
    aggregate: Aggregate = "mean"
    """Whether a segment's score is the mean over its steps, as released, or their sum, as in the paper's formula.

    With the mean, scores of segments of L steps are an L-th of what they are with the sum, so that rewards learned from
    the same labels come out larger.
    """
    validation_share: FractionBelowOne = 0.0
    """Share of the labels held out, by episode where possible."""

    def __post_init__(self) -> None:
        check_settings(self)


C = TypeVar("C", bound=SegmentRewardConfig)


class SegmentReward(ABC, Generic[C]):
    """A reward learned from preferences between segments, of one member: `prefenvs.protocols.RewardModel`.

    A step's reward may depend on the steps before it, so the last leading axis of what `predict` gets is time, and
    episodes are relabelled by `relabel`, which knows where they end.
    """

    format: ClassVar[str]
    config_type: type[C]

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: C | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        if observation_size < 1 or action_size < 1:
            raise PrefenvsError(f"a reward model needs inputs, got {observation_size=} and {action_size=}")
        self.observation_size, self.action_size = observation_size, action_size
        self.config = config or self.config_type()
        self.device = get_device(device)
        self.generator = torch.Generator().manual_seed(seed)
        with self._own_randomness():
            self.network = self._build().to(self.device).eval()
        self.table = QueryTable(observation_size, action_size, self.device)
        self.context = 1
        """Steps that a reward looks at, its own included: as many as the longest segment fitted to has."""
        self._sides: dict[str, bool] = {}

    @abstractmethod
    def _build(self) -> nn.Module:
        """Return the network."""

    @abstractmethod
    def step_rewards(self, inputs: Tensor, last: bool = False) -> Tensor:
        """Return rewards [B, T] of steps [B, T, obs + act], each from its own and earlier steps; [B, 1] if `last`."""

    @abstractmethod
    def score_segments(self, inputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return each segment's score [B] for steps [B, T, obs + act], of which those `inside` [B, T] exist."""

    def losses(self, inputs: Tensor, inside: Tensor | None, present: Tensor | None, targets: Tensor) -> Tensor:
        """Return the loss [B] of queries [B, K, T, obs + act]; see `QueryTable.steps` for `inside` and `present`."""
        return preference_loss(self._scores(inputs, inside), targets, present)

    def aggregate(self, values: Tensor, inside: Tensor | None) -> Tensor:
        """Return the mean or sum [...] over the steps of values [..., T] that are inside."""
        if inside is None:
            return values.mean(-1) if self.config.aggregate == "mean" else values.sum(-1)
        total = (values * inside).sum(-1)
        return total / inside.sum(-1).clamp_min(1) if self.config.aggregate == "mean" else total

    @torch.no_grad()
    def relabel(self, trajectories: Trajectories) -> Array:
        """Return the reward [S] float32 of every step, each seen through the window of `context` steps that ends there.

        Windows never reach back over an episode's begin; the first ones are shorter.
        """
        return self._reward_sequences(trajectories.observations, trajectories.actions, trajectories.ends)

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [1, ..., T] float32 for sequences of steps, [..., T, obs] and [..., T, act].

        A reward sees at most `context` steps back and never beyond its sequence. [obs] and [act] are a lone step.
        Raises PrefenvsError for other shapes.
        """
        observations, actions = np.asarray(observations), np.asarray(actions)
        check_shapes(observations, actions, (self.observation_size, self.action_size))
        lead = observations.shape[:-1]
        steps = lead[-1] if lead else 1
        flat = observations.reshape(-1, self.observation_size), actions.reshape(-1, self.action_size)
        ends = np.arange(1, len(flat[0]) // max(steps, 1) + 1) * steps
        return self._reward_sequences(*flat, ends).reshape(1, *lead)

    def predict_episodes(self, observations: Array, actions: Array, ends: Array) -> Array:
        """Return rewards [1, S] of the steps [S, ...] of episodes end to end, which end before the rows `ends` [E]."""
        return self._reward_sequences(observations, actions, ends)[None]

    @torch.no_grad()
    def _reward_sequences(self, observations: Array, actions: Array, ends: Array) -> Array:
        inputs = torch.from_numpy(np.concatenate([observations, actions], 1, dtype=np.float32)).to(self.device)
        rewards = torch.zeros(len(inputs), device=self.device)
        begins = torch.from_numpy(np.concatenate([[0], ends[:-1]])).to(self.device)
        for windows, rows, last in window_batches(inputs, begins, torch.from_numpy(ends).to(self.device), self.context):
            values = self.step_rewards(windows, last)
            rewards[rows[rows >= 0]] = values[rows >= 0]
        result: Array = rewards.cpu().numpy()
        return result

    @torch.no_grad()
    def preference_probabilities(self, queries: Sequence[Query]) -> Array:
        """Return the belief [1, N, K] that a segment is preferred; 0 where a query has no such segment."""
        table = QueryTable(self.observation_size, self.action_size, self.device)
        rows = table.sync(queries)
        parts = []
        for part in torch.split(rows, self.config.batch_size):
            inside, present = table.steps(part)
            scores = self._scores(table.inputs[part], inside)
            parts.append((scores if present is None else scores.masked_fill(~present, -torch.inf)).softmax(-1))
        beliefs: Array = torch.cat(parts).unsqueeze(0).cpu().numpy()
        return beliefs

    def score_one(self, segment: Segment) -> float:
        """Return the score of one segment."""
        steps = np.concatenate([segment.observations, segment.actions], 1, dtype=np.float32)
        with torch.no_grad():
            return float(self.score_segments(torch.from_numpy(steps)[None].to(self.device), None))

    def fit(self, preferences: Sequence[Preference], progress: bool | None = False) -> dict[str, float]:
        """Train on all preferences given; skips are ignored, ties and other soft labels count as they are.

        Returns labels, skipped, decided, epochs, loss, accuracy, and with held-out labels validation_loss,
        validation_accuracy, validation_by_episode, as `RewardEnsemble.fit` does. progress: show a bar of passes;
        None does so in a terminal.
        """
        labels, metrics = prepare_labels(
            preferences, self.table, self._sides, self.config.validation_share, self.generator
        )
        if labels is None:
            return metrics
        rows, targets, held = labels.rows, labels.targets, labels.held_out
        self.context = self._context(int(self.table.inputs.shape[2]))
        metrics["epochs"] = float(self.config.epochs)
        with self._own_randomness():
            metrics["loss"], metrics["accuracy"] = self._train(rows[~held], targets[~held], progress)
        if self.config.validation_share:
            loss, accuracy = self._evaluate(rows[held], targets[held])
            metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
        return metrics

    def _context(self, steps: int) -> int:
        """Return how many steps a reward looks at after fitting to segments of so many."""
        return steps

    def _train(self, rows: Tensor, targets: Tensor, progress: bool | None) -> tuple[float, float]:
        config = self.config
        optimizer = torch.optim.AdamW(
            self.network.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        total = config.epochs * math.ceil(len(rows) / config.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, total, config))
        totals = torch.zeros(3, device=self.device)
        self.network.train()
        for _ in trange(
            config.epochs, desc="reward model", unit="pass", disable=None if progress is None else not progress
        ):
            totals.zero_()
            order = torch.randperm(len(rows), generator=self.generator).to(self.device)
            for batch in torch.split(order, config.batch_size):
                inside, present = self.table.steps(rows[batch])
                losses = self.losses(self.table.inputs[rows[batch]], inside, present, targets[batch])
                optimizer.zero_grad()
                losses.mean().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                totals[0] += losses.detach().sum()
        self.network.eval()
        loss = float(totals[0]) / len(rows)
        if not math.isfinite(loss):
            raise PrefenvsError(f"the reward loss became {loss}: lower learning_rate={config.learning_rate}")
        return loss, self._evaluate(rows, targets)[1]

    @torch.no_grad()
    def _evaluate(self, rows: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return cross entropy, and accuracy on decided labels, of the trained network; NaN where there is none."""
        if not len(rows):
            return math.nan, math.nan
        loss = right = 0.0
        size = self.config.batch_size
        for part, target in zip(torch.split(rows, size), torch.split(targets, size), strict=True):
            inside, present = self.table.steps(part)
            scores = self._scores(self.table.inputs[part], inside)
            loss += float(preference_loss(scores, target, present).sum())
            right += float((credit_labels(scores, target, present) * is_decided(target)).sum())
        decided = float(is_decided(targets).sum())
        return loss / len(rows), right / decided if decided else math.nan

    def _scores(self, inputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return scores [B, K] of queries [B, K, T, obs + act]."""
        flat = None if inside is None else inside.flatten(0, 1)
        return self.score_segments(inputs.flatten(0, 1), flat).view(inputs.shape[:2])

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Let initial weights and dropout follow this model's seed, and leave the global generators as they were."""
        seed = int(torch.randint(2**31, (), generator=self.generator))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def save(self, path: str | Path) -> None:
        """Write configuration, weights, random state and which queries are held out."""
        torch.save(self.state_dict(), path)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `save` writes, as tensors and plain values."""
        return {
            "format": self.format,
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "config": asdict(self.config),
            "context": self.context,
            "network": self.network.state_dict(),
            "generator": self.generator.get_state(),
            "sides": dict(self._sides),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; raises PrefenvsError for a model of other sizes."""
        own = (self.observation_size, self.action_size)
        if own != (state["observation_size"], state["action_size"]):
            sizes = (state["observation_size"], state["action_size"])
            raise PrefenvsError(f"the saved reward model takes observations and actions of {sizes}, this one of {own}")
        self.network.load_state_dict(state["network"])
        self.generator.set_state(state["generator"])
        self.context, self._sides = state["context"], dict(state["sides"])

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> Self:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises PrefenvsError for files that are damaged, of another kind, or not there.
        """
        with saved_state(path, cls.format, cls.__name__) as state:
            model = cls(state["observation_size"], state["action_size"], cls.config_type(**state["config"]), 0, device)
            model.load_state_dict(state)
        return model


def rate_factor(step: int, total: int, config: SegmentRewardConfig) -> float:
    """Return the factor on the learning rate: a linear rise from 1 to `peak`, then a cosine back to 1."""
    rising = int(config.warmup * total)
    if step < rising:
        return 1.0 + (config.peak - 1.0) * step / rising
    done = min((step - rising) / max(total - rising, 1), 1.0)
    return 1.0 + (config.peak - 1.0) * 0.5 * (1.0 + math.cos(math.pi * done))
