"""What every reward model keeps: it fits pairs, ties, soft labels, skips and larger queries, and survives a file.

`CASES` lists the kinds; one that is not listed fails the first test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefenvs import agents
from prefenvs.agents import (
    GaussianReward,
    GaussianRewardConfig,
    ImageRewardConfig,
    ImageRewardEnsemble,
    PreferenceTransformer,
    PreferenceTransformerConfig,
    RewardConfig,
    RewardEnsemble,
)
from prefenvs.agents.runs.train import load_reward
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.runs import Run

from ..worlds import label_swings, make_preferences, swings

SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 16}
NETWORK: dict[str, Any] = {"width": 8, "heads": 2, **SHORT}


@dataclass(frozen=True)
class Case:
    """A kind of reward model: `config` for its segments, how many members it has, and whether it looks at pictures."""

    kind: type[Any]
    config: Any
    members: int = 1
    pictures: bool = False

    @contextmanager
    def make(self, seed: int = 0, **changes: Any) -> Iterator[Any]:
        config = replace(self.config, **changes)
        if not self.pictures:
            yield self.kind(3, 2, config, seed=seed, device="cpu")
            return
        pytest.importorskip("pygame", reason='Pendulum draws itself with pygame: pip install "prefenvs[classic]"')
        with self.kind("Pendulum-v1", config, seed=seed, device="cpu") as model:
            yield model

    def label(self, count: int, seed: int = 0, k: int = 2) -> list[Preference]:
        if self.pictures:
            return label_swings(count, seed, k=k)
        return make_preferences(count, seed=seed, k=k, episode=10_000 * seed)

    def predict(self, model: Any) -> np.ndarray:
        """Rewards of the same 12 steps for all models."""
        if self.pictures:
            rewards: np.ndarray = model.predict(swings(1, seed=7).states[:12])
            return rewards
        rng = np.random.default_rng(7)
        rewards = model.predict(rng.standard_normal((12, 3)), rng.uniform(-1, 1, (12, 2)))
        return rewards


CASES = {
    "ensemble": Case(RewardEnsemble, RewardConfig(width=16, layers=2, **SHORT), members=3),
    "transformer": Case(PreferenceTransformer, PreferenceTransformerConfig(**NETWORK)),
    "gaussian": Case(GaussianReward, GaussianRewardConfig(**NETWORK)),
    "image": Case(ImageRewardEnsemble, ImageRewardConfig(members=2, stride=2, **SHORT), members=2, pictures=True),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def test_every_kind_is_listed() -> None:
    kinds = {getattr(agents, name) for name in agents.__all__ if hasattr(getattr(agents, name), "fit")}
    assert kinds == {case.kind for case in CASES.values()}


@every
def test_a_run_s_reward_is_read_whatever_its_kind(case: Case, tmp_path: Path) -> None:
    """That of a task whose pictures are rendered takes none of what a run records, and says where it is used."""
    run = Run.create(tmp_path / "run", "train iql", {})
    with case.make() as model:
        model.save(run.path("reward.pt"))
        if case.pictures:
            with pytest.raises(PrefenvsError, match=r"ImageRewardEnsemble\.load"):
                load_reward(run)
        else:
            np.testing.assert_allclose(case.predict(load_reward(run)), case.predict(model))


@every
def test_it_fits_pairs_and_predicts_for_each_member(case: Case) -> None:
    with case.make(epochs=10) as model:
        before = case.predict(model)
        assert before.shape == (case.members, 12)
        assert before.dtype == np.float32
        metrics = model.fit(case.label(40))
        assert (metrics["labels"], metrics["decided"], metrics["skipped"]) == (40, 40, 0)
        assert math.isfinite(metrics["loss"])
        assert 0.0 <= metrics["accuracy"] <= 1.0
        assert not np.array_equal(case.predict(model), before)
        beliefs = model.preference_probabilities([p.query for p in case.label(6, seed=1)])
        assert beliefs.shape == (case.members, 6, 2)
        np.testing.assert_allclose(beliefs.sum(-1), 1.0, atol=1e-5)


@every
def test_skips_teach_nothing_and_are_counted(case: Case) -> None:
    skips = [replace(p, probabilities=None) for p in case.label(5, seed=1)]
    with case.make() as model, case.make() as other:
        before = case.predict(model)
        for nothing in ([], skips):
            metrics = model.fit(nothing)
            assert (metrics["labels"], metrics["decided"], metrics["epochs"]) == (0, 0, 0)
            assert metrics["skipped"] == len(nothing)
            assert math.isnan(metrics["loss"])
            assert math.isnan(metrics["accuracy"])
        np.testing.assert_array_equal(case.predict(model), before)
        assert model.fit([*skips, *case.label(20)])["loss"] == other.fit(case.label(20))["loss"]


@every
def test_ties_pull_together_and_have_no_accuracy(case: Case) -> None:
    ties = [replace(p, probabilities=np.array([0.5, 0.5])) for p in case.label(20)]
    with case.make(epochs=30, learning_rate=1e-3) as model:
        queries = [p.query for p in ties]
        before = np.abs(model.preference_probabilities(queries) - 0.5).mean()
        metrics = model.fit(ties)
        assert (metrics["labels"], metrics["decided"]) == (20, 0)
        assert math.isnan(metrics["accuracy"])
        assert np.abs(model.preference_probabilities(queries) - 0.5).mean() < before


@every
def test_a_soft_label_counts_by_its_probabilities(case: Case) -> None:
    """The loss is linear in the label: at 0.3 it lies between those of the two hard labels."""
    losses = []
    for share in (1.0, 0.3, 0.0):
        settings = {"dropout": 0.0} if hasattr(case.config, "dropout") else {}
        if case.kind is GaussianReward:
            settings["entropy_weight"] = 0.0
        with case.make(epochs=1, learning_rate=1e-9, **settings) as model:
            labels = [replace(p, probabilities=np.array([share, 1.0 - share])) for p in case.label(10)]
            losses.append(model.fit(labels)["loss"])
    assert losses[1] == pytest.approx(0.3 * losses[0] + 0.7 * losses[2], rel=1e-4)
    assert losses[0] != losses[2]


@every
def test_queries_of_three_are_fitted_beside_pairs(case: Case) -> None:
    mixed = [*case.label(10), *case.label(10, seed=1, k=3)]
    with case.make() as model:
        metrics = model.fit(mixed)
        assert metrics["labels"] == metrics["decided"] == 20
        beliefs = model.preference_probabilities([p.query for p in mixed])
        assert beliefs.shape == (case.members, 20, 3)
        assert (beliefs[:, :10, 2] == 0).all()
        assert (beliefs[:, 10:] > 0).all()
        np.testing.assert_allclose(beliefs.sum(-1), 1.0, atol=1e-5)


@every
def test_held_out_labels_are_measured_and_not_learned_from(case: Case) -> None:
    labels = case.label(20)
    with case.make(validation_share=0.3) as model:
        metrics = model.fit(labels)
        assert metrics["validation_by_episode"] == 1.0
        assert math.isfinite(metrics["validation_loss"])
        assert 0.0 <= metrics["validation_accuracy"] <= 1.0
        held = [p for p in labels if _sides(model)[p.query.id]]
        with pytest.raises(PrefenvsError, match="labels are held out: lower validation_share"):
            model.fit(held)


def _sides(model: Any) -> dict[str, bool]:
    sides: dict[str, bool] = getattr(model, "trainer", model)._sides
    return sides


@every
def test_a_seed_decides_everything_and_the_global_generator_stays(case: Case) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with case.make() as first, case.make() as second, case.make(seed=1) as other:
        figures = [model.fit(case.label(20)) for model in (first, second, other)]
        assert figures[0] == figures[1]
        np.testing.assert_array_equal(case.predict(first), case.predict(second))
        assert not np.array_equal(case.predict(first), case.predict(other))
    assert torch.equal(torch.rand(1), expected)


@every
def test_a_loaded_model_is_the_saved_one_and_goes_on_as_it(case: Case, tmp_path: Path) -> None:
    with case.make(validation_share=0.2) as model:
        model.fit(case.label(20))
        model.save(tmp_path / "reward.pt")
        loaded = case.kind.load(tmp_path / "reward.pt", device="cpu")
        assert loaded.config == model.config
        np.testing.assert_array_equal(case.predict(loaded), case.predict(model))
        more = case.label(20) + case.label(5, seed=2)
        figures = [one.fit(more) for one in (model, loaded)]
        np.testing.assert_array_equal(case.predict(loaded), case.predict(model))
        # After a load all queries are on the device again, but which of them are new is known.
        assert figures[0] == figures[1]


@every
def test_damaged_and_foreign_files_are_refused_in_one_line(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "reward.pt"
    with case.make() as model:
        model.save(path)
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refuse(case, path)
    for name in sorted(state):
        torch.save({key: value for key, value in state.items() if key != name}, path)
        refuse(case, path)
    torch.save(state | {"network": {name: value[:1] for name, value in state["network"].items()}}, path)
    refuse(case, path)
    for other in CASES.values():
        if other is not case:
            with other.make() as foreign:
                foreign.save(path)
            refuse(case, path)
    path.unlink()
    with pytest.raises(PrefenvsError, match="there is no reward model"):
        case.kind.load(path)


def refuse(case: Case, path: Path) -> None:
    with pytest.raises(PrefenvsError) as caught:
        case.kind.load(path, device="cpu")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@every
def test_what_is_no_number_is_refused_and_leaves_the_model_usable(case: Case) -> None:
    labels = case.label(10)
    name = "states" if case.pictures else "observations"
    segment = labels[4].query.segments[1]
    array = getattr(segment, name).copy()
    array[2, 0] = np.nan
    bad = Query((labels[4].query.segments[0], replace(segment, **{name: array})))
    with case.make() as model:
        with pytest.raises(PrefenvsError, match="NaN"):
            model.fit([*labels[:4], replace(labels[4], query=bad)])
        assert model.fit(labels)["labels"] == 10
