"""What every learner from fixed data has in common, in the form of a Stable-Baselines3 algorithm."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger, configure
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from tqdm import tqdm

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.saved import damage_told, find_saved, new_file, own_memory, read_config
from prefenvs.agents.nets.spaces import check_flat
from prefenvs.agents.offline.actor import TanhActor
from prefenvs.agents.offline.files import FORMAT, WAY_OUT, find_spaces, read_state
from prefenvs.agents.offline.tables import StepTable, build_step_table
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference
from prefenvs.segments import Array


@dataclass(frozen=True)
class OfflineConfig:
    """Settings that all learners from fixed data have."""

    normalise_observations: bool = False
    """Give observations mean 0 and standard deviation 1 over the data set (with 0.001 added to it, as CORL does)."""


Config = TypeVar("Config", bound=OfflineConfig)


class OfflineLearner(ABC, Generic[Config]):
    """A learner from a fixed data set: `learn`, `predict`, `save` and `load` as in Stable-Baselines3.

    A subclass names its networks and optimisers in `_build`, takes what it needs of the preferences in `_load`, and
    makes one gradient step in `_update`, all on tensors that stay on the training device. Networks see observations
    normalised and act in [-1, 1]; `predict` returns actions in the units of the task.

    num_timesteps: gradient steps made, so that Stable-Baselines3's callbacks work. labels: answers learned from.
    learns_from: for tables, what the learning signal is. horizon: steps of an episode by which the policy is to be
    evaluated, where the data set has its own (`OfflineDataset.horizon`).
    """

    name: ClassVar[str]
    config_type: ClassVar[type[Any]]
    learns_from: str = "preferences"
    horizon: int | None = None
    actor: TanhActor
    optimiser: torch.optim.Adam

    def __init__(
        self,
        dataset: OfflineDataset,
        preferences: Sequence[Preference] | None = None,
        config: Config | None = None,
        *,
        seed: int = 0,
        device: str | torch.device = "auto",
        action_space: spaces.Box | None = None,
    ) -> None:
        """Make networks and upload the data.

        dataset: what to learn from; its true rewards are never read. preferences: over segments of the data set.
        action_space: bounds of the actions; by default the task's own, or those of the data where the task is unknown.
        Raises PrefenvsError where data set, preferences and settings do not fit together.
        """
        observation_space, action_space = find_spaces(dataset, action_space)
        self._begin(dataset.task, observation_space, action_space, config or self.config_type(), seed, device)
        self.horizon = dataset.horizon
        if self.config.normalise_observations:
            observations = dataset.trajectories.observations
            self.mean.copy_(torch.as_tensor(observations.mean(0, dtype=np.float64)))
            self.std.copy_(torch.as_tensor(observations.std(0, dtype=np.float64) + 1e-3))
        self._attach(dataset, preferences)

    def _begin(
        self,
        task: str,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        config: Config,
        seed: int,
        device: str | torch.device,
    ) -> None:
        """Everything that needs no data."""
        self.task, self.config, self.seed, self.device = task, config, seed, get_device(device)
        self.observation_space, self.action_space = observation_space, action_space
        self.observation_size, self.action_size = spaces.flatdim(observation_space), spaces.flatdim(action_space)
        self.center = (action_space.high + action_space.low).astype(np.float32) / 2
        self.half_width = (action_space.high - action_space.low).astype(np.float32) / 2
        self.mean = torch.zeros(self.observation_size, device=self.device)
        self.std = torch.ones(self.observation_size, device=self.device)
        self.num_timesteps = self._total_timesteps = self.labels = 0
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.data: StepTable | None = None
        self._logger: Logger | None = None
        # Initial weights come from PyTorch's global generator, which is left as it was found.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()

    def _attach(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        """Upload the data, and whatever the subclass learns from."""
        mean, std = self.mean.cpu().numpy(), self.std.cpu().numpy()
        # Data hold flat actions, whatever the shape of their space.
        center, half_width = self.center.ravel(), self.half_width.ravel()
        self.data = build_step_table(dataset, center, half_width, mean, std, self.device)
        self._load(dataset, preferences)

    @abstractmethod
    def _build(self) -> None:
        """Make networks and optimisers, by the sizes and the configuration."""

    def _give(self, preferences: Sequence[Preference] | None) -> None:
        """Note what is learned from beside the data; a subclass that takes more than labels takes it here.

        Called before `_load`, both by its constructor and by `load`.
        """

    @abstractmethod
    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        """Check the preferences and put what is learned from on the device; `self.data` is there already."""

    @abstractmethod
    def _update(self) -> dict[str, Tensor]:
        """Make one gradient step and return figures for the log, as scalars on the device."""

    def _act(self, observations: Tensor, deterministic: bool) -> Tensor:
        """Return actions [B, act] in [-1, 1] for normalised observations [B, obs]."""
        return self.actor.act(observations, deterministic, self.generator)

    @abstractmethod
    def _modules(self) -> dict[str, nn.Module]:
        """Networks by name, as they are saved."""

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by name, as they are saved."""
        return {"optimiser": self.optimiser}

    @property
    def logger(self) -> Logger:
        """Stable-Baselines3's logger; without `set_logger` it writes nothing."""
        if self._logger is None:
            self._logger = configure(None, [])
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log to here from now on."""
        self._logger = logger

    def get_env(self) -> None:
        """There is no training environment."""

    def learn(
        self,
        total_updates: int,
        callback: MaybeCallback = None,
        log_interval: int = 1_000,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> Self:
        """Make gradient steps, `total_updates` of them.

        callback: as in Stable-Baselines3; its `_on_step` comes after each gradient step, `_on_rollout_start` before.
        reset_num_timesteps: False goes on counting, as after `resume`, and schedules go on to the new total.
        """
        callback = self._begin_learning(total_updates, callback, reset_num_timesteps)
        going = True
        with products(), tqdm(total=total_updates, desc=self.name, unit="update", disable=not progress_bar) as bar:
            while going and self.num_timesteps < self._total_timesteps:
                callback.on_rollout_start()
                figures = self._update()
                bar.update()
                going = self._end_update(callback)
                if going and self._log_is_due(log_interval):
                    self._log(figures)
        callback.on_training_end()
        return self

    def _begin_learning(self, total_updates: int, callback: MaybeCallback, reset_num_timesteps: bool) -> BaseCallback:
        """Set the counters for so many updates, and start the callback."""
        if self.data is None:
            raise PrefenvsError(f"this {self.name} was loaded without data: pass dataset=... to load, to train further")
        if total_updates < 1:
            raise PrefenvsError(f"total_updates must be at least 1, got {total_updates}")
        first = 0 if reset_num_timesteps else self.num_timesteps
        self.check_run(first + total_updates)
        self.num_timesteps, self._total_timesteps = first, first + total_updates
        self._began = first, time.perf_counter()
        callback = self._prepare(callback)
        callback.on_training_start(locals(), globals())
        return callback

    def _end_update(self, callback: BaseCallback) -> bool:
        """Count an update and call back; return whether to go on."""
        self.num_timesteps += 1
        return bool(callback.on_step())

    def _log_is_due(self, interval: int) -> bool:
        return self.num_timesteps % interval == 0 or self.num_timesteps == self._total_timesteps

    def check_run(self, total_updates: int) -> None:
        """Raise a PrefenvsError if training until so many updates makes no sense."""

    def _prepare(self, callback: MaybeCallback) -> BaseCallback:
        if isinstance(callback, list):
            callback = CallbackList(callback)
        if not isinstance(callback, BaseCallback):
            callback = ConvertCallback(callback)
        callback.init_callback(self)  # type: ignore[arg-type]
        return callback

    def _log(self, figures: dict[str, Tensor]) -> None:
        first, began = self._began
        rate = (self.num_timesteps - first) / (time.perf_counter() - began)
        for name, value in figures.items():
            self.logger.record(f"train/{name}", float(value))
        self.logger.record("time/updates_per_second", rate)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def predict(
        self,
        observation: Array,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return actions [B, act] for observations [B, obs], or one for one, in the units of the task.

        Raises PrefenvsError for observations of another shape.
        """
        check_flat(observation, self.observation_size)
        array = np.asarray(observation, np.float32)
        rows = array.reshape(-1, self.observation_size) if array.size % self.observation_size == 0 else array
        if rows.ndim != 2 or rows.shape[-1] != self.observation_size:
            raise PrefenvsError(f"the policy takes observations [{self.observation_size}], got {list(array.shape)}")
        with torch.no_grad():
            observations = (torch.from_numpy(rows).to(self.device) - self.mean) / self.std
            scaled = self._act(observations, deterministic).clamp(-1.0, 1.0).cpu().numpy()
        actions = self._unscale(scaled)
        single = array.ndim == len(self.observation_space.shape)
        return actions.reshape(self.action_space.shape if single else (-1, *self.action_space.shape)), state

    def _unscale(self, scaled: Array) -> Array:
        """Return actions [B, act] in the units of the task, of which rounding leaves none outside of its bounds."""
        low, high = (bound.ravel().astype(np.float32) for bound in (self.action_space.low, self.action_space.high))
        return np.clip(scaled * self.half_width.ravel() + self.center.ravel(), low, high)

    def _scale(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations [..., obs] and actions [..., act] as the networks see them, on their device."""
        center, half_width = (torch.from_numpy(x.ravel()).to(self.device) for x in (self.center, self.half_width))
        return (observations.to(self.device) - self.mean) / self.std, (actions.to(self.device) - center) / half_width

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels that agree with what was learned; NaN where a learner cannot tell."""
        return math.nan

    def state_dict(self) -> dict[str, Any]:
        """Return all that `save` writes, as tensors and plain values."""
        return {
            "format": FORMAT,
            "algorithm": self.name,
            "task": self.task,
            "spaces": {
                "observation": list(self.observation_space.shape),
                "low": self.action_space.low.tolist(),
                "high": self.action_space.high.tolist(),
            },
            "config": asdict(self.config),
            "seed": self.seed,
            "learns_from": self.learns_from,
            "horizon": self.horizon,
            "counters": {name: getattr(self, name) for name in ("num_timesteps", "_total_timesteps", "labels")},
            "normaliser": {"mean": self.mean, "std": self.std},
            "modules": {name: module.state_dict() for name, module in self._modules().items()},
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self._optimisers().items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned, for a learner of the same sizes and settings."""
        self.learns_from, self.horizon = state["learns_from"], state.get("horizon")
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.mean.copy_(state["normaliser"]["mean"])
        self.std.copy_(state["normaliser"]["std"])
        for name, module in self._modules().items():
            module.load_state_dict(state["modules"][name])
        for name, optimiser in self._optimisers().items():
            optimiser.load_state_dict(state["optimisers"][name])
        if state["generator"].shape == self.generator.get_state().shape:
            # A CUDA generator's state means nothing to a CPU's, and the other way round.
            self.generator.set_state(state["generator"])

    def save(self, path: str | Path) -> Path:
        """Write the learner to a file, ".zip" added where the name has no ending; complete or not at all."""
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".zip")
        with new_file(path) as new:
            torch.save(own_memory(self.state_dict()), new)
        return path

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        dataset: OfflineDataset | None = None,
        preferences: Sequence[Preference] | None = None,
        **given: Any,
    ) -> Self:
        """Read what `save` wrote; with a data set the learner can be trained further. Nothing in it is executed.

        path: of a file, or of a run folder, whose newest checkpoint is read.
        preferences, given: what the constructor takes beside the data (IQL's rewards or reward_model, CPL's and BC's
        ranking, BC's returns); a file holds neither data nor labels.
        Raises PrefenvsError for files that are damaged, of another learner, or not there, and for labels without data.
        """
        if dataset is None and (preferences is not None or given):
            raise PrefenvsError("labels and their like belong to a data set: pass dataset=... with them")
        path = find_saved(path)
        state = read_state(path)
        with damage_told(path, WAY_OUT):
            if state["algorithm"] != cls.name:
                raise PrefenvsError(f"{path} holds a learner of the kind {state['algorithm']!r}, not {cls.name!r}")
            learner = cls.__new__(cls)
            observation_space = spaces.Box(-np.inf, np.inf, state["spaces"]["observation"], np.float32)
            low, high = (np.asarray(state["spaces"][side], np.float32) for side in ("low", "high"))
            config = read_config(cls.config_type, state["config"])
            learner._begin(state["task"], observation_space, spaces.Box(low, high), config, state["seed"], device)
            learner.load_state_dict(state)
        if dataset is not None:
            learner._give(preferences, **given)
            learner._attach(dataset, preferences)
        return learner

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that `resume` needs but the data; a folder of one file, replaced when the new one is complete."""
        return self.save(Path(folder) / "model.zip").parent

    def resume(self, folder: str | Path) -> None:
        """Continue from a checkpoint, with the same data; call `learn(..., reset_num_timesteps=False)` after it.

        Raises PrefenvsError for checkpoints that are damaged, or of another learner, task, configuration or seed.
        """
        state = read_state(Path(folder) / "model.zip")
        own = {"algorithm": self.name, "task": self.task, "config": asdict(self.config), "seed": self.seed}
        for key, value in own.items():
            saved: Any = state.get(key)
            if key == "config" and state["algorithm"] == self.name:
                saved = asdict(read_config(self.config_type, saved))
            if saved != value:
                raise PrefenvsError(f"the checkpoint {folder} has {key} {saved!r}, this learner has {value!r}")
        with damage_told(folder, WAY_OUT):
            self.load_state_dict(state)
