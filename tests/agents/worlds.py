"""The toy worlds of the agents' tests: a point on a line, pendulums, raters of them, and labels."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Oracle, Preference, Query, make_pairs
from prefenvs.segments import Segment
from prefenvs.trajectories import Trajectories

SENTINEL = 1234.5625
ACTIONS, HORIZON = spaces.Box(-2.0, 2.0, (1,), np.float32), 25


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


def make_line_data(episodes: int = 60, seed: int = 0) -> OfflineDataset:
    """Every episode heads for 1 or away from it, at a speed of its own, with noise."""
    rng = np.random.default_rng(seed)
    aim, position = rng.uniform(-1, 1, episodes), rng.uniform(-1, 1, episodes)
    observations, actions, rewards = [], [], []
    for t in range(HORIZON):
        wanted = 2 * aim * np.clip(5 * (1 - position), -1, 1)
        action = np.clip(wanted + rng.normal(0, 0.2, episodes), -2, 2)
        observations.append(np.stack([position, np.full(episodes, t / HORIZON)], 1))
        actions.append(action[:, None])
        position = position + 0.1 * action
        rewards.append(-np.abs(position - 1))
    flat = [np.stack(part, 1).reshape(episodes * HORIZON, -1) for part in (observations, actions, rewards)]
    trajectories = Trajectories(
        flat[0].astype(np.float32),
        flat[1].astype(np.float32),
        HORIZON * np.arange(1, episodes + 1),
        true_rewards=flat[2].ravel(),
        terminated=np.zeros(episodes, bool),
        final_observations=np.stack([position, np.ones(episodes)], 1).astype(np.float32),
    )
    return OfflineDataset("line", trajectories)


def drive(policy: Any, count: int = 20) -> float:
    """Mean true return of `count` episodes side by side."""
    position, returns = np.random.default_rng(1).uniform(-1, 1, count), np.zeros(count)
    state, start = None, np.ones(count, bool)
    for t in range(HORIZON):
        observations = np.stack([position, np.full(count, t / HORIZON)], 1).astype(np.float32)
        actions, state = policy.predict(observations, state, start, deterministic=True)
        assert actions.shape == (count, 1)
        position, start = position + 0.1 * np.clip(actions[:, 0], -2, 2), np.zeros(count, bool)
        returns -= np.abs(position - 1)
    return float(returns.mean())


def swings(episodes: int, seed: int, steps: int = 20) -> Trajectories:
    """Pendulums that turn evenly, worth how high they are. Observations are noise: the state alone tells."""
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(-np.pi, np.pi, (episodes, 1)), rng.uniform(-2, 2, (episodes, 1))
    angles = angle + 0.05 * speed * np.arange(steps)
    states = np.stack([angles, np.broadcast_to(speed, angles.shape)], -1).reshape(-1, 2)
    noise = rng.standard_normal((len(states), 3)).astype(np.float32)
    return Trajectories(
        noise,
        np.zeros((len(states), 1), np.float32),
        steps * np.arange(1, episodes + 1),
        true_rewards=np.cos(states[:, 0]),
        states=states,
        task="Pendulum-v1",
        source=f"swings-{seed}",
    )


def label_swings(count: int, seed: int, length: int = 5, k: int = 2) -> list[Preference]:
    """The segment in which the pendulum is higher is preferred; every segment has an episode of its own."""
    trajectories = replace(swings(k * count, seed), source=f"swings-{k}-{seed}")
    starts = np.random.default_rng(seed).integers(trajectories.lengths[0] - length + 1, size=k * count)
    segments = list(trajectories.cut(np.arange(k * count), starts, length))
    rater = Rater()
    return [rater.answer(Query(tuple(segments[k * i : k * i + k]))) for i in range(count)]


def true_reward(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.tanh(observations[..., 0] - 0.5 * actions[..., 1])


def make_preferences(count: int, steps: int = 10, seed: int = 0, k: int = 2, episode: int = 0) -> list[Preference]:
    """Labels by `true_reward` of normal observations [3] and uniform actions [2], each segment of its own episode."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, k, steps, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, k, steps, 2)).astype(np.float32)
    best = true_reward(observations, actions).sum(-1).argmax(-1)
    return [
        Preference(
            Query(
                tuple(
                    Segment(o[j], a[j], task="T", source="run", episode=episode + i * k + j, start=0) for j in range(k)
                )
            ),
            np.eye(k)[b],
        )
        for i, (o, a, b) in enumerate(zip(observations, actions, best, strict=True))
    ]
