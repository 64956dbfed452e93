"""The reward ensemble of PEBBLE and its descendants: MLPs over (observation, action), fitted to preferences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor

from prefenvs.agents.nets.kernels import round_rows
from prefenvs.agents.nets.mlp import EnsembleMLP, rows_per_chunk
from prefenvs.agents.nets.saved import read_config, saved_state
from prefenvs.agents.rewards.fit import RewardConfig, RewardTrainer, fit_together
from prefenvs.agents.rewards.options.reed import EncodedMLP, Transitions
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.agents.rewards.tables import check_shapes
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array

__all__ = ["RewardConfig", "RewardEnsemble", "SurfConfig", "fit_ensembles"]

FORMAT = "prefenvs-reward-ensemble-1"


class RewardEnsemble:
    """M reward networks r_m(s, a) whose sums over a segment predict which segment is preferred.

    P(i is best) = softmax over segments of sum_t r_m(s_t, a_t), undiscounted; each member minimises the cross entropy
    to the labels in its own order of batches, all under one Adam (Lee et al. 2021, eq. 3 and 4).
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: RewardConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        if observation_size < 0 or action_size < 0 or observation_size + action_size < 1:
            raise PrefenvsError(f"a reward model needs inputs, got observation_size={observation_size}, {action_size=}")
        self.observation_size, self.action_size = observation_size, action_size
        self.config, self.device = config or RewardConfig(), get_device(device)
        generator = torch.Generator().manual_seed(seed)
        c, inputs = self.config, (observation_size, action_size)
        hidden, rest = [c.width] * c.layers, (c.members, c.output, c.precision, generator, c.normalise)
        network = EnsembleMLP([sum(inputs), *hidden, 1], *rest) if c.reed is None else EncodedMLP(inputs, hidden, *rest)
        self.network = network.to(self.device)
        self.trainer = RewardTrainer(self.network, self.config, (observation_size, action_size), generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return rewards [M, ...] for inputs [..., obs + act] on the model's device, with gradients."""
        rewards: Tensor = self.network(x)
        return rewards.squeeze(-1)

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return each member's reward [M, ...] float32 for observations [..., obs] and actions [..., act]."""
        parts = [rewards for _, rewards in self._chunks(observations, actions)]
        flat = torch.cat(parts, 1) if parts else torch.zeros(self.config.members, 0)
        return flat.cpu().numpy().reshape(self.config.members, *np.shape(observations)[:-1])

    def mean_and_std(self, observations: Array, actions: Array) -> tuple[Array, Array]:
        """Return the members' mean and population standard deviation, [...] float32 each."""
        shape = np.shape(observations)[:-1]
        result = torch.empty(2, math.prod(shape), device=self.device)
        for rows, rewards in self._chunks(observations, actions):
            result[0, rows] = rewards.mean(0)
            result[1, rows] = rewards.std(0, correction=0)
        mean, std = result.cpu().numpy()
        return mean.reshape(shape), std.reshape(shape)

    def preference_probabilities(self, queries: Sequence[Query]) -> Array:
        """Return each member's belief [M, N, K] that a segment is preferred; 0 where a query has no such segment."""
        beliefs: Array = self.trainer.beliefs(queries).cpu().numpy()
        return beliefs

    def fit(
        self,
        preferences: Sequence[Preference],
        weights: Array | None = None,
        unlabelled: Sequence[Query] = (),
        agent: tuple[Array, Array] | None = None,
        transitions: tuple[Array, Array, Array] | None = None,
    ) -> dict[str, float]:
        """Train on all preferences given; skips are ignored, ties and other soft labels count as they are.

        weights: [len(preferences)] factors on each preference's loss. unlabelled: queries for SURF's pseudo-labels.
        agent: observations [S, obs] and actions [S, act] of the agent's newest episodes, for `agent_weight`.
        transitions: observations, actions and next observations [N, ...], for `reed`.
        Queries that are on the device already, known by identity, are not copied again. Returns
        labels, skipped, decided: how many preferences are not skipped, are, and name one best segment;
        epochs: passes made, 0 if there is nothing to learn from; loss, accuracy: of the last pass, mean of the members;
        new_accuracy: of the members' mean reward on decided labels never seen before, measured before training on them;
        validation_loss, validation_accuracy, validation_by_episode: if labels are held out, on those, and whether (1 or
        0) they share no episode with the rest. A figure without data is NaN.
        """
        if agent is not None:
            steps = np.concatenate(agent, axis=1).astype(np.float32)
            self.trainer.agent_steps = torch.from_numpy(steps).to(self.device)
        if transitions is not None:
            parts = (torch.from_numpy(np.asarray(part, np.float32)).to(self.device) for part in transitions)
            self.trainer.transitions = Transitions(*parts)
        (result,) = fit_together([self.trainer], [preferences], [weights], [unlabelled])
        if isinstance(result, PrefenvsError):
            raise result
        return result

    def regress(self, observations: Tensor, actions: Tensor, targets: Tensor) -> None:
        """Take one gradient step towards rewards [B] of observations [B, ...] and actions [B, act] (RIME)."""
        self.trainer.regress(torch.cat([observations.flatten(1), actions], 1), targets)

    def copy(self) -> RewardEnsemble:
        """Return an ensemble with these weights, for predictions; it has seen no label."""
        model = RewardEnsemble(self.observation_size, self.action_size, self.config, device=self.device)
        model.network.load_state_dict(self.network.state_dict())
        return model

    def save(self, path: str | Path) -> None:
        """Write configuration, weights, optimiser and random state; after `load`, `fit` goes on as if never stopped."""
        torch.save(self.state_dict(), path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        observation_size: int | None = None,
        action_size: int | None = None,
    ) -> RewardEnsemble:
        """Read what `save` wrote; sizes, where given, must be those in the file. Nothing in the file is executed.

        Raises PrefenvsError for files that are damaged, of another kind, of other sizes, or not there.
        """
        with saved_state(path, FORMAT, cls.__name__) as state:
            config = read_config(RewardConfig, state["config"])
            sizes = {"observation_size": int(state["observation_size"]), "action_size": int(state["action_size"])}
            model = cls(sizes["observation_size"], sizes["action_size"], config, device=device)
            model.load_state_dict(state)
        for name, size in (("observation_size", observation_size), ("action_size", action_size)):
            if size not in (None, sizes[name]):
                raise PrefenvsError(
                    f"{path} holds a reward model with {name}={sizes[name]}, but the task has {name}={size}"
                )
        return model

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `save` writes, as tensors and plain values."""
        return {
            "format": FORMAT,
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "config": asdict(self.config),
            "network": self.network.state_dict(),
            "training": self.trainer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned; raises PrefenvsError for a model of other sizes."""
        own = {"observation_size": self.observation_size, "action_size": self.action_size} | asdict(self.config)
        saved = {name: state[name] for name in ("observation_size", "action_size")} | state["config"]
        for name in ("observation_size", "action_size", "members", "layers", "width"):
            if saved[name] != own[name]:
                raise PrefenvsError(f"the saved reward model has {name}={saved[name]}, this one has {name}={own[name]}")
        self.network.load_state_dict(state["network"])
        self.trainer.load_state_dict(state["training"])

    @torch.no_grad()
    def _chunks(self, observations: Array, actions: Array) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of the flattened rows and their rewards [M, rows]."""
        observations, actions = np.asarray(observations), np.asarray(actions)
        check_shapes(observations, actions, (self.observation_size, self.action_size))
        flat = observations.reshape(-1, observations.shape[-1]), actions.reshape(-1, actions.shape[-1])
        step = rows_per_chunk(self.device)
        for start in range(0, len(flat[0]), step):
            rows = slice(start, min(start + step, len(flat[0])))
            x = np.zeros((round_rows(rows.stop - start), flat[0].shape[1] + flat[1].shape[1]), np.float32)
            np.concatenate([part[rows] for part in flat], axis=1, out=x[: rows.stop - start], casting="same_kind")
            yield rows, self.forward(torch.from_numpy(x).to(self.device))[:, : rows.stop - start]


def fit_ensembles(
    models: Sequence[RewardEnsemble],
    preferences: Sequence[Sequence[Preference]],
    unlabelled: Sequence[Sequence[Query]] | None = None,
) -> list[dict[str, float] | PrefenvsError]:
    """Fit each ensemble to its own preferences and return what `RewardEnsemble.fit` of each would, up to rounding.

    Ensembles of one configuration with equally many labels of one shape go through them in common products. An error
    stands in the place of its ensemble's metrics, and does not stop the others. Raises PrefenvsError where an ensemble
    was given twice.
    """
    trainers = [model.trainer for model in models]
    if len({id(trainer) for trainer in trainers}) < len(trainers):
        raise PrefenvsError("the same reward ensemble was given twice")
    return fit_together(trainers, preferences, [None] * len(trainers), unlabelled or [()] * len(trainers))
