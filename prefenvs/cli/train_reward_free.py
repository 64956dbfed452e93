"""`prefenvs train oppo`, `ipl` and `dppo`: learners from a fixed data set without a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefenvs.cli.offline import TrainOffline
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.limits import Fraction, NonNegativeFloat, PositiveFraction, PositiveInt
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.agents.offline.learner import OfflineLearner
    from prefenvs.preferences import Preference


@dataclass(frozen=True)
class TrainOPPO(TrainOffline):
    """Train OPPO: a transformer policy that follows a context, and the context that preferences call best."""

    algorithm = "oppo"

    window: PositiveInt | None = None
    """Steps that encoder and policy see at once."""
    context_size: PositiveInt | None = None
    """Numbers in a context."""
    preference_weight: NonNegativeFloat | None = None
    """Weight of the preference loss in the encoder's step; 10 in the released code on labels of people, else 0.1."""

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from prefenvs.agents import OPPO
        from prefenvs.agents.offline.presets_reward_free import oppo_settings

        config, steps = oppo_settings(self.preset)
        given = {"window": self.window, "context_size": self.context_size, "preference_weight": self.preference_weight}
        longest = int(dataset.trajectories.lengths.max())
        config = self._override(config, **given, positions=longest if longest > config.positions else None)
        return OPPO(dataset, preferences, config, seed=self.seed, device=self.device), self.steps or steps


@dataclass(frozen=True)
class TrainIPL(TrainOffline):
    """Train IPL: Q fitted to preferences through the reward that it implies, and IQL's policy on it."""

    algorithm = "ipl"

    regularisation: NonNegativeFloat | None = None
    """lambda: weight of the mean squared implied reward."""
    expectile: PositiveFraction | None = None
    """tau: which expectile of Q over the data's actions V estimates."""
    inv_temperature: NonNegativeFloat | None = None
    """Factor on the advantage in the actor's weights."""

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from prefenvs.agents import IPL
        from prefenvs.agents.offline.presets_reward_free import ipl_settings

        config, steps = ipl_settings(find_task(dataset.task), self.preset)
        config = self._override(
            config,
            regularisation=self.regularisation,
            expectile=self.expectile,
            inv_temperature=self.inv_temperature,
        )
        return IPL(dataset, preferences, config, seed=self.seed, device=self.device), self.steps or steps


@dataclass(frozen=True)
class TrainDPPO(TrainOffline):
    """Train DPPO: a predictor ranks all segments of the data, and the policy is aligned with its order."""

    algorithm = "dppo"

    conservatism: NonNegativeFloat | None = None
    """lambda: factor on the worse segment's distance, in [0, 1]."""
    dropout: Fraction | None = None
    """Share of the policy's hidden units dropped while training."""

    def _make_learner(
        self, dataset: OfflineDataset, preferences: list[Preference] | None
    ) -> tuple[OfflineLearner[Any], int]:
        from prefenvs.agents import DPPO
        from prefenvs.agents.offline.presets_reward_free import dppo_settings

        config, steps = dppo_settings(self.preset)
        config = self._override(config, conservatism=self.conservatism, dropout=self.dropout)
        return DPPO(dataset, preferences, config, seed=self.seed, device=self.device), self.steps or steps
