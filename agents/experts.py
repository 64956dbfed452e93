"""Advantages of a trained expert, for raters that judge by regret: Q of its critics minus V of its policy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy

from prefenvs.agents.online.dqn import TrueRewardDQN
from prefenvs.agents.online.pebble import PEBBLE
from prefenvs.agents.online.saved_agent import find_kind, is_saved_agent
from prefenvs.agents.online.state_reward import StateRewardSAC
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.runs import Run
from prefenvs.segments import Array

OWN_KINDS: tuple[type[Any], ...] = (PEBBLE, StateRewardSAC, TrueRewardDQN)
ROWS = 65_536
"""Rows that go through the networks at once."""


class LearnedAdvantage:
    """A(s, a) = Q(s, a) - V(s) of an expert; satisfies `prefenvs.protocols.Advantage`, with `value` for other forms.

    SAC (PEBBLE on the true reward is one): Q is the least, or the mean, of its critics' values, and V(s) the mean of Q
    over actions drawn from its policy. The draws are the same for all states, Gaussian noise in pairs of opposite sign,
    so V is a fixed function of s, and neither the order of calls nor a restart changes it.

    SAC's Q counts a bonus for the policy's entropy in all later steps, but not in the present one. With entropy=True V
    counts it in the present one too, V = E[Q - alpha log pi], the soft value that SAC itself bootstraps from; without
    it the mean advantage of the expert's own actions is 0.

    DQN: Q(s, a), and V(s) the largest of them.

    V of observations that were seen before is looked up: 64 policy samples make it 64 times dearer than Q.
    """

    def __init__(
        self,
        agent: OffPolicyAlgorithm,
        samples: int = 64,
        critics: Literal["min", "mean"] = "min",
        entropy: bool = False,
        seed: int = 0,
        remember: int = 1_000_000,
    ) -> None:
        """Wrap a trained agent.

        samples: actions that V is averaged over, an even number; remember: observations whose V is kept.
        """
        if not isinstance(agent, SAC | DQN) or getattr(agent, "use_sde", False):
            raise PrefenvsError(f"an expert is a SAC, PEBBLE or DQN agent without gSDE, got {type(agent).__name__}")
        if samples < 2 or samples % 2:
            raise PrefenvsError(f"samples come in pairs: give an even number of at least 2, got {samples}")
        if critics not in ("min", "mean"):
            raise PrefenvsError(f'critics are combined by "min" or "mean", got {critics!r}')
        if not isinstance(agent.observation_space, spaces.Box) or len(agent.observation_space.shape) != 1:
            raise PrefenvsError(f"an expert sees vectors, got the observation space {agent.observation_space}")
        self.agent, self.critics, self.entropy = agent, critics, entropy
        self.gamma = float(agent.gamma)
        agent.policy.set_training_mode(False)
        self._discrete = isinstance(agent.action_space, spaces.Discrete)
        self._inputs = agent.observation_space.shape[0], spaces.flatdim(agent.action_space)
        half = np.random.default_rng(seed).normal(size=(samples // 2, self._inputs[1]))
        self._noise = torch.as_tensor(np.concatenate([half, -half]), dtype=torch.float32, device=agent.device)
        self._values = _Memory(self._inputs[0], remember)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", **settings: Any) -> LearnedAdvantage:
        """Read an expert from a run folder, or from a .zip that Stable-Baselines3 or prefenvs saved.

        A .zip of Stable-Baselines3 must come from somebody you trust: reading it can run code. What prefenvs saved
        cannot.
        """
        return cls(load_expert(path, device), **settings)

    def q(self, observations: Array, actions: Array) -> Array:
        """Return Q(s, a), [...] float64, for observations [..., obs] and actions [..., act] in the task's units."""
        lead = self._check(observations, actions)
        states, chosen = self._rows(observations), np.asarray(actions, np.float32).reshape(-1, self._inputs[1])
        if not self._discrete:
            chosen = np.asarray(self.agent.policy.scale_action(chosen), np.float32)
        parts = []
        for begin in range(0, len(states), ROWS):
            s, a = (torch.as_tensor(x[begin : begin + ROWS], device=self.agent.device) for x in (states, chosen))
            parts.append(self._q(s, a).double().cpu().numpy())
        return np.concatenate(parts).reshape(lead) if parts else np.zeros(lead)

    def value(self, observations: Array) -> Array:
        """Return V(s), [...] float64, for observations [..., obs]."""
        lead = self._check(observations)
        states, inverse = self._values.distinct(self._rows(observations))
        values, known = self._values.look_up(states)
        new = states[~known]
        if len(new):
            step = max(ROWS // (1 if self._discrete else len(self._noise)), 1)
            computed = np.concatenate([self._v(new[i : i + step]) for i in range(0, len(new), step)])
            values[~known] = computed
            self._values.add(new, computed)
        result: Array = values[inverse].reshape(lead)
        return result

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return A(s, a) = Q(s, a) - V(s), [...] float64, for observations [..., obs] and actions [..., act]."""
        result: Array = self.q(observations, actions) - self.value(observations)
        return result

    @torch.no_grad()
    def _q(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[B] for scaled actions [B, act], or one-hot ones."""
        if isinstance(self.agent, DQN):
            chosen: torch.Tensor = (self.agent.q_net(states) * actions).sum(1)
            return chosen
        # A critic of the return's distribution gives its quantiles.
        q = torch.cat([values.mean(1, keepdim=True) for values in self.agent.critic(states, actions)], 1)
        return q.amin(1) if self.critics == "min" else q.mean(1)

    @torch.no_grad()
    def _v(self, observations: Array) -> Array:
        states = torch.as_tensor(observations, device=self.agent.device)
        if isinstance(self.agent, DQN):
            values: Array = self.agent.q_net(states).amax(1).double().cpu().numpy()
            return values
        mean, log_std, _ = self.agent.actor.get_action_dist_params(states)
        raw = mean + log_std.exp() * self._noise[:, None]
        q = self._q(states.repeat(len(self._noise), 1), raw.tanh().flatten(0, 1)).view(len(self._noise), -1)
        if self.entropy:
            # log(1 - tanh(x)^2) in its stable form 2 (log 2 - x - softplus(-2x)).
            squash = 2.0 * (math.log(2.0) - raw - F.softplus(-2.0 * raw))
            gaussian = -0.5 * self._noise[:, None].square() - log_std - 0.5 * math.log(2.0 * math.pi)
            q = q - self._temperature() * (gaussian - squash).sum(-1)
        averaged: Array = q.double().mean(0).cpu().numpy()
        return averaged

    def _temperature(self) -> torch.Tensor:
        agent: Any = self.agent
        alpha: torch.Tensor = agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()
        return alpha

    def _rows(self, observations: Array) -> Array:
        return np.ascontiguousarray(np.asarray(observations, np.float32).reshape(-1, self._inputs[0]))

    def _check(self, *arrays: Array) -> tuple[int, ...]:
        for name, array, width in zip(("observations", "actions"), arrays, self._inputs, strict=False):
            if np.shape(array)[-1:] != (width,):
                raise PrefenvsError(f"{name} have shape {np.shape(array)}; the expert's end with {width}")
        return np.shape(arrays[0])[:-1]


class _Memory:
    """Values of observations [N, obs] that were seen before, found by a 64-bit hash of their bytes."""

    def __init__(self, width: int, capacity: int) -> None:
        # A million observations have 5e11 pairs, of which a good hash lets two fall together with a chance of 3e-8.
        self._multipliers = np.random.default_rng(0).integers(0, 2**63, width, np.uint64) * np.uint64(2) + np.uint64(1)
        self.capacity = capacity
        self._keys: Array = np.zeros(0, np.uint64)
        self._values: Array = np.zeros(0)

    def __len__(self) -> int:
        return len(self._keys)

    def distinct(self, observations: Array) -> tuple[Array, Array]:
        """Return the different observations, and which of them each row is."""
        _, first, inverse = np.unique(self._hash(observations), return_index=True, return_inverse=True)
        return observations[first], inverse.ravel()

    def look_up(self, observations: Array) -> tuple[Array, Array]:
        """Return values [N], and whether each is known."""
        if not len(self):
            return np.zeros(len(observations)), np.zeros(len(observations), bool)
        keys = self._hash(observations)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
        return self._values[at].copy(), self._keys[at] == keys

    def add(self, observations: Array, values: Array) -> None:
        """Keep the values of new observations; when the memory is full, only these stay."""
        if len(self) + len(values) > self.capacity:
            self._keys, self._values = self._keys[:0], self._values[:0]
            observations, values = observations[: self.capacity], values[: self.capacity]
        keys = np.concatenate([self._keys, self._hash(observations)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], np.concatenate([self._values, values])[order]

    def _hash(self, observations: Array) -> Array:
        # -0.0 and 0.0 are the same observation.
        words = (observations + 0.0).view(np.uint32).astype(np.uint64)
        mixed = (words + np.uint64(0x9E3779B97F4A7C15)) * self._multipliers
        mixed ^= mixed >> np.uint64(32)
        hashed: Array = (mixed * self._multipliers).sum(axis=1, dtype=np.uint64)
        return hashed


def load_expert(path: str | Path, device: str = "auto") -> OffPolicyAlgorithm:
    """Read a SAC, PEBBLE or DQN agent from a run folder or a .zip, without its replay buffer.

    A .zip of Stable-Baselines3 holds pickles, which can run code; run folders and agents of prefenvs do not.

    Raises PrefenvsError for a run that learned from preferences: its critics value the learned reward, not the true.
    """
    path = Path(path)
    own = path.is_dir()
    if own:
        run = Run.open(path)
        if not run.config.get("true_reward", False):
            raise PrefenvsError(
                f"{path} is no expert: its critics value a learned reward; train one with --true-reward"
            )
        path = run.checkpoint / "model.zip"
    if not path.is_file():
        raise PrefenvsError(f"there is no expert at {path}: name a run folder with a checkpoint, or a .zip of SB3")
    # No room for a replay buffer; the random numbers of whoever loads an expert stay as they are.
    changes = {"buffer_size": 1, "seed": None}
    with torch.random.fork_rng(devices=[]):
        if own or is_saved_agent(path):
            expert: Any = find_kind(path, OWN_KINDS).load(path, device=device, custom_objects=changes)
        else:
            expert = _find_sb3_kind(path, device).load(path, device=device, custom_objects=changes)
    found: OffPolicyAlgorithm = expert
    return found


def _find_sb3_kind(path: Path, device: str) -> type[SAC] | type[DQN]:
    """Return the class of a .zip of Stable-Baselines3; runs what its pickles say."""
    with failure_told(f"{path} is no saved model"):
        data, _, _ = load_from_zip_file(path, device=device)
    policy = (data or {}).get("policy_class")
    kinds: tuple[tuple[type, type[SAC] | type[DQN]], ...] = ((SACPolicy, SAC), (DQNPolicy, DQN))
    for known, kind in kinds:
        if isinstance(policy, type) and issubclass(policy, known):
            return kind
    raise PrefenvsError(f"{path} holds neither SAC, PEBBLE nor DQN: an expert needs critics of actions")
