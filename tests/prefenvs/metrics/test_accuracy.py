"""One accuracy everywhere: ties of the model count a share, ties and skips of the rater do not count."""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from prefenvs.agents.offline.cpl import CPL
from prefenvs.agents.offline.oppo import OPPO
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.losses import credit_labels, is_decided
from prefenvs.bench.rewards import judge_reward_on
from prefenvs.metrics import preference_accuracy
from prefenvs.metrics.accuracy import Share, credit, label_accuracy
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import TrajectoryBuffer


def labels(count: int = 40, first: int = 29, size: int = 2) -> list[Preference]:
    """Labels of which `first` name the first segment and the rest the second, with ties and skips between them."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        segments = [
            Segment(rng.normal(size=(3, 1)).astype(np.float32), np.zeros((3, 1), np.float32), np.zeros(3))
            for _ in range(size)
        ]
        chances: Array = np.eye(size)[0 if i < first else 1]
        query = Query(tuple(segments))
        found += [Preference(query, chances)]
        if not i % 10:
            found += [Preference(Query(tuple(segments[::-1])), np.full(size, 1 / size)), Preference(query, None)]
    return found


class Constant:
    """A model that tells nothing."""

    value = 0.0

    def predict(self, observations: Array, actions: Array) -> Array:
        return np.full((1, *observations.shape[:-1]), self.value)


def core(preferences: Sequence[Preference]) -> float:
    return label_accuracy(preferences, lambda segment: 0.0)


def metric(preferences: Sequence[Preference]) -> float:
    return preference_accuracy(Constant(), preferences)  # type: ignore[arg-type]


def torch_labels(preferences: Sequence[Preference]) -> float:
    targets = torch.tensor(np.stack([p.probabilities for p in preferences if p.probabilities is not None]))
    decided = is_decided(targets)
    return float((credit_labels(torch.zeros(targets.shape), targets) * decided).sum() / decided.sum())


def ensemble(preferences: Sequence[Preference]) -> float:
    """What a fit tells of labels that it never saw, by an ensemble whose output layer is zero."""
    model = RewardEnsemble(1, 1, RewardConfig(members=2, width=4, epochs=1), seed=0, device="cpu")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    return model.fit(list(preferences))["new_accuracy"]


@pytest.mark.parametrize("measure", [core, metric, torch_labels, ensemble], ids=lambda one: one.__name__)
@pytest.mark.parametrize("first", [40, 29, 0])
def test_a_constant_model_is_right_half_the_time(measure: Callable[..., float], first: int) -> None:
    assert measure(labels(first=first)) == pytest.approx(0.5)


def test_the_learners_own_accuracies_are_the_core_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cpl = SimpleNamespace(_score=lambda segment: 1.0)
    oppo = SimpleNamespace(_distance=lambda segment: 1.0)
    assert CPL.preference_accuracy(cpl, labels()) == 0.5  # type: ignore[arg-type]
    assert OPPO.preference_accuracy(oppo, labels()) == 0.5  # type: ignore[arg-type]
    assert math.isnan(CPL.preference_accuracy(cpl, [labels()[2]]))  # type: ignore[arg-type]


def test_a_learned_reward_is_judged_alike() -> None:
    buffer = TrajectoryBuffer("Pendulum-v1", max_episodes=None)
    for k in range(30):
        buffer.add_step(
            0, np.zeros(3, np.float32), np.zeros(1, np.float32), float(k), None, done=k == 29, terminated=False,
            final_observation=np.zeros(3, np.float32),
        )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefenvs.bench.rewards._starc", lambda *_: 0.0)
        found = judge_reward_on(buffer.trajectories(), Constant(), 5, 50, 0)  # type: ignore[arg-type]
    assert found["accuracy"] == 0.5


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("returns", "best", "expected"),
    [
        ([2.0, 1.0], 0, 1.0),
        ([2.0, 1.0], 1, 0.0),
        ([1.0, 1.0], 1, 0.5),
        ([1.0, 1.0, 1.0], 2, 1 / 3),
        ([2.0, 2.0, 1.0], 1, 0.5),
        ([2.0, 2.0, 1.0], 2, 0.0),
        ([math.nan, 1.0], 0, 0.0),
        ([math.nan, math.nan], 1, 0.0),
        ([1.0, math.nan], 0, 0.0),
    ],
)
def test_credit(kind: Callable[..., Any], returns: list[float], best: int, expected: float) -> None:
    values = kind(returns)
    assert float(credit(values, values[best : best + 1])) == pytest.approx(expected)


def test_all_accuracies_agree_on_a_model_with_some_ties() -> None:
    rng = np.random.default_rng(1)
    preferences = labels(200, 120, size=3)
    scores = {s.hash: float(rng.integers(3)) for p in preferences for s in p.query.segments}

    class Table(Constant):
        def predict(self, observations: Array, actions: Array) -> Array:
            rows = observations.reshape(-1, 3, observations.shape[-1])
            found = [scores[Segment(row, np.zeros((3, 1), np.float32), np.zeros(3)).hash] / 3 for row in rows]
            return np.repeat(found, 3)[None]

    returns = torch.tensor([[scores[s.hash] for s in p.query.segments] for p in preferences if not p.skipped])
    targets = torch.tensor(np.stack([p.probabilities for p in preferences if p.probabilities is not None]))
    decided = is_decided(targets)
    theirs = float((credit_labels(returns, targets) * decided).sum() / decided.sum())
    assert label_accuracy(preferences, lambda s: scores[s.hash]) == pytest.approx(theirs, abs=1e-6)
    assert preference_accuracy(Table(), preferences) == pytest.approx(theirs, abs=1e-6)  # type: ignore[arg-type]


def test_a_share_of_half_hits_has_an_interval() -> None:
    low, high = Share(6.5, 10).interval
    assert 0.3 < low < 0.65 < high < 0.9
    assert Share(0.0, 0).interval == (0.0, 1.0)
