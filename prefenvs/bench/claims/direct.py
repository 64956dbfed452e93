"""Demonstrations of learners that compare whole episodes and fit no reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from prefenvs.agents.registry import Online, Settings, find_algorithm
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.bench.claims.claim import Measured
from prefenvs.envs.delivery.environment import Delivery
from prefenvs.evaluate import evaluate
from prefenvs.oracles import RaterContext, make_rater
from prefenvs.preferences import Oracle
from prefenvs.raters import FunctionOracle
from prefenvs.segments import Array, Segment
from prefenvs.tasks import find_task


def _agent(name: str, task: str, rater: Oracle, seed: int, steps: int, **changed: Any) -> Any:
    """Return a learner with a preset's settings, changed."""
    algorithm, row = find_algorithm(name), find_task(task)
    settings = algorithm.settings(row, steps=steps)

    def change(part: Any) -> Any:
        return part and replace(part, **{key: value for key, value in changed.items() if hasattr(part, key)})

    settings = Settings(change(settings.config), steps, change(settings.options))
    return algorithm.make_online(settings, Online(row, rater, seed, "cpu"))


def _rater(name: str, task: str, seed: int) -> Oracle:
    return make_rater(name, RaterContext(task=task, seed=seed))


def ranked(seed: int, task: str, steps: int, labels: int) -> Measured:
    """Return of a linear policy found by rankings, and by rankings of a coin."""
    returns = []
    for rater in ("oracle", "coin"):
        agent = _agent("ranksgd", task, _rater(rater, task, seed), seed, steps, labels=labels)
        agent.learn(steps)
        returns.append(evaluate(agent, task, episodes=20, seed=seed + 1).mean_return)
    return Measured(*returns)


class Errand(Delivery):
    """Three moves on a delivery board, after which it counts whether the van came up, down, or stayed level."""

    max_episode_steps = 3


ERRAND = f"{__name__}:Errand"


def _direction(segment: Segment) -> int:
    """0 for an episode that led up, 1 for one that stayed level, 2 for one that led down."""
    moves = segment.actions
    return int(1 + np.sign(moves[:, 1].sum() - moves[:, 0].sum()))


def _circle(first: Segment, second: Segment) -> float:
    """Up beats level, level beats down, down beats up: the chance that the second is better."""
    return (0.5, 0.0, 1.0)[(_direction(second) - _direction(first)) % 3]


def worst_share(played: Array) -> float:
    """Return the share of wins of a mixture [3] against the worst of the three for it: at most 0.5, when all are alike.

    Kind i beats kind i + 1 (mod 3).
    """
    return float(min(0.5 * played[k] + played[(k - 1) % 3] for k in range(3)))


class _Kinds(BaseCallback):
    """Counts what an agent plays between two rollouts."""

    def __init__(self) -> None:
        super().__init__()
        self.played: list[list[int]] = []
        self._seen = 0

    def _on_rollout_end(self) -> None:
        buffer = self.model.recorder.buffer  # type: ignore[attr-defined]
        new = min(buffer.episodes_seen - self._seen, len(buffer))
        self._seen = buffer.episodes_seen
        pool = buffer.trajectories()
        kinds = [_direction(pool.episode(i)) for i in range(len(pool) - new, len(pool))]
        self.played.append(np.bincount(kinds, minlength=3).tolist())

    def _on_step(self) -> bool:
        return True


def _mean_worst(played: Sequence[Sequence[int]]) -> float:
    """Return the mean of `worst_share` over the second half of the rollouts."""
    late = np.array(played[len(played) // 2 :], np.float64)
    return float(np.mean([worst_share(row / row.sum()) for row in late]))


def spo_circle(seed: int, steps: int = 9_000) -> Measured:
    """What SPO plays where preferences run in a circle, and what PPO on a reward fitted to them plays."""
    same: dict[str, Any] = {
        "n_steps": 75,
        "envs": 8,
        "batch_size": 100,
        "n_epochs": 4,
        "learning_rate": 1e-3,
        "ent_coef": 0.02,
        "hidden": (64, 64),
        "normalise_observations": False,
    }
    spo: dict[str, Any] = {"opponents": 4, "queue": 200}
    # As many questions as SPO asks, in as many sessions as there are rollouts, about the newest episodes.
    reward: dict[str, Any] = {
        "labels": 12_000,
        "per_session": 800,
        "interact": 600,
        "segment_length": 3,
        "selector": "uniform",
        "unsupervised_steps": 600,
        "unsupervised_epochs": 1,
        "use_sde": False,
        "clip_range": 0.2,
        "clip_range_falls": False,
        "reward": RewardConfig(members=1, width=64, layers=2, epochs=3),
    }
    figures = []
    for name, own in (("spo", spo), ("prefppo", reward)):
        agent = _agent(name, ERRAND, FunctionOracle(_circle), seed, steps, **same, **own)
        kinds = _Kinds()
        agent.learn(steps, callback=kinds)
        figures.append(_mean_worst(kinds.played))
    return Measured(*figures)


def spo_control(seed: int, steps: int = 10_000) -> Measured:
    """SPO on CartPole, and with a coin's answers."""
    returns = []
    for rater in ("oracle", "coin"):
        agent = _agent(
            "spo",
            "CartPole-v1",
            _rater(rater, "CartPole-v1", seed),
            seed,
            steps,
            **{"n_steps": 500, "envs": 2, "batch_size": 250, "learning_rate": 1e-3},
        )
        agent.learn(steps)
        returns.append(evaluate(agent, "CartPole-v1", episodes=20, seed=seed + 1).mean_return)
    return Measured(*returns)
