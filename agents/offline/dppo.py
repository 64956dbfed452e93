"""DPPO: a policy is aligned with a preference predictor's order of segments, without rewards (An et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.transformer import StepTransformer, initialise
from prefenvs.agents.nets.windows import ragged_rows, windows_per_batch
from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.offline.tables import build_pair_table
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.agents.rewards.segment import SegmentReward, SegmentRewardConfig
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    AtLeastTwo,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference
from prefenvs.tasks import Task
from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class SegmentScoreConfig(SegmentRewardConfig):
    """Settings of DPPO's preference predictor; the defaults are Preference Transformer's, as in the released code."""

    width: PositiveInt = 256
    """Width of tokens and hidden states."""
    layers: PositiveInt = 1
    """Transformer blocks."""
    heads: PositiveInt = 4
    """Attention heads of each."""
    dropout: FractionBelowOne = 0.1
    """Dropout of embeddings, attention and both branches of a block."""
    positions: PositiveInt = 1000
    """Longest segment."""
    smoothness: NonNegativeFloat = 1.0
    """Weight nu of the squared difference between the scores of two overlapping segments; 0 leaves it out.

    The released command takes nu and the shift from the user; these two defaults are this project's.
    """
    shift: NonNegativeFloat = 20.0
    """Standard deviation m, in steps, of how far one of the two is shifted along its episode."""


class SegmentScore(SegmentReward[SegmentScoreConfig]):
    """DPPO's predictor: a bidirectional transformer whose mean over steps is a segment's score.

    Loss = cross entropy of labels + nu * mean (score(s) - score(s'))^2 over unlabelled segments s and s', of which s'
    is s shifted by a rounded normal number of steps inside the episode (An et al. 2023, section 4.1).
    """

    format = "prefenvs-segment-score-1"
    config_type = SegmentScoreConfig

    unlabelled: Windows | None = None

    def _build(self) -> nn.Module:
        config = self.config
        steps = StepTransformer(
            self.observation_size,
            self.action_size,
            config.width,
            config.layers,
            config.heads,
            config.dropout,
            config.positions,
            causal=False,
        )
        head = nn.Linear(config.width, 1)
        initialise(head)
        return nn.ModuleDict({"steps": steps, "head": head})

    def step_rewards(self, inputs: Tensor, last: bool = False) -> Tensor:
        """Raise a PrefenvsError: there is no reward of a step."""
        raise PrefenvsError("DPPO's predictor scores whole segments, not steps: train IQL on another reward model")

    def score_segments(self, inputs: Tensor, inside: Tensor | None) -> Tensor:
        """Return each segment's score [B] for steps [B, T, obs + act], of which those `inside` [B, T] exist."""
        network = cast(nn.ModuleDict, self.network)
        hidden = cast(StepTransformer, network["steps"]).of_actions(inputs, inside)
        return self.aggregate(network["head"](hidden).squeeze(-1), inside)

    def losses(self, inputs: Tensor, inside: Tensor | None, present: Tensor | None, targets: Tensor) -> Tensor:
        """Return the loss [B] of queries [B, K, T, obs + act], smoothness over as many unlabelled segments included."""
        losses = super().losses(inputs, inside, present, targets)
        if self.unlabelled is None or not self.config.smoothness:
            return losses
        first, second = self.unlabelled.draw_overlapping(len(targets), self.config.shift, self.generator)
        scores = self.score_segments(torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])).chunk(2)
        return losses + self.config.smoothness * (scores[0] - scores[1]).square()

    @torch.no_grad()
    def score(self, windows: Windows) -> Tensor:
        """Return the scores [W] of all windows, in batches."""
        numbers = torch.arange(len(windows.starts), device=self.device)
        parts = torch.split(numbers, windows_per_batch(windows.length, self.device))
        return torch.cat([self.score_segments(*windows.cut(part)) for part in parts])


class Windows:
    """The W segments of one length in a data set, as steps on the device; an episode that is shorter counts as one."""

    def __init__(self, trajectories: Trajectories, length: int, device: torch.device) -> None:
        self.length = length
        steps = [np.asarray(part, np.float32) for part in (trajectories.observations, trajectories.actions)]
        self.observations, self.actions = (torch.from_numpy(part).to(device) for part in steps)
        room = np.maximum(trajectories.lengths - length + 1, 1)
        first = np.repeat(np.cumsum(room) - room, room)
        starts = np.repeat(trajectories.begins, room) + np.arange(room.sum()) - first
        arrays = starts, np.repeat(trajectories.ends, room), first, first + np.repeat(room, room) - 1
        self.starts, self.ends, self.first, self.last = (torch.from_numpy(array).to(device) for array in arrays)

    def cut(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the steps [B, T, obs + act] of the windows with these numbers [B], and which are real [B, T]."""
        rows, inside = ragged_rows(self.starts[numbers], self.ends[numbers], self.length)
        return torch.cat([self.observations[rows], self.actions[rows]], -1), inside

    def draw_overlapping(
        self, count: int, shift: float, generator: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Draw windows, and as many that lie a rounded normal number of steps away in the same episode."""
        numbers = torch.randint(len(self.starts), (count,), generator=generator).to(self.starts.device)
        steps = (shift * torch.randn(count, generator=generator)).round().long().to(self.starts.device)
        others = torch.minimum(torch.maximum(numbers + steps, self.first[numbers]), self.last[numbers])
        return self.cut(numbers), self.cut(others)


@dataclass(frozen=True)
class DPPOConfig(OfflineConfig):
    """Settings of DPPO; the defaults are the released code's (An et al. 2023), but for `dropout`.

    That one the paper sets for each data set, and the command leaves to the user; here it is as the paper is usually
    quoted for locomotion. So are values of `conservatism` below the code's 1, of which 0.5 is quoted most.
    """

    predictor: SegmentScoreConfig = field(default_factory=SegmentScoreConfig)
    """The preference predictor, fitted first."""
    window: PositiveInt | None = None
    """Steps in a segment; None takes the longest labelled segment (100 in the released command)."""
    conservatism: Fraction = 1.0
    """lambda in [0, 1]: factor on the worse segment's distance; below 1 the policy stays nearer to the better one."""
    temperature: PositiveFloat = 0.1
    """Divides distances."""
    dropout: FractionBelowOne = 0.25
    """Share of the policy's hidden units dropped while training."""
    batch_size: AtLeastTwo = 256
    """Segments in a gradient step; all pairs of them are compared."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate (Adam)."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the policy's hidden layers (ReLU)."""

    def __post_init__(self) -> None:
        check_settings(self)


class DPPO(OfflineLearner[DPPOConfig]):
    """Direct preference-based policy optimisation: a predictor ranks all segments of the data, the policy follows.

    Distance of a segment from the policy: d = mean over steps of |pi(s) - a|_2 / 2. For segments i ranked above j the
    policy maximises the mean of log [exp(-d_i) / (exp(-d_i) + exp(-lambda d_j))], distances divided by the temperature
    (An et al. 2023, section 4.2). Segments all have one length here; the released code adds the shorter ones with which
    its episodes begin. Pairs with equal scores are left out.
    """

    name = "dppo"
    config_type = DPPOConfig

    def _build(self) -> None:
        sizes = self.observation_size, self.action_size
        self.actor = TanhActor(*sizes, self.config.hidden, self.config.dropout, gaussian=False).to(self.device)
        self.optimiser = make_adam([{"params": list(self.actor.parameters())}], self.config.learning_rate)
        self.predictor = SegmentScore(*sizes, self.config.predictor, seed=self.seed, device=self.device)
        self.predictor_figures: dict[str, float] = {}
        self.scores: Tensor | None = None

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        table = build_pair_table(preferences or (), dataset.trajectories, self.device)
        self.labels = len(table)
        self.windows = Windows(dataset.trajectories, self.config.window or table.length, self.device)
        self._preferences, self.scores = list(preferences or ()), None

    def rank(self) -> Tensor:
        """Return the scores [W] of all segments of the data; the first call fits the predictor if no file held one.

        `learn` does this before its first gradient step.
        """
        if self.scores is None:
            assert self.data is not None
            if not self.predictor_figures:
                self.predictor.unlabelled = self.windows
                self.predictor_figures = self.predictor.fit(self._preferences, progress=None)
            self.scores = self.predictor.score(self.windows)
            # From here on steps are looked up in the table of the policy, which holds them normalised.
            self.predictor.unlabelled = None
            self.windows.observations, self.windows.actions = self.data.observations, self.data.actions
        return self.scores

    def _update(self) -> dict[str, Tensor]:
        scores = self.rank()
        chosen = torch.randint(len(scores), (self.config.batch_size,), device=self.device, generator=self.generator)
        steps, inside = self.windows.cut(chosen)
        dropped = self.actor.draw_dropped(steps.shape[:-1], self.generator)
        actions = self.actor(steps[..., : self.observation_size], dropped)
        distances = segment_distances(actions, steps[..., self.observation_size :], inside)
        c = self.config
        loss = alignment_loss(distances / c.temperature, scores[chosen], c.conservatism)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return {"loss": loss.detach(), "distance": distances.detach().mean()}

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels that the predictor agrees with; NaN without any."""
        return label_accuracy(preferences, self.predictor.score_one)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `save` writes, the predictor and its figures among it."""
        return super().state_dict() | {"predictor": dict(self.predictor_figures)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; the segments are scored again when they are needed."""
        super().load_state_dict(state)
        self.predictor_figures = dict(state["predictor"])

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "predictor": self.predictor.network}


def segment_distances(predicted: Tensor, actions: Tensor, inside: Tensor) -> Tensor:
    """Return the mean over real steps of |pi(s) - a|_2 / 2, [B], for actions [B, T, act] in [-1, 1]."""
    steps = torch.linalg.vector_norm((predicted - actions) / 2.0, dim=-1)
    distances: Tensor = (steps * inside).sum(-1) / inside.sum(-1)
    return distances


def alignment_loss(distances: Tensor, scores: Tensor, conservatism: float) -> Tensor:
    """Return the mean of -log [exp(-d_i) / (exp(-d_i) + exp(-lambda d_j))] over i, j with scores s_i > s_j, all [B]."""
    losses = functional.softplus(distances[:, None] - conservatism * distances)
    better = scores[:, None] > scores
    return (losses * better).sum() / better.sum().clamp_min(1)


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return DPPO's settings (An et al. 2023), whatever the task."""
    if name == "small":
        predictor = SegmentScoreConfig(width=64, heads=2, epochs=100)
        return Settings(DPPOConfig(predictor=predictor, batch_size=64, learning_rate=1e-3), steps or 10_000)
    return Settings(DPPOConfig(), steps or 1_000_000)


ALGORITHM = Algorithm(
    name="dppo",
    title="DPPO",
    source="offline",
    learner=DPPO,
    config=DPPOConfig,
    preset=preset,
    presets=("published", "small"),
    rows=(Row("dppo", "DPPO"),),
    upper="iql-true-reward",
)
