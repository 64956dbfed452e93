"""Published settings by task, and a small set for machines without a GPU."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gymnasium import spaces

from prefenvs.agents.online.pebble import PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPOConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import LabelBudget, Task

Preset = Literal["published", "small"]


class PebbleSettings(NamedTuple):
    """What a PEBBLE run is made of: its configuration, SAC's arguments, and its length in environment steps."""

    config: PebbleConfig
    sac: dict[str, Any]
    steps: int


def pebble_settings(
    task: Task, preset: Preset = "published", labels: int | None = None, steps: int | None = None
) -> PebbleSettings:
    """Return B-Pref's settings for a task (its scripts, 2021), or smaller networks and batches for a CPU.

    Of a budget that comes from another paper's scripts (`LabelBudget.source`) the numbers in it are taken, and
    networks, batches and all else from B-Pref. Tasks without a published budget have walker-walk's.

    labels: which of the task's published budgets to take, or a budget of one's own; the smallest published by default.
    steps: environment steps, if not the published ones; a shorter run gets a schedule that fits into it.
    """
    budget = _budget(task, labels)
    config = PebbleConfig(
        labels=budget.labels,
        per_session=min(budget.per_session, budget.labels),
        interact=budget.interact,
        segment_length=task.segment_length,
        reward=RewardConfig(epochs=budget.epochs),
    )
    total = budget.steps if steps is None else steps
    if total < budget.steps:
        config = fit_schedule(config, total)
    manipulation = task.family == "metaworld"
    sac: dict[str, Any] = {
        "learning_rate": budget.lr,
        "batch_size": 512 if manipulation else 1024,
        "policy_kwargs": {"net_arch": [256] * 3 if manipulation else [1024] * 2},
        "buffer_size": total,
    }
    if preset == "small":
        sac |= {"learning_rate": 1e-3, "batch_size": 256, "policy_kwargs": {"net_arch": [128] * 2}}
        sac |= {"ent_coef_learning_rate": 1e-3, "target_update_interval": 1}
        reward = dataclasses.replace(config.reward, width=128)
        config = dataclasses.replace(config, entropy_states=8_192, reward=reward)
    return PebbleSettings(config, sac, total)


def fit_schedule(
    config: PebbleConfig, steps: int, learning_starts: int = 1_000, given: Collection[str] = ()
) -> PebbleConfig:
    """Fit a schedule into a short run: explore for a sixth at most, and hold the sessions within four fifths of it.

    given: which of unsupervised_steps and interact are to stay as they are.
    """
    exploration, interact = config.unsupervised_steps, config.interact
    if "unsupervised_steps" not in given:
        exploration = min(exploration, 4 * steps // 25)
    if "interact" not in given:
        sessions = math.ceil(config.labels / config.per_session)
        room = 4 * steps // 5 - learning_starts - exploration
        interact = min(interact, max(room // max(sessions - 1, 1), 1))
    return dataclasses.replace(config, unsupervised_steps=exploration, interact=interact)


@dataclass(frozen=True)
class PrefPPOSettings:
    """What a PrefPPO run is made of: configuration, PPO's arguments, environments side by side, steps in all."""

    config: PrefPPOConfig
    ppo: dict[str, Any]
    envs: int
    steps: int


@dataclass(frozen=True)
class _Rollouts:
    """What PrefPPO's scripts set for each task: environments, minibatch and GAE's lambda."""

    envs: int
    batch_size: int
    gae_lambda: float = 0.92


WALKER, BUTTON = _Rollouts(32, 64), _Rollouts(16, 128)
ROLLOUTS = {
    "dmc-walker-walk-v0": WALKER,
    "dmc-quadruped-walk-v0": _Rollouts(16, 128, 0.9),
    "metaworld-button-press-v3": BUTTON,
    "metaworld-sweep-into-v3": _Rollouts(32, 256),
}
"""B-Pref's four tasks; on Meta-World its scripts also try 64 environments, and segments of 25 beside those of 50."""


def prefppo_settings(task: Task, labels: int | None = None) -> PrefPPOSettings:
    """Return B-Pref's settings of PrefPPO for a task (its scripts, 2021).

    Meta-World's other tasks have button-press's, all others walker-walk's; where actions are discrete there is no
    state-dependent exploration. When and how much is asked is PEBBLE's budget, since the scripts leave that to the
    user. What differs on Meta-World is that observations are not normalised: some of its entries hardly vary and then
    drown the others (on door-close with the true reward, 80,000 steps came to 400 with normalisation and to 4,311
    without, seed 0).
    """
    budget, manipulation = _budget(task, labels), task.family == "metaworld"
    config = PrefPPOConfig(
        labels=budget.labels,
        per_session=min(budget.per_session, budget.labels),
        interact=budget.interact,
        segment_length=task.segment_length,
        normalise_observations=not manipulation,
        reward=RewardConfig(epochs=50 if manipulation else 100),
    )
    rollouts = ROLLOUTS.get(task.id, BUTTON if manipulation else WALKER)
    ppo: dict[str, Any] = {
        "clip_range": lambda remaining: 0.4 * remaining,
        "batch_size": rollouts.batch_size,
        "gae_lambda": rollouts.gae_lambda,
    }
    if _acts_continuously(task):
        ppo |= {"use_sde": True, "sde_sample_freq": 4}
    if manipulation:
        ppo |= {"learning_rate": 3e-4, "n_steps": 250}
    return PrefPPOSettings(config, ppo, envs=rollouts.envs, steps=3_000_000 if manipulation else 4_000_000)


def _acts_continuously(task: Task) -> bool:
    """Whether gSDE, noise that is a function of the state, can be added to a task's actions."""
    with closing(make(task.id)) as env:
        return isinstance(env.action_space, spaces.Box)


def _budget(task: Task, labels: int | None) -> LabelBudget:
    """The published budget of that size; else the task's first one, or walker-walk's, with `labels` in its place."""
    if labels is not None and labels < 1:
        raise PrefenvsError(f"labels must be at least 1, got {labels}")
    for budget in task.budgets:
        if labels in (None, budget.labels):
            return budget
    walker = LabelBudget(
        labels=500, per_session=50, interact=20_000, steps=500_000, epochs=50, lr=5e-4, source="B-Pref"
    )
    nearest = task.budgets[0] if task.budgets else walker
    return dataclasses.replace(nearest, labels=labels or nearest.labels)
