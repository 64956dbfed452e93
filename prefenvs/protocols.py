"""What one part asks of another: small structural types, so that no package imports a later one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array

if TYPE_CHECKING:
    from prefenvs.trajectories import Trajectories


@runtime_checkable
class RewardModel(Protocol):
    """A learned reward: M >= 1 members over observations and actions. Online learners take any object of this form."""

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [M, N] for observations [N, obs] and actions [N, act] in the task's units.

        Asked before the first `fit` too. The models of this library keep any leading axes.
        """

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """Train on all preferences given so far (skips are ignored) and return metrics, which are logged."""

    def save(self, path: str | Path) -> None:
        """Write all that `load` needs to this very path, as a file or a folder."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the model that `save` wrote; `fit` goes on from there."""


@runtime_checkable
class SequenceRewardModel(RewardModel, Protocol):
    """A reward model for which a step's reward depends on the steps before it in the episode."""

    context: int
    """How many steps a reward depends on, its own included."""

    def predict_episodes(self, observations: Array, actions: Array, ends: Array) -> Array:
        """Return rewards [M, S] of the steps [S, ...] of episodes end to end, which end before the rows `ends` [E]."""


@runtime_checkable
class QuerySelector(Protocol):
    """A way to choose what is asked; see `prefenvs.queries.Selector`. A function of these arguments will do too."""

    def select(
        self,
        pool: Trajectories,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
        rng: np.random.Generator,
    ) -> list[Query]:
        """Return at most `count` queries about segments of `length` steps of the episodes in `pool`."""


def predict_rewards(model: RewardModel, observations: Array, actions: Array, ends: Array | None = None) -> Array:
    """Return a model's rewards [M, S] of steps [S, obs] and [S, act].

    ends: [E] rows before which episodes end, for models of sequences; None: all is one. Raises PrefenvsError where the
    rewards have another shape, or are not finite.
    """
    steps = len(observations)
    if isinstance(model, SequenceRewardModel):
        rewards = model.predict_episodes(observations, actions, np.array([steps]) if ends is None else ends)
    else:
        rewards = model.predict(observations, actions)
    shape = np.shape(rewards)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != steps:
        raise PrefenvsError(
            f"the reward model {type(model).__name__} returned rewards of shape {list(shape)} for {steps} steps: "
            f"predict returns [members, {steps}]"
        )
    if not np.isfinite(rewards).all():
        raise PrefenvsError(f"the reward model {type(model).__name__} returned rewards that are NaN or infinite")
    return rewards


def predict_segments(model: RewardModel, observations: Array, actions: Array) -> Array:
    """Return a model's rewards [M, N, T] of N segments [N, T, obs] and [N, T, act]."""
    count, length = observations.shape[:2]
    seen, done = (array.reshape(count * length, *array.shape[2:]) for array in (observations, actions))
    rewards = predict_rewards(model, seen, done, np.arange(1, count + 1) * length)
    return rewards.reshape(len(rewards), count, length)


@runtime_checkable
class Advantage(Protocol):
    """Values of an expert, for raters that judge by regret."""

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return A*(s, a) = Q*(s, a) - V*(s), [...], for observations [..., obs] and actions [..., act]."""


@runtime_checkable
class Policy(Protocol):
    """Anything that acts: Stable-Baselines3 algorithms and policies have this form."""

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return actions for a batch of observations, and the recurrent state (None if there is none)."""
