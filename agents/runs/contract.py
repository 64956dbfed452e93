"""What every algorithm of the registry keeps: learn, save, load, learn on, and resume as if never stopped.

`check_algorithm` is for the tests of an algorithm, as `prefenvs.oracles.contract.check_oracle` is for those of a rater.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from prefenvs.agents.registry import Algorithm, Offline, Online, Settings
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array


def check_algorithm(
    algorithm: Algorithm, settings: Settings, given: Offline | Callable[[], Online], folder: Path, steps: int = 6
) -> None:
    """Train a small learner in an empty folder, and raise a PrefenvsError that names the part it does not keep.

    given: what it is made with; a function where that cannot be used twice, as a rater cannot. steps: before a
    checkpoint is written, and again after.
    """

    def make() -> Any:
        if algorithm.source == "offline":
            assert isinstance(given, Offline)
            return algorithm.make_offline(settings, [given])[0]
        assert not isinstance(given, Offline)
        return algorithm.make_online(settings, given())

    learner = make()
    for name in ("name", "task", "seed", "learns_from", "num_timesteps", "save_checkpoint", "learn", "predict"):
        _demand(hasattr(learner, name), algorithm, f"its learner has no {name}")
    _demand(learner.name == algorithm.name.partition(":")[0] or ":" in algorithm.name, algorithm, "its learner's name")
    saving = _SaveOnce(steps, folder / "checkpoint")
    learner.learn(2 * steps, callback=saving)
    _demand(saving.saved, algorithm, "it calls no callback")
    observations = _observations(learner)
    checkpoint = learner.save_checkpoint(folder / "last")
    loaded = algorithm.learner.load(checkpoint / "model.zip", device="cpu")
    # Weights that lie elsewhere in memory may be multiplied in another order.
    _demand(_same(learner, loaded, observations, 1e-5), algorithm, "a loaded learner acts otherwise than the saved one")
    if algorithm.source == "offline":
        _demand(loaded.num_timesteps == learner.num_timesteps, algorithm, "a loaded learner has another step count")
        _refuses(lambda: loaded.learn(steps), algorithm, "it learns without data")
    if not algorithm.resumes:
        return
    resumed = make()
    resumed.resume(saving.folder)
    resumed.learn(2 * steps - resumed.num_timesteps, reset_num_timesteps=False)
    _demand(resumed.num_timesteps == learner.num_timesteps, algorithm, "a resumed learner has another step count")
    _demand(
        _same(learner, resumed, observations), algorithm, "a resumed learner does not end where an unbroken one does"
    )


class _SaveOnce(BaseCallback):
    """Write a checkpoint between two steps, after so many."""

    def __init__(self, steps: int, folder: Path) -> None:
        super().__init__()
        self.steps, self.folder, self.saved = steps, folder, False

    def _on_rollout_start(self) -> None:
        if not self.saved and self.num_timesteps >= self.steps:
            self.model.save_checkpoint(self.folder)  # type: ignore[attr-defined]
            self.saved = True

    def _on_step(self) -> bool:
        return True


def _observations(learner: Any) -> Array:
    rng, space = np.random.default_rng(0), learner.observation_space
    return rng.normal(size=(5, *space.shape)).astype(space.dtype)


def _same(one: Any, other: Any, observations: Array, tolerance: float = 0.0) -> bool:
    first, second = (np.asarray(learner.predict(observations, deterministic=True)[0]) for learner in (one, other))
    return np.allclose(first, second, rtol=tolerance, atol=tolerance)


def _demand(kept: bool, algorithm: Algorithm, broken: str) -> None:
    if not kept:
        raise PrefenvsError(f"the algorithm {algorithm.name!r} breaks its contract: {broken}")


def _refuses(act: Callable[[], Any], algorithm: Algorithm, broken: str) -> None:
    try:
        act()
    except PrefenvsError:
        return
    raise PrefenvsError(f"the algorithm {algorithm.name!r} breaks its contract: {broken}")
