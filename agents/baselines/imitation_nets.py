"""Reward models shared with the imitation library: its reward nets as ours, and ours as its.

Importing this module needs imitation, which declares older gymnasium and Stable-Baselines3 than it runs with:
`pip install 'prefenvs[imitation]'`, then `pip install --no-deps imitation==1.0.1`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.errors import PrefenvsError, install_command
from prefenvs.internal.file_sizes import check_zip
from prefenvs.preferences import Preference
from prefenvs.segments import Array, Segment

try:
    from imitation.algorithms import preference_comparisons as theirs
    from imitation.data.types import Trajectory
    from imitation.rewards import reward_nets
    from imitation.util.logger import HierarchicalLogger, configure
except ImportError as missing:
    raise PrefenvsError(
        f"the imitation library cannot be imported ({missing}): run `{install_command('imitation')}`, "
        "then `pip install --no-deps imitation==1.0.1`"
    ) from missing


class EnsembleRewardNet(reward_nets.RewardNetWithVariance):  # type: ignore[misc]
    """A `RewardEnsemble` as an imitation reward net; they share their weights. It reads neither next state nor done."""

    def __init__(self, ensemble: RewardEnsemble, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]):
        super().__init__(observation_space, action_space)
        self.ensemble = ensemble
        self.network = ensemble.network

    def forward(self, state: Tensor, action: Tensor, next_state: Tensor, done: Tensor) -> Tensor:
        """Return the members' mean reward [B], with gradients."""
        return self.ensemble.forward(torch.cat([state.flatten(1), action.flatten(1)], 1)).mean(0)

    def predict_reward_moments(
        self, state: Array, action: Array, next_state: Array, done: Array, **kwargs: Any
    ) -> tuple[Array, Array]:
        """Return mean and variance over members, [B] each, as imitation's own ensembles do."""
        rewards = self.ensemble.predict(state.reshape(len(state), -1), _as_vectors(action, self.action_space))
        return rewards.mean(0), rewards.var(0, ddof=min(len(rewards) - 1, 1))


def as_reward_net(
    ensemble: RewardEnsemble, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
) -> EnsembleRewardNet:
    """Return an imitation reward net that computes with this ensemble; PrefenvsError if the spaces do not fit."""
    sizes = spaces.flatdim(observation_space), spaces.flatdim(action_space)
    if sizes != (ensemble.observation_size, ensemble.action_size):
        raise PrefenvsError(
            f"the spaces have {sizes[0]} observations and {sizes[1]} actions, the reward model "
            f"{ensemble.observation_size} and {ensemble.action_size}"
        )
    return EnsembleRewardNet(ensemble, observation_space, action_space)


class ImitationRewardModel:
    """An imitation reward net as a `prefenvs.protocols.RewardModel`, trained by imitation's own trainer.

    Nets and ensembles of nets over (state, action) qualify; one that reads the next state or the done flag is refused,
    for segments do not hold them. Rewards are the net's processed ones, without updating its running statistics.
    """

    def __init__(
        self,
        net: reward_nets.RewardNet,
        epochs: int = 3,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        """`epochs` passes over all preferences at each fit; the other settings are those of imitation's trainer."""
        self.net = net
        self._refuse_other_inputs(seed)
        ensemble = isinstance(theirs.get_base_model(net), reward_nets.RewardEnsemble)
        trainer = theirs.EnsembleTrainer if ensemble else theirs.BasicRewardTrainer
        with open_logger(None) as logger:
            self.trainer = trainer(
                theirs.PreferenceModel(net),
                theirs.CrossEntropyRewardLoss(),
                rng=np.random.default_rng(seed),
                batch_size=batch_size,
                epochs=epochs,
                lr=learning_rate,
                custom_logger=logger,
            )

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [M, ...] for observations [..., obs] and actions [..., act]; M = 1 for a single net."""
        lead = np.shape(observations)[:-1]
        state = np.asarray(observations, np.float32).reshape(-1, *self.net.observation_space.shape)
        action = _as_theirs(np.asarray(actions).reshape(len(state), -1), self.net.action_space)
        rewards = self._rewards(state, action, state, np.zeros(len(state), bool))
        return rewards.reshape(len(rewards), *lead)

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """Train on all preferences given, pairs only; skips are ignored, soft labels count as they are.

        Returns labels, skipped, decided and imitation's loss and accuracy of the last pass (it counts a tie as the
        second segment's win). Raises PrefenvsError for queries of more than two segments.
        """
        chosen = [preference for preference in preferences if not preference.skipped]
        metrics = {"labels": float(len(chosen)), "skipped": float(len(preferences) - len(chosen))}
        metrics["decided"] = float(sum(preference.best is not None for preference in chosen))
        if not chosen:
            return metrics | {"epochs": 0.0, "loss": math.nan, "accuracy": math.nan}
        if any(len(preference.query.segments) != 2 for preference in chosen):
            raise PrefenvsError("imitation's trainer compares two segments; use RewardEnsemble for queries of more")
        dataset = theirs.PreferenceDataset()
        pairs = [tuple(self._trajectory(segment) for segment in preference.query.segments) for preference in chosen]
        dataset.push(pairs, np.array([p.probabilities[0] for p in chosen if p.probabilities is not None], np.float32))
        with open_logger(None) as logger:
            self.trainer.logger = logger
            self.trainer.train(dataset)
            last = {name: float(logger.name_to_value[f"reward/final/train/{name}"]) for name in ("loss", "accuracy")}
        return metrics | {"epochs": float(self.trainer.epochs)} | last

    def save(self, path: str | Path) -> None:
        """Write the net's weights and its description."""
        torch.save({"net": repr(self.net), "state": self.net.state_dict()}, path)

    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote for a net of the same form; nothing in the file is executed.

        Raises PrefenvsError for a file that is damaged, or of another net.
        """
        try:
            check_zip(path)
            saved = torch.load(path, map_location=self.net.device, weights_only=True)
            name, state = saved["net"], saved["state"]
        except FileNotFoundError:
            raise PrefenvsError(f"there is no reward model at {path}") from None
        except PrefenvsError:
            raise
        except Exception as error:
            raise PrefenvsError(f"{path} is not a reward net saved by ImitationRewardModel.save") from error
        if name != repr(self.net):
            raise PrefenvsError(f"{path} holds the weights of another net: make the same one before loading")
        try:
            self.net.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise PrefenvsError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error

    def _rewards(self, state: Array, action: Array, next_state: Array, done: Array) -> Array:
        base = theirs.get_base_model(self.net)
        if isinstance(base, reward_nets.RewardEnsemble):
            rewards: Array = base.predict_processed_all(state, action, next_state, done, update_stats=False).T
        else:
            rewards = self.net.predict_processed(state, action, next_state, done, update_stats=False)[None]
        return rewards.astype(np.float32)

    def _trajectory(self, segment: Segment) -> Trajectory:
        """The net reads no next state, so the one after the last step may be anything: the last observation again."""
        obs = segment.observations.reshape(len(segment), *self.net.observation_space.shape)
        acts = _as_theirs(segment.actions, self.net.action_space)
        return Trajectory(np.concatenate([obs, obs[-1:]]), acts, None, False)

    def _refuse_other_inputs(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = self.net.observation_space.shape
        if shape is None or len(shape) != 1:
            raise PrefenvsError(f"the net takes observations of shape {shape}; segments hold vectors")
        state, one, other = rng.standard_normal((3, 32, *shape)).astype(np.float32)
        self.net.action_space.seed(seed)
        action = np.stack([self.net.action_space.sample() for _ in range(32)])
        first = self._rewards(state, action, one, np.zeros(32, bool))
        if not np.array_equal(first, self._rewards(state, action, other, np.ones(32, bool))):
            raise PrefenvsError(
                f"{type(self.net).__name__} reads the next state or the done flag, which segments do not hold; "
                "make it with use_next_state=False and use_done=False, and without shaping"
            )


@contextmanager
def open_logger(folder: str | Path | None) -> Iterator[HierarchicalLogger]:
    """Yield one of imitation's loggers, writing to `folder` or to nowhere that stays, never to the terminal."""
    with tempfile.TemporaryDirectory() as scratch:
        logger = configure(folder or scratch, ["log", "csv"] if folder else [])
        try:
            yield logger
        finally:
            logger.close()


def _as_vectors(actions: Array, space: spaces.Space[Any]) -> Array:
    """Return actions as prefenvs holds them: [B, act], one-hot where the space is discrete."""
    if isinstance(space, spaces.Discrete):
        actions = np.eye(int(space.n), dtype=np.float32)[actions - space.start]
    return actions.reshape(len(actions), -1)


def _as_theirs(actions: Array, space: spaces.Space[Any]) -> Array:
    """Return actions [B, act] as the space has them: integers where it is discrete."""
    if isinstance(space, spaces.Discrete):
        indices: Array = actions.argmax(-1) + space.start
        return indices
    return actions.reshape(len(actions), *(space.shape or ())).astype(np.float32)
