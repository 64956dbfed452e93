"""Inverse dynamics: the action between observations, learned where actions are known, told where they are not.

Baker et al. (2022), Video PreTraining (VPT), section 3: the model is not causal, it sees what came before and after. It
is far simpler than a policy, so few actions suffice. Observations are vectors: a robot's own, or features of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from tqdm import trange

from prefenvs.datasets.holdout import hold_out_episodes
from prefenvs.limits import (
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories

ROWS = 16_384


@dataclass(frozen=True)
class InverseDynamicsConfig:
    """An MLP over a window of observations."""

    before: NonNegativeInt = 2
    """Observations before the step that it sees."""
    after: PositiveInt = 3
    """Observations after the step that it sees."""
    width: PositiveInt = 256
    """Size of each of its two hidden layers."""
    steps: PositiveInt = 5_000
    """Gradient steps."""
    batch_size: PositiveInt = 256
    """Steps in an update."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate (Adam), decaying linearly to 0."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay (AdamW)."""
    held_out: FractionBelowOne = 0.2
    """Share of the episodes with actions that measures its error."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Errors:
    """How far inferred actions are from those of held-out episodes.

    absolute: mean absolute error in the actions' own units; unexplained: squared error over the actions' variance, so
    1 is as good as always telling the mean action; steps: of held-out episodes.
    """

    absolute: float
    unexplained: float
    steps: int


class InverseDynamics:
    """Infers the action of each step from what is observed there and from the changes before and after it."""

    def __init__(
        self,
        observations: int,
        actions: int,
        config: InverseDynamicsConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        """`observations`, `actions`: entries of each."""
        self.config, self.device = config or InverseDynamicsConfig(), get_device(device)
        self.seed, width = seed, self.config.width
        inputs = observations * (self.config.before + 1 + self.config.after)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = nn.Sequential(
                nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, actions)
            )
        self.layers = layers.to(self.device)
        self.mean = self.std = self.change = torch.zeros(observations)
        self.low = self.high = self.centre = self.scale = torch.zeros(actions)

    def fit(self, data: Trajectories, progress: bool | None = None) -> Errors | None:
        """Learn from episodes with actions, and return the error in those held out; None where none is held out.

        Raises PrefenvsError for a hold-out that leaves no episode on one side.
        """
        held = hold_out_episodes(len(data), self.config.held_out, self.seed)
        of_step = np.repeat(held, data.lengths)
        rows = np.flatnonzero(~of_step)
        seen = torch.as_tensor(data.observations[rows], dtype=torch.float32)
        acted = torch.as_tensor(data.actions[rows], dtype=torch.float32)
        self.mean, self.std = seen.mean(0), seen.std(0).clamp_min(1e-6)
        changes = np.diff(data.observations, axis=0)[np.setdiff1d(rows, data.ends - 1)]
        self.change = torch.as_tensor(changes.std(0), dtype=torch.float32).clamp_min(1e-6)
        self.centre, self.scale = acted.mean(0), acted.std(0).clamp_min(1e-6)
        self.low, self.high = acted.amin(0), acted.amax(0)
        observations, windows = self._windows(data)
        targets = ((torch.as_tensor(data.actions, dtype=torch.float32) - self.centre) / self.scale).to(self.device)
        optimiser = torch.optim.AdamW(
            self.layers.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, self.config.steps)
        rng = np.random.default_rng(self.seed)
        hidden = None if progress is None else not progress
        for _ in trange(self.config.steps, desc="inverse dynamics", unit="update", disable=hidden):
            chosen = torch.as_tensor(rows[rng.integers(len(rows), size=self.config.batch_size)], device=self.device)
            loss = nn.functional.mse_loss(self._tell(observations[windows[chosen]]), targets[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if not held.any():
            return None
        told, true = self.predict(data)[of_step], data.actions[of_step]
        variance = float(np.var(true, axis=0).sum())
        unexplained = float(np.square(told - true).mean(0).sum()) / max(variance, 1e-12)
        return Errors(float(np.abs(told - true).mean()), unexplained, int(of_step.sum()))

    @torch.no_grad()
    def predict(self, data: Trajectories) -> Array:
        """Return the action [S, act] float32 of each step, within the range of those that it learned from."""
        observations, windows = self._windows(data)
        parts = [self._tell(observations[rows]).cpu() for rows in torch.split(windows, ROWS)]
        actions = torch.cat(parts) * self.scale + self.centre
        found: Array = actions.clamp(self.low, self.high).numpy()
        return found

    def _tell(self, windows: Tensor) -> Tensor:
        """Return normalised actions [B, act] for windows [B, before + 1 + after, obs]."""
        mean, std, change = (part.to(self.device) for part in (self.mean, self.std, self.change))
        now = (windows[:, self.config.before] - mean) / std
        changes = (windows[:, 1:] - windows[:, :-1]) / change
        told: Tensor = self.layers(torch.cat([now, changes.flatten(1)], 1))
        return told

    def _windows(self, data: Trajectories) -> tuple[Tensor, Tensor]:
        """Return observations [S, obs] and the rows [S, window] that each step sees, within its episode."""
        seen = torch.as_tensor(data.observations, dtype=torch.float32, device=self.device)
        begins, ends = (np.repeat(array, data.lengths)[:, None] for array in (data.begins, data.ends))
        offsets = np.arange(-self.config.before, self.config.after + 1)
        rows = np.clip(np.arange(len(seen))[:, None] + offsets, begins, ends - 1)
        return seen, torch.as_tensor(rows, device=self.device)
