"""A tiny hidden-reward environment and raters for tests of the learners."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Oracle, Preference, Query, make_pairs
from prefenvs.protocols import Policy
from prefenvs.trajectories import Trajectories

SENTINEL = 1234.5625


class Point(gym.Env[np.ndarray, np.ndarray]):
    """A point on a line; the true reward is minus its distance to 1, or a number that must never be seen again."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def __init__(self, horizon: int = 25, sentinel: bool = False) -> None:
        self.horizon, self.sentinel = horizon, sentinel

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.position, self.time = self.np_random.uniform(-1, 1), 0
        return self._observe(), {"state": np.array([self.position])}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.position += 0.1 * float(action[0])
        self.time += 1
        true = SENTINEL if self.sentinel else -abs(self.position - 1.0)
        info = {"true_reward": true, "state": np.array([self.position]), "privileged_extra": true}
        return self._observe(), 0.0, False, self.time >= self.horizon, info

    def _observe(self) -> np.ndarray:
        return np.array([self.position, self.time / self.horizon], np.float32)


class Rater(Oracle):
    """Prefers the larger true return; can skip everything, and can answer late."""

    name = "test"

    def __init__(self, skip: bool = False, late: int = 0) -> None:
        self.skip, self.late = skip, late
        self.asked: list[list[Query]] = []
        self.waiting: list[Query] = []
        self.looks = 0

    def ask(self, queries: Any) -> None:
        self.asked.append(list(queries))
        self.waiting += queries

    def collect(self) -> list[Preference]:
        self.looks += 1
        if self.looks <= self.late:
            return []
        answers = [self.answer(query) for query in self.waiting]
        self.waiting = []
        return answers

    def answer(self, query: Query) -> Preference:
        returns = [segment.true_rewards.sum() for segment in query.segments]
        best = np.eye(len(returns))[int(np.argmax(returns))]
        return Preference(query, None if self.skip else best, annotator="test", oracle=self.name)

    @property
    def pending(self) -> int:
        return len(self.waiting)


@pytest.fixture
def point() -> Point:
    return Point()


def make_point_data(
    episodes: int = 12, seed: int = 0, horizon: int = 25, task: str = "point", observations: int = 2
) -> OfflineDataset:
    """Episodes of `Point`, every second of which walks away from the goal; `observations` beyond 2 are noise."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-1, 1, episodes)
    away = np.where(np.arange(episodes) % 2, -1.0, 1.0)
    seen, done, earned = [], [], []
    for t in range(horizon):
        action = np.clip(away * 10.0 * (1.0 - position) + rng.normal(size=episodes), -2.0, 2.0)
        seen.append(np.stack([position, np.full(episodes, t / horizon)], 1))
        done.append(action[:, None])
        position = position + 0.1 * action
        earned.append(-abs(position - 1.0))
    extra = rng.normal(size=(horizon, episodes, observations - 2))
    steps = np.concatenate([np.stack(seen), extra], 2).swapaxes(0, 1).reshape(-1, observations)
    trajectories = Trajectories(
        steps.astype(np.float32),
        np.stack(done, 1).reshape(-1, 1).astype(np.float32),
        np.arange(1, episodes + 1) * horizon,
        np.stack(earned, 1).reshape(-1),
        task=task,
        source="point-data",
    )
    return OfflineDataset("point-data", trajectories)


def prefer_by_return(dataset: OfflineDataset, labels: int, length: int = 5, seed: int = 0) -> list[Preference]:
    """Label random pairs of a data set's segments by their true return."""
    rng = np.random.default_rng(seed)
    rater = Rater()
    return [rater.answer(query) for query in make_pairs(dataset.trajectories.sample(2 * labels, length, rng))]


def regret_of(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """How far each step on the line stays behind going straight to the goal, [...]."""
    best = np.clip(10.0 * (1.0 - observations[..., :1]), -2.0, 2.0)
    return np.abs(actions - best).sum(-1)


@pytest.fixture(scope="session")
def regret() -> Callable[..., np.ndarray]:
    return regret_of


@pytest.fixture(scope="session")
def prefer_by_regret() -> Callable[..., list[Preference]]:
    """Label random pairs of a data set's segments by their regret."""

    def prefer(dataset: OfflineDataset, labels: int, length: int = 5, seed: int = 0) -> list[Preference]:
        queries = make_pairs(dataset.trajectories.sample(2 * labels, length, np.random.default_rng(seed)))
        sums = [[regret_of(s.observations, s.actions).sum() for s in query.segments] for query in queries]
        return [Preference(q, np.eye(2)[int(np.argmin(pair))]) for q, pair in zip(queries, sums, strict=True)]

    return prefer


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., OfflineDataset]:
    return make_point_data


@pytest.fixture(scope="session")
def prefer() -> Callable[..., list[Preference]]:
    return prefer_by_return


@pytest.fixture(scope="session")
def play() -> Callable[..., float]:
    """Return a policy's mean true return over episodes of `Point`."""

    def mean_return(policy: Policy, episodes: int = 20) -> float:
        env, earned = Point(), 0.0
        for seed in range(episodes):
            observation, _ = env.reset(seed=seed)
            truncated = False
            while not truncated:
                action, _ = policy.predict(observation[None], deterministic=True)
                observation, _, _, truncated, info = env.step(action[0])
                earned += info["true_reward"]
        return earned / episodes

    return mean_return
