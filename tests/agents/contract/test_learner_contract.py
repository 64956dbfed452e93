"""What every learner keeps: learn, save, load with and without data, learn on, and resume as if never stopped.

`OFFLINE` and `ONLINE_KINDS` list the learners; one that is not listed fails the first test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefenvs import agents
from prefenvs.agents import (
    BC,
    CPL,
    DPPO,
    IPL,
    IQL,
    OPPO,
    PEBBLE,
    BCConfig,
    CPLConfig,
    DPPOConfig,
    IPLConfig,
    IQLConfig,
    OPPOConfig,
    PrefPPO,
    RewardConfig,
    RewardEnsemble,
    StateRewardSAC,
)
from prefenvs.agents.offline.dppo import SegmentScoreConfig
from prefenvs.agents.offline.learner import OfflineLearner
from prefenvs.agents.offline.tables import RankedSegments
from prefenvs.agents.online.learner import PreferenceLearner
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError

from ..worlds import make_point_data, prefer_by_return

NETS: dict[str, Any] = {"hidden": (16, 16), "batch_size": 8}
ENSEMBLE = RewardConfig(width=16, layers=2, epochs=2)
PREDICTOR = SegmentScoreConfig(width=8, layers=1, heads=2, epochs=1)
STAGES: dict[str, Any] = {"pretrain_updates": 4, "warmup_updates": 2, **NETS}
TRANSFORMER: dict[str, Any] = {"width": 8, "layers": 1, "encoder_heads": 2, "heads": 2, "window": 8, "batch_size": 4}


@dataclasses.dataclass(frozen=True)
class Case:
    """A learner from fixed data: its class, its configuration, and what it is given beside the data."""

    kind: type[OfflineLearner[Any]]
    config: Any
    give: Callable[[OfflineDataset], dict[str, Any]]

    def make(self, seed: int = 0) -> OfflineLearner[Any]:
        dataset = make_point_data()
        return self.kind(dataset, config=self.config, seed=seed, device="cpu", **self.give(dataset))

    def load(self, path: Path) -> OfflineLearner[Any]:
        dataset = make_point_data()
        return self.kind.load(path, device="cpu", dataset=dataset, **self.give(dataset))


def label(dataset: OfflineDataset) -> dict[str, Any]:
    return {"preferences": prefer_by_return(dataset, 20)}


def rank(dataset: OfflineDataset) -> dict[str, Any]:
    segments = dataset.trajectories.sample(20, 5, np.random.default_rng(1))
    assert segments.true_rewards is not None
    return {"ranking": RankedSegments(segments, segments.true_rewards.sum(1))}


def fit_ensemble(dataset: OfflineDataset) -> dict[str, Any]:
    model = RewardEnsemble(2, 1, ENSEMBLE, seed=0, device="cpu")
    model.fit(prefer_by_return(dataset, 20))
    return {"reward_model": model}


OFFLINE = {
    "bc": Case(BC, BCConfig(normalise_observations=True, dropout=0.2, **NETS), lambda _: {}),
    "bc-best": Case(BC, BCConfig(best_share=0.3, **NETS), label),
    "bc-ranking": Case(BC, BCConfig(best_share=0.3, **NETS), rank),
    "bc-returns": Case(BC, BCConfig(best_share=0.3, **NETS), lambda data: {"returns": data.trajectories.returns}),
    "cpl": Case(CPL, CPLConfig(**STAGES), label),
    "cpl-kl": Case(CPL, CPLConfig(kl=True, gaussian=True, **STAGES), label),
    "cpl-ranking": Case(CPL, CPLConfig(**STAGES), rank),
    "dppo": Case(DPPO, DPPOConfig(predictor=PREDICTOR, **NETS), label),
    "ipl": Case(IPL, IPLConfig(pairs=4, segment_steps=5, **NETS), label),
    "iql": Case(IQL, IQLConfig(reward=ENSEMBLE, **NETS), label),
    "iql-model": Case(IQL, IQLConfig(normalise_observations=True, **NETS), fit_ensemble),
    "iql-rewards": Case(IQL, IQLConfig(**NETS), lambda data: {"rewards": data.trajectories.true_rewards}),
    "oppo": Case(OPPO, OPPOConfig(**TRANSFORMER), label),
}
OBSERVATIONS = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)


def weights(learner: Any) -> dict[str, torch.Tensor]:
    parts: dict[str, Any] = learner._modules() if isinstance(learner, OfflineLearner) else {"policy": learner.policy}
    if isinstance(learner, PEBBLE | PrefPPO):
        parts |= {"reward": learner.reward_model.network}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def assert_same(one: Any, other: Any) -> None:
    assert one.num_timesteps == other.num_timesteps
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name
    np.testing.assert_array_equal(act(one), act(other))


def act(learner: Any) -> np.ndarray:
    actions: np.ndarray = learner.predict(OBSERVATIONS, deterministic=True)[0]
    return actions


def test_every_learner_is_listed() -> None:
    listed = {case.kind for case in OFFLINE.values()} | set(ONLINE_KINDS)
    learners = {
        kind
        for name in agents.__all__
        if isinstance(kind := getattr(agents, name), type) and issubclass(kind, OfflineLearner | PreferenceLearner)
    }
    assert learners <= listed


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_learner_is_saved_and_loaded_without_data(name: str, tmp_path: Path) -> None:
    case = OFFLINE[name]
    learner = case.make().learn(6)
    loaded = case.kind.load(learner.save(tmp_path / "learner.zip"), device="cpu")
    assert_same(learner, loaded)
    assert (loaded.labels, loaded.learns_from, loaded.task) == (learner.labels, learner.learns_from, learner.task)
    assert loaded.config == learner.config
    accuracy = loaded.preference_accuracy(prefer_by_return(make_point_data(), 5))
    assert np.isnan(accuracy) or 0.0 <= accuracy <= 1.0
    assert_same(loaded, case.kind.load(loaded.save(tmp_path / "again.zip"), device="cpu"))
    with pytest.raises(PrefenvsError, match="loaded without data"):
        loaded.learn(5)
    with pytest.raises(PrefenvsError, match="pass dataset"):
        case.kind.load(tmp_path / "learner.zip", preferences=[])


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_learner_is_loaded_with_data_and_learns_on(name: str, tmp_path: Path) -> None:
    case = OFFLINE[name]
    learner = case.make().learn(6)
    loaded = case.load(learner.save(tmp_path / "learner.zip"))
    assert (loaded.labels, loaded.learns_from) == (learner.labels, learner.learns_from)
    for one in (learner, loaded):
        one.learn(6, reset_num_timesteps=False)
    assert_same(learner, loaded)


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_learner_resumes_as_if_never_stopped(name: str, tmp_path: Path) -> None:
    case = OFFLINE[name]
    learner = case.make().learn(6)
    resumed = case.make()
    resumed.resume(learner.save_checkpoint(tmp_path / "checkpoint"))
    for one in (learner, resumed):
        one.learn(6, reset_num_timesteps=False)
    assert_same(learner, resumed)
    assert learner.labels == resumed.labels


@pytest.mark.parametrize("name", [name for name, case in OFFLINE.items() if case.give(make_point_data())])
def test_what_is_missing_beside_the_data_is_named(name: str, tmp_path: Path) -> None:
    case = OFFLINE[name]
    path = case.make().learn(6).save(tmp_path / "learner.zip")
    with pytest.raises(PrefenvsError):
        case.kind.load(path, device="cpu", dataset=make_point_data())


ONLINE_KINDS: tuple[type[Any], ...] = (PEBBLE, PrefPPO, StateRewardSAC)
