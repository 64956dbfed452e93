"""RIME: labels that the reward contradicts are left out, or flipped (Cheng et al., ICML 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefenvs.agents.rewards.losses import ABSENT, is_decided
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, OpenFraction, PositiveInt, check_settings

RATE = 0.1
"""How far the mean and the largest divergence go towards those of a pass, as published."""
MOST_UNCERTAINTY = 3.0


@dataclass(frozen=True)
class RimeConfig:
    """Robust reward learning from noisy labels; the defaults are those of the published scripts for DeepMind Control.

    With PEBBLE the ensemble is warm-started: while the agent explores, it learns to predict the intrinsic reward, and
    the critics go on from there at the first session.
    """

    alpha: NonNegativeFloat = 0.5
    """Weight of the largest trusted divergence in the threshold of trust."""
    beta: NonNegativeFloat = 3.0
    """Weight of the divergences' variance in it, in the first pass over the labels."""
    beta_least: NonNegativeFloat = 1.0
    """What that falls to, linearly."""
    beta_passes: PositiveInt = 60
    """Passes in which it falls so far (600 on Meta-World)."""
    flip: OpenFraction = 0.001
    """A label is flipped where the ensemble gives it less than this chance."""
    least_passes: PositiveInt = 15
    """Passes before a fit may end early (5 on Meta-World)."""
    warm_up: NonNegativeInt = 50
    """Passes in which the learning rate rises to its value."""
    intrinsic_steps: NonNegativeInt = 5
    """Gradient steps on the intrinsic reward for each environment step of exploration; 0: no warm start."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.beta_least > self.beta:
            raise PrefenvsError(f"RIME's beta falls to beta_least: {self.beta_least} is more than beta={self.beta}")


class LabelDenoiser:
    """Which labels are trusted, and which are flipped, in each pass over them (RIME, section 4.1).

    With D_i = KL(label_i || the members' mean prediction), a label is trusted if
    D_i < -ln(x) + alpha x + min(beta Var, 3), and flipped if D_i > -ln(flip). x is a running maximum of the trusted
    divergences and Var the variance of all trusted ones so far; beta falls with the passes.
    """

    def __init__(self, config: RimeConfig) -> None:
        self.config = config
        self.passes, self.count = 0, 0
        self.mean, self.variance, self.largest = 0.0, 1.0, 0.0

    @property
    def threshold(self) -> float:
        """The divergence below which a label is trusted."""
        c, x = self.config, self.largest
        beta = max(c.beta_least, c.beta - (c.beta - c.beta_least) * self.passes / c.beta_passes)
        return -math.log(x + 1e-8) + c.alpha * x + min(beta * self.variance, MOST_UNCERTAINTY)

    @property
    def rate(self) -> float:
        """The share of the learning rate in this pass."""
        return min(self.passes / self.config.warm_up, 1.0) if self.config.warm_up else 1.0

    def __call__(
        self, returns: Tensor, targets: Tensor, present: Tensor | None, train: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Begin a pass: return the targets [N, K], some of them flipped, and a weight [N] for each label.

        returns: of all members [M, N, K]; present: see `preference_loss`; train: [N] bool, what is learned from, by
        which the statistics go on. Weights are 0 or all alike, with mean 1 over `train`, so that a batch weighs as
        much as without. Of more than two segments the one predicted best takes a flipped label's place.
        """
        if present is not None:
            returns = returns.masked_fill(~present, ABSENT)
        belief = returns.softmax(-1).mean(0)
        divergence = torch.xlogy(targets, targets / belief.clamp_min(1e-30)).sum(-1)
        trusted = divergence < self.threshold
        flipped = (divergence > -math.log(self.config.flip)) & is_decided(targets)
        best = torch.nn.functional.one_hot(belief.argmax(-1), belief.shape[-1]).to(targets.dtype)
        self._see(divergence[trusted & train])
        kept = trusted | flipped
        share = float(kept[train].float().mean())
        return torch.where(flipped[:, None], best, targets), kept.to(targets.dtype) / (share or 1.0)

    def _see(self, values: Tensor) -> None:
        self.passes += 1
        new = len(values)
        if not new:
            return
        mean, variance = float(values.mean()), float(values.var(correction=0))
        step, total = mean - self.mean, self.count + new
        spread = self.variance * self.count + variance * new + step**2 * self.count * new / total
        self.mean += RATE * step
        self.largest += RATE * (float(values.max()) - self.largest)
        self.variance, self.count = spread / total, total

    def state_dict(self) -> dict[str, Any]:
        """Return the statistics."""
        return {name: getattr(self, name) for name in ("passes", "count", "mean", "variance", "largest")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)
