"""Vector environments whose members have independent seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed


class IndependentEnvs(DummyVecEnv):
    """Environments stepped one after the other in this process, where the runs of two seeds share no environment.

    Stable-Baselines3 gives environment i the seed `seed + i`, so that runs of seeds 0 and 1 share all but one.
    """

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Set the seeds that the next `reset` passes on, and return them."""
        return seed_environments(self, seed)


def seed_environments(venv: VecEnv, seed: int | None) -> Sequence[int]:
    """Give each environment of a vector a seed of its own, derived from `seed` (None: any), for the next `reset`."""
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    seeds = [derive_seed(seed, "environments", i) for i in range(venv.num_envs)]
    # A vector takes its seeds from one number only; the innermost one keeps them until the reset.
    venv.unwrapped._seeds = list(seeds)
    return seeds


def make_envs(task: str, count: int = 1, seed: int = 0, **kwargs: Any) -> IndependentEnvs:
    """Make `count` environments of a task that hide their reward, stepped one after the other in this process.

    kwargs: as `prefenvs.make` takes them. Raises PrefenvsError for a count below 1.
    """
    if count < 1:
        raise PrefenvsError(f"--envs must be at least 1, got {count}")
    venv = IndependentEnvs([lambda: make(task, **kwargs)] * count)
    venv.seed(seed)
    return venv
