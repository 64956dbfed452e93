"""Demonstration-regularised RL: PEBBLE that is kept close to a cloned policy (Tiapkin et al. 2024).

"Demonstration-regularized RL". There the objective is E[R] - lambda KL(pi || pi_BC), for tables and linear models; here
PEBBLE's actor has the term in its loss and its critics do not, and its weight falls, which is this project's choice.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.sac.policies import Actor
from torch import Tensor

from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig, PebbleOptions
from prefenvs.agents.registry import Algorithm
from prefenvs.agents.variants.preset import derive_preset
from prefenvs.datasets.load import load_dataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories


@dataclass(frozen=True)
class DemonstrationsConfig(PebbleConfig):
    """PEBBLE's settings, and how close to demonstrations it is kept."""

    demonstrations: str = ""
    """Data set of the demonstrations, by name or path, as of `prefenvs train bc --dataset`."""
    max_gib: PositiveFloat | None = None
    """Memory in GiB that the demonstrations may take; by default 4."""
    skip_damaged: bool = False
    """Leave out damaged episodes of recordings."""
    kl_weight: NonNegativeFloat = 1.0
    """Weight lambda of KL(pi || pi_BC) at the beginning, in units of the return; 0 only begins with the clone."""
    kl_until: Fraction = 1.0
    """Share of the run over which the weight falls linearly to 0."""
    clone_std: PositiveFloat = 0.5
    """Standard deviation of the cloned policy, before its squashing."""
    clone_updates: PositiveInt = 2_000
    """Gradient steps of cloning, of 256 steps of the demonstrations each."""


class DemonstrationPEBBLE(PEBBLE):
    """PEBBLE whose actor begins as a clone of demonstrations, and pays for leaving it.

    The clone's mean mu_BC minimises |tanh mu_BC(s) - a|^2 over the demonstrations; around it pi_BC has a fixed standard
    deviation. The actor's loss is E[alpha log pi - Q] + lambda KL(pi || pi_BC), and since both are squashed alike,

        KL = sum over actions of log(s_BC / s) + (s^2 + (mu - mu_BC)^2) / (2 s_BC^2) - 1/2.

    The clone acts first in the place of random actions, so that the first questions are about what it does.
    """

    name = "demonstrations"
    config_type = DemonstrationsConfig
    config: DemonstrationsConfig
    clone: Actor

    def __init__(self, *args: Any, demonstrations: Trajectories | None = None, **kwargs: Any) -> None:
        """demonstrations: in the place of the configuration's; everything else is `PEBBLE`'s."""
        self._demonstrations = demonstrations
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.clone = copy.deepcopy(self.actor)
        del self.clone.optimizer

    def check_run(self, total_steps: int) -> None:
        """As PEBBLE's; raises PrefenvsError too where there are no demonstrations, or of other spaces."""
        super().check_run(total_steps)
        self._read_demonstrations()

    def start_feedback(self, total_steps: int) -> None:
        """Get ready to ask the rater, and begin as the clone where nothing was learned yet."""
        super().start_feedback(total_steps)
        if self.num_timesteps == 0:
            data = self._read_demonstrations()
            actions = self.policy.scale_action(data.actions.reshape(-1, *(self.action_space.shape or ())))
            states = torch.as_tensor(data.observations, dtype=torch.float32, device=self.device)
            targets = torch.as_tensor(actions, dtype=torch.float32, device=self.device).flatten(1)
            # A body that normalises observations does so by the demonstrations, before the clone learns from them.
            self.policy.see(states)
            self.clone.load_state_dict(self.actor.state_dict())
            clone_actions(self.clone, states, targets, self.config.clone_updates, self.seed or 0)
            self.actor.load_state_dict(self.clone.state_dict())

    @property
    def kl_weight(self) -> float:
        """Lambda now."""
        done, until = 1.0 - self._current_progress_remaining, self.config.kl_until
        return self.config.kl_weight * max(1.0 - done / until, 0.0) if until else 0.0

    def actor_penalty(self, observations: Tensor) -> Tensor | None:
        """Return lambda times the mean of KL(pi || pi_BC) over a batch; see the class."""
        weight = self.kl_weight
        if not weight:
            return None
        mean, log_std, _ = self.actor.get_action_dist_params(observations)
        with torch.no_grad():
            cloned = self.clone.get_action_dist_params(observations)[0]
        return weight * gaussian_kl(mean, log_std, cloned, self.config.clone_std).mean()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As PEBBLE; the weight of the KL is logged."""
        super().train(gradient_steps, batch_size)
        self.logger.record("clone/kl_weight", self.kl_weight)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        """As PEBBLE's, without random actions at the beginning."""
        return super()._sample_action(0, action_noise, n_envs)

    def _read_demonstrations(self) -> Trajectories:
        name = self.config.demonstrations
        if self._demonstrations is None:
            if not name:
                raise PrefenvsError("demonstrations are missing: --demonstrations DATASET, or demonstrations=...")
            gib, skip = self.config.max_gib, self.config.skip_damaged
            self._demonstrations = load_dataset(name, self.task, max_gib=gib, skip_damaged=skip).trajectories
        data = self._demonstrations
        own = self.observation_space.shape, (int(np.prod(self.action_space.shape or ())),)
        found = data.observations.shape[1:], data.actions.shape[1:]
        if found != own:
            raise PrefenvsError(
                f"demonstrations {name or data.source!r} have observations {list(found[0])} and actions "
                f"{list(found[1])}, but {self.task} has {list(own[0] or ())} and {list(own[1])}: take some of this task"
            )
        return data

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        modules, variables = super()._get_torch_save_params()
        return [*modules, "clone"], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "clone", "_demonstrations"]


def clone_actions(actor: Actor, observations: Tensor, actions: Tensor, updates: int, seed: int) -> float:
    """Fit an actor's mean to actions [N, act] in [-1, 1] by squared errors; return the last batch's mean error."""
    optimiser = torch.optim.Adam(actor.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        rows = torch.randint(len(observations), (256,), generator=generator).to(observations.device)
        error = (actor.get_action_dist_params(observations[rows])[0].tanh() - actions[rows]).square().mean()
        optimiser.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return float(error.detach())


def gaussian_kl(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_std: float) -> Tensor:
    """Return KL(N(mean, std) || N(other_mean, other_std)) [B], summed over actions [B, act]."""
    apart = (log_std.exp().square() + (mean - other_mean).square()) / (2.0 * other_std**2)
    return (float(np.log(other_std)) - log_std + apart - 0.5).sum(1)


ALGORITHM = Algorithm(
    name="demonstrations",
    title="PEBBLE kept close to demonstrations",
    source="online",
    learner=DemonstrationPEBBLE,
    config=DemonstrationsConfig,
    options=PebbleOptions,
    preset=derive_preset(DemonstrationsConfig, explores=False),
    presets=("published", "small", "reliable"),
)
