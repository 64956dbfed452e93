"""A diagnosis tells a right reward from a wrong one, and labels near the policy from labels far away."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.diagnosis import Diagnosis, diagnose
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

LENGTH = 10


class Linear:
    """A reward of one member: weights times the observation."""

    def __init__(self, *weights: float, bound: float = math.inf) -> None:
        self.weights, self.bound = np.array(weights), bound

    def predict(self, observations: Array, actions: Array) -> Array:
        rewards: Array = np.clip(observations @ self.weights, -self.bound, self.bound)[None]
        return rewards

    def fit(self, preferences: Any) -> dict[str, float]:
        return {}

    def save(self, path: str | Path) -> None:
        raise NotImplementedError


def episodes(rng: np.random.Generator, place: float, count: int = 6, steps: int = 40) -> Trajectories:
    """Episodes around a place; the true reward is the first entry of an observation."""
    observations = rng.normal([place, 0.0], 1.0, (count * steps, 2)).astype(np.float32)
    ends = np.arange(1, count + 1) * steps
    return Trajectories(observations, np.zeros((count * steps, 1), np.float32), ends, observations[:, 0].astype(float))


def labels(rng: np.random.Generator, place: float, count: int = 60, right: float = 1.0) -> list[Preference]:
    batch = episodes(rng, place, count, 2 * LENGTH)
    found = []
    for i in range(count):
        first, second = batch.cut(np.array([i, i]), np.array([0, LENGTH]), LENGTH)
        assert first.true_rewards is not None
        assert second.true_rewards is not None
        better = int(second.true_rewards.sum() > first.true_rewards.sum())
        choice = better if rng.random() < right else 1 - better
        found.append(Preference(Query((first, second)), (1.0 - choice, float(choice))))
    return found


def check(model: Linear, label_place: float = 0.0, right: float = 1.0, seed: int = 0) -> Diagnosis:
    rng = np.random.default_rng(seed)
    return diagnose(model, labels(rng, label_place, right=right), episodes(rng, 0.0), LENGTH)


def test_episodes_of_a_few_steps() -> None:
    rng, model = np.random.default_rng(0), Linear(1.0, 0.0)
    with pytest.raises(PrefenvsError, match="one step"):
        diagnose(model, labels(rng, 0.0), episodes(rng, 0.0, 1, 1), LENGTH)
    for count, steps in ((1, 2), (2, 1)):
        assert len(diagnose(model, labels(rng, 0.0), episodes(rng, 0.0, count, steps), LENGTH).near) == 120


def test_a_right_reward_is_found_right() -> None:
    found = check(Linear(1.0, 0.0))
    assert found.on_labels.value == found.on_policy.value == found.on_mixed.value == 1.0
    assert found.correlation.spearman == pytest.approx(1.0)
    assert found.near.mean() > 0.8
    assert [("train it longer" in text) for text in found.findings()] == [True]


def test_a_reward_that_knows_nothing_of_the_policy_is_found_out() -> None:
    found = check(Linear(0.0, 1.0))
    low, high = found.on_policy.interval
    assert low < 0.6
    assert high > 0.4
    assert abs(found.correlation.spearman) < 0.3
    found = check(Linear(-1.0, 0.0))
    assert found.on_policy.value == 0.0
    assert "no better than chance" in found.findings()[0]


def test_labels_elsewhere_are_found_elsewhere() -> None:
    far = check(Linear(1.0, 0.0), label_place=30.0)
    assert far.near.mean() < 0.05
    assert any("near-on-policy" in text for text in far.findings())


def test_a_rater_without_knowledge_is_told() -> None:
    found = check(Linear(1.0, 0.0), right=0.5)
    assert any("contradicts itself" in text for text in found.findings())


def test_a_reward_at_its_bound_is_told() -> None:
    found = check(Linear(100.0, 0.0, bound=1.0))
    assert found.saturated > 0.3
    rng = np.random.default_rng(0)
    high = diagnose(Linear(100.0, 0.0, bound=1.0), labels(rng, 0.0), episodes(rng, 5.0), LENGTH)
    assert any("highest reward there is" in text for text in high.findings())


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(0)
    trajectories = episodes(rng, 0.0)
    with pytest.raises(PrefenvsError, match="none of the 0 answers"):
        diagnose(Linear(1.0, 0.0), [], trajectories, LENGTH)
    blind = Trajectories(trajectories.observations, trajectories.actions, trajectories.ends)
    with pytest.raises(PrefenvsError, match="carry no true rewards"):
        diagnose(Linear(1.0, 0.0), labels(rng, 0.0), blind, LENGTH)
    pictures = Trajectories(np.zeros((9, 3, 8, 8), np.uint8), np.zeros((9, 1)), np.array([9]), np.zeros(9))
    with pytest.raises(PrefenvsError, match="observes pictures"):
        diagnose(Linear(1.0, 0.0), labels(rng, 0.0), pictures, LENGTH)


def test_labels_of_another_length_are_compared_by_steps() -> None:
    rng = np.random.default_rng(0)
    query = Query((Segment(*two(rng, 4)), Segment(*two(rng, 4))))
    found = diagnose(Linear(1.0, 0.0), [Preference(query, (1.0, 0.0))], episodes(rng, 0.0), LENGTH)
    assert found.on_mixed.count == 0
    assert found.near.shape == (2,)


def two(rng: np.random.Generator, steps: int) -> tuple[Array, Array]:
    return rng.normal(size=(steps, 2)).astype(np.float32), np.zeros((steps, 1), np.float32)


def test_without_a_true_reward_labels_alone_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefenvs.metrics.diagnosis.has_reward", lambda _: False)
    found = check(Linear(1.0, 0.0))
    assert found.on_labels.value > 0.95
    assert not len(found.true)
    assert not any("rightly" in finding or "true return" in finding for finding in found.findings())
