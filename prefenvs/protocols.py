"""What one part asks of another: small structural types, so that no package imports a later one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prefenvs.preferences import Preference
from prefenvs.segments import Array


@runtime_checkable
class RewardModel(Protocol):
    """A learned reward: an ensemble of M members over observations and actions."""

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [M, ...] for observations [..., obs] and actions [..., act]; leading axes are kept."""

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """Train on all preferences given (skips are ignored) and return metrics, held-out accuracy among them."""

    def save(self, path: str | Path) -> None:
        """Write weights and configuration."""


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
