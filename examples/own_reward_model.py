"""A reward model of one's own: four methods, here a quadratic function fitted by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from own_environment import SMALL, Array, Reach, nearer

import prefenvs
from prefenvs import Preference
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.evaluate import evaluate


class Quadratic:
    """r(s, a) = w . (s, a, products of their entries); two returns differ by 1 where the second segment is better."""

    def __init__(self, observation_size: int, action_size: int, seed: int = 0) -> None:
        size = observation_size + action_size
        self.weights: Array = np.zeros(size + size * size)

    def features(self, observations: Array, actions: Array) -> Array:
        """Return [N, size + size^2]."""
        x = np.concatenate([observations, actions], 1)
        return np.concatenate([x, (x[:, :, None] * x[:, None]).reshape(len(x), -1)], 1)

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [1, N]: this model has one member."""
        rewards: Array = (self.features(observations, actions) @ self.weights)[None]
        return rewards

    def fit(self, preferences: Sequence[Preference]) -> dict[str, float]:
        """Fit all labels so far by least squares, in closed form; what is returned is logged."""
        pairs = [p for p in preferences if p.probabilities is not None]
        sums = [[self.features(s.observations, s.actions).sum(0) for s in p.query.segments] for p in pairs]
        gaps = np.array([second - first for first, second in sums])
        wanted = np.array([2.0 * p.probabilities[1] - 1.0 for p in pairs if p.probabilities is not None])
        self.weights = np.linalg.solve(gaps.T @ gaps + np.eye(len(self.weights)), gaps.T @ wanted)
        return {"accuracy": float(np.mean((gaps @ self.weights > 0.0) == (wanted > 0.0)))}

    def save(self, path: str | Path) -> None:
        Path(path).write_text(" ".join(map(repr, self.weights.tolist())))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        model = cls(0, 0)
        model.weights = np.array([float(word) for word in Path(path).read_text().split()])
        return model


if __name__ == "__main__":
    config = PebbleConfig(
        labels=60, per_session=20, interact=200, segment_length=10, unsupervised_steps=200, selector="uniform"
    )
    agent = PEBBLE("MlpPolicy", prefenvs.make(Reach), nearer, config, **SMALL, reward_model=Quadratic)
    agent.learn(1_200)
    agent.reward_model.save("reward.txt")
    again = Quadratic.load("reward.txt")
    here = np.array([[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]], np.float32)
    print(f"rewards away from the square and on it: {again.predict(here, np.zeros((2, 2)))[0].round(2)}")
    print(f"true return: {evaluate(agent, 'own_environment:Reach').mean_return:.1f}")
