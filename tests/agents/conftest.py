"""A tiny hidden-reward environment and raters for tests of the learners."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from prefenvs.preferences import Oracle, Preference, Query

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
