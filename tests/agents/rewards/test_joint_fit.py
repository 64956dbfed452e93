"""Reward ensembles that are fitted together learn what each learns alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from prefenvs.agents.rewards.ensemble import RewardEnsemble, SurfConfig, fit_ensembles
from prefenvs.agents.rewards.fit import FitJob
from prefenvs.agents.rewards.options.rime import RimeConfig
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference

from ..worlds import make_preferences
from .small_ensemble import SMALL, make_model


def assert_alike(together: RewardEnsemble, alone: RewardEnsemble) -> None:
    for name, value in alone.network.state_dict().items():
        torch.testing.assert_close(together.network.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert torch.equal(together.trainer.generator.get_state(), alone.trainer.generator.get_state())


def assert_same_metrics(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"bootstrap": True, "flip_rate": 0.1},
        {"normalise": True, "stop": "never"},
        {"validation_share": 0.2, "stop": "validation", "patience": 2, "epochs": 60},
        {"surf": SurfConfig(margin=2)},
        {"rime": RimeConfig(warm_up=5, beta_passes=10)},
        {"precision": "bfloat16"},
    ],
    ids=lambda change: "-".join(change) or "plain",
)
def test_each_ensemble_learns_what_it_learns_alone(change: dict[str, Any]) -> None:
    """Two sessions, of which the second begins where the first has left weights, moments and generators."""
    config = replace(SMALL, **change)
    labels = [make_preferences(80, seed=seed, episode=1_000 * seed) for seed in range(3)]
    pool = [[p.query for p in make_preferences(50, seed=9 + seed)] if config.surf else [] for seed in range(3)]
    together, alone = ([make_model(config, seed) for seed in range(3)] for _ in range(2))
    for size in (50, 80):
        metrics = fit_ensembles(together, [own[:size] for own in labels], pool)
        for model, other, own, queries, figures in zip(together, alone, labels, pool, metrics, strict=True):
            assert_same_metrics(figures, other.fit(own[:size], unlabelled=queries))
            assert_alike(model, other)
    assert not np.allclose(*(model.predict(np.ones((1, 3)), np.ones((1, 2))) for model in together[:2]))


def test_each_stops_when_it_has_enough() -> None:
    """Labels that name one segment of a pair in any case are learned in a pass or two, random ones never."""
    config = replace(SMALL, epochs=25)
    easy = [replace(p, probabilities=np.array([0.5, 0.5])) for p in make_preferences(60)]
    easy[:1] = make_preferences(1)
    rng = np.random.default_rng(0)
    hard = [replace(p, probabilities=np.eye(2)[rng.integers(2)]) for p in make_preferences(60, seed=1)]
    together, alone = ([make_model(config, seed) for seed in range(2)] for _ in range(2))
    first, second = fit_ensembles(together, [easy, hard])
    assert first["epochs"] < second["epochs"] == 25
    for model, other, own in zip(together, alone, (easy, hard), strict=True):
        other.fit(own)
        assert_alike(model, other)


def test_different_numbers_shapes_and_no_labels_at_all() -> None:
    ragged = [*make_preferences(30), *make_preferences(30, steps=6, k=3, seed=1, episode=1000)]
    skipped = [replace(p, probabilities=None) for p in make_preferences(5)]
    given: list[Sequence[Preference]] = [make_preferences(60), make_preferences(40, seed=2), ragged, skipped]
    given.append(make_preferences(60, seed=4))
    together, alone = ([make_model(seed=seed) for seed in range(5)] for _ in range(2))
    metrics = fit_ensembles(together, given)
    assert [figures["labels"] for figures in metrics] == [60, 40, 60, 0, 60]
    for model, other, own, figures in zip(together, alone, given, metrics, strict=True):
        assert_same_metrics(figures, other.fit(own))
        assert_alike(model, other)


def test_an_ensemble_fitted_among_others_is_saved_by_itself(tmp_path: Any) -> None:
    together = [make_model(seed=seed) for seed in range(3)]
    fit_ensembles(together, [make_preferences(40, seed=seed) for seed in range(3)])
    alone = make_model()
    alone.fit(make_preferences(40))
    alone.save(tmp_path / "alone.pt")
    together[0].save(tmp_path / "member.pt")
    assert (tmp_path / "member.pt").stat().st_size < 1.1 * (tmp_path / "alone.pt").stat().st_size
    together[0].fit(make_preferences(40, seed=5))
    untouched = make_model(seed=1)
    untouched.fit(make_preferences(40, seed=1))
    assert_alike(together[1], untouched)


def test_what_cannot_be_fitted_together_is_refused() -> None:
    model = make_model()
    with pytest.raises(PrefenvsError, match="given twice"):
        fit_ensembles([model, model], [make_preferences(10)] * 2)


def test_an_ensemble_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(SMALL, epochs=6, stop="never")
    labels = [make_preferences(40, seed=seed) for seed in range(4)]
    labels[1][3].query.segments[0].observations[2] = np.nan
    models = [make_model(config, seed) for seed in range(4)]
    end_pass = FitJob.end_pass

    def diverge(job: FitJob, number: int, loss: float, accuracy: float) -> bool:
        loss = float("nan") if job.trainer is models[2].trainer and number == 3 else loss
        return end_pass(job, number, loss, accuracy)

    monkeypatch.setattr(FitJob, "end_pass", diverge)
    results = fit_ensembles(models, labels)
    assert "hold a NaN" in str(results[1])
    assert "the reward loss became nan in pass 3" in str(results[2])
    for k in (0, 3):
        alone = make_model(config, k)
        assert_same_metrics(results[k], alone.fit(labels[k]))  # type: ignore[arg-type]
        assert_alike(models[k], alone)
    with pytest.raises(PrefenvsError, match="hold a NaN"):
        make_model(config, 1).fit(labels[1])
