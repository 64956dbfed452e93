"""A replay buffer whose rewards come from the learned reward model and change when it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array

Reward = Callable[..., tuple[Array, Array]]
COLUMNS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of Stable-Baselines3's buffer that a checkpoint keeps."""


class RelabelBuffer(ReplayBuffer):
    """Stable-Baselines3's replay buffer with rewards that are filled in and rewritten by a reward function.

    New rows wait with reward 0 until `fill`; `relabel` rewrites every row, before and after the ring has wrapped.
    A reward function maps observations [B, obs] and actions [B, act], in the units of the task, to the ensemble's mean
    [B] and standard deviation [B]; a sample's reward is mean + `bonus` * std (RUNE, Liang et al. 2022; 0 without it).
    Where a reward depends on `context` > 1 steps of its episode, the function gets the steps before too, and as its
    third argument the rows [E] before which episodes end.
    """

    def __init__(self, *args: Any, optimize_memory_usage: bool = False, **kwargs: Any) -> None:
        if optimize_memory_usage:
            raise PrefenvsError(
                "optimize_memory_usage forgets what was seen after an episode's last step, which values go on from: "
                "leave it out"
            )
        super().__init__(*args, **kwargs)
        self.spreads = np.zeros((self.buffer_size, self.n_envs), np.float32)
        self.bonus = 0.0
        self.context = 1
        self.added = 0
        self._unfilled = 0
        self._columns: dict[str, tuple[Array, torch.Tensor]] = {}

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Store one row for each environment; its reward counts as unfilled."""
        super().add(*args, **kwargs)
        self.added += 1
        self._unfilled = min(self._unfilled + 1, self.buffer_size)

    def draw(
        self, batch_size: int, reward: Reward | None = None, recent: tuple[int, int] = (0, 1)
    ) -> ReplayBufferSamples:
        """Return a batch drawn uniformly; with `reward`, new rows get theirs first if one of them was drawn.

        recent: (n, last): draw n of the batch from the newest `last` rows.

        So rewards are computed for many rows at a time: the more rows are held, the longer a new one waits.
        """
        rows = np.random.randint(self.size(), size=batch_size)  # noqa: NPY002 - SB3 seeds the global generator
        count, last = recent
        if count:
            newest = np.random.randint(min(last, self.size()), size=count)  # noqa: NPY002
            rows[:count] = (self.pos - 1 - newest) % self.buffer_size
        if reward is not None and self._unfilled:
            age = (self.pos - 1 - rows) % self.buffer_size
            if age.min() < self._unfilled:
                self.fill(reward)
        return self._get_samples(rows)

    def fill(self, reward: Reward) -> None:
        """Compute the rewards of all rows added since the last call, in one batch."""
        if self._unfilled:
            self._write(reward, (self.pos - self._unfilled + np.arange(self._unfilled)) % self.buffer_size)

    def relabel(self, reward: Reward, chunk: int = 65_536) -> None:
        """Recompute the rewards of all rows held, `chunk` transitions at a time."""
        rows, step = self.size(), max(chunk // self.n_envs, 1)
        for start in range(0, rows, step):
            self._write(reward, slice(start, min(start + step, rows)))
        self._unfilled = 0

    def keep_rewards(self) -> None:
        """Accept the rewards that came with the new rows, as the true-reward upper bound does."""
        self._unfilled = 0

    def write_last(self, rewards: Array) -> None:
        """Give the rows added last their rewards [rows, envs], oldest first; what the ring has lost already is left."""
        kept = rewards[-self.buffer_size :]
        self.rewards[(self.pos - len(kept) + np.arange(len(kept))) % self.buffer_size] = kept
        self._unfilled = 0

    @property
    def all_observations(self) -> Array:
        """[buffer_size * n_envs, obs] view of the observations, also of rows not yet written."""
        return self.observations.reshape(-1, *self.obs_shape)

    def _write(self, reward: Reward, rows: Array | slice) -> None:
        if self.context == 1:
            observations = self.observations[rows].reshape(-1, *self.obs_shape)
            actions = self.task_actions(self.actions[rows].reshape(-1, self.action_dim))
            mean, spread = reward(observations, actions)
        else:
            mean, spread = self._reward_sequences(reward, rows)
        if not np.all(np.isfinite(mean)):
            raise PrefenvsError(
                "the reward model returned a NaN or infinite reward; check its training data and learning rate"
            )
        self.rewards[rows] = mean.reshape(-1, self.n_envs)
        self.spreads[rows] = spread.reshape(-1, self.n_envs)
        self._unfilled = 0

    def _reward_sequences(self, reward: Reward, rows: Array | slice) -> tuple[Array, Array]:
        """Return means and standard deviations [rows * envs] of consecutive rows, seen after the steps before them."""
        index = np.arange(self.buffer_size)[rows] if isinstance(rows, slice) else rows
        before = index[0] - np.arange(self.context - 1, 0, -1)
        before = before % self.buffer_size if self.full else before[before >= 0]
        index = np.concatenate([before, index])
        # An episode ends where the environment said so, where the ring was begun, and where the next row is another's.
        last = self.dones[index].astype(bool)
        following = self.observations[index[1:]]
        moved = (self.next_observations[index[:-1]] != following).reshape(*following.shape[:2], -1).any(2)
        last[:-1] |= moved | (index[1:] == self.pos)[:, None]
        last[-1] = True
        # Environment after environment, so that the steps of an episode are consecutive.
        observations = self.observations[index].swapaxes(0, 1).reshape(-1, *self.obs_shape)
        actions = self.task_actions(self.actions[index].swapaxes(0, 1).reshape(-1, self.action_dim))
        results = reward(observations, actions, np.flatnonzero(last.T) + 1)
        mean, spread = (part.reshape(self.n_envs, -1)[:, len(before) :].T.reshape(-1) for part in results)
        return mean, spread

    def _get_samples(self, batch_inds: Array, env: VecNormalize | None = None) -> ReplayBufferSamples:
        envs = np.random.randint(self.n_envs, size=len(batch_inds))  # noqa: NPY002 - SB3 seeds the global generator
        index = torch.from_numpy(batch_inds * self.n_envs + envs)
        names = ("observations", "actions", "next_observations", "dones", "timeouts", "rewards", "spreads")
        columns = (self._column(name).index_select(0, index).to(self.device, torch.float32) for name in names)
        observations, actions, following, dones, timeouts, rewards, spreads = columns
        dones = dones * (1.0 - timeouts)
        if self.bonus:
            rewards = rewards + self.bonus * spreads
        return ReplayBufferSamples(observations, actions, following, dones, rewards)

    def _column(self, name: str) -> torch.Tensor:
        """The array of that name as a tensor [buffer_size * n_envs, d] on the same memory."""
        array = getattr(self, name)
        held = self._columns.get(name)
        if held is None or held[0] is not array:
            held = array, torch.from_numpy(array).view(self.buffer_size * self.n_envs, *(array.shape[2:] or (1,)))
            self._columns[name] = held
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_columns": {}}

    def task_actions(self, actions: Array) -> Array:
        """Undo Stable-Baselines3's scaling to [-1, 1], so that segments and replay speak of the same actions."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        low, high = self.action_space.low.reshape(-1), self.action_space.high.reshape(-1)
        unscaled: Array = low + 0.5 * (actions + 1.0) * (high - low)
        return unscaled

    def save(self, path: str | Path) -> None:
        """Write the rows held as one uncompressed .npz file."""
        rows = {name: getattr(self, name)[: self.size()] for name in (*COLUMNS, "spreads")}
        counters: Any = {"pos": self.pos, "full": self.full, "unfilled": self._unfilled, "added": self.added}
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, **counters, **rows)

    def restore(self, path: str | Path) -> None:
        """Read what `save` wrote into a buffer of the same shape."""
        with np.load(path, allow_pickle=False) as rows:
            restore_rows(self, rows, (*COLUMNS, "spreads"), path)
            self._unfilled = int(rows["unfilled"])
            held = self.pos + self.full * self.buffer_size
            self.added = int(rows["added"]) if "added" in rows else held


def restore_rows(buffer: ReplayBuffer, rows: Mapping[str, Array], names: Sequence[str], path: str | Path) -> None:
    """Put saved columns into a buffer, its ring where it was; raises PrefenvsError for a buffer of another shape."""
    for name in names:
        target, stored = getattr(buffer, name), rows[name]
        if len(stored) > len(target) or stored.shape[1:] != target.shape[1:]:
            raise PrefenvsError(
                f"{path} holds {name} of shape {stored.shape}, which do not fit a buffer of {target.shape}"
            )
        target[: len(stored)] = stored
    if bool(rows["full"]) and len(stored) < len(target):
        steps, room = (len(part) * buffer.n_envs for part in (stored, target))
        raise PrefenvsError(
            f"{path} holds a full buffer of {steps} steps, and this one has room for {room}: make the agent with "
            f"buffer_size={steps}"
        )
    buffer.pos, buffer.full = int(rows["pos"]), bool(rows["full"])
