"""RIME's thresholds against a plain statement of them, and what they do to wrong labels."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.options.rime import LabelDenoiser, RimeConfig
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference

from ...worlds import make_preferences


def test_trust_and_flips_are_the_paper_s_over_several_passes() -> None:
    config = RimeConfig(beta=2.0, beta_least=0.5, beta_passes=4, alpha=0.4)
    denoiser, rng = LabelDenoiser(config), np.random.default_rng(0)
    mean, variance, largest, count, seen = 0.0, 1.0, 0.0, 0, np.zeros(0)
    flips = 0
    for step in range(6):
        returns = rng.normal(0.0, 6.0, (3, 40, 2))
        labels = rng.integers(2, size=40)
        train = rng.random(40) < 0.8
        targets, weights = denoiser(torch.tensor(returns), torch.eye(2)[labels].double(), None, torch.tensor(train))
        chances = np.exp(returns) / np.exp(returns).sum(-1, keepdims=True)
        divergence = -np.log(chances.mean(0)[np.arange(40), labels])
        beta = max(0.5, 2.0 - 1.5 / 4 * step)
        lower = -np.log(largest + 1e-8) + 0.4 * largest + min(beta * variance, 3.0)
        trusted, flipped = divergence < lower, divergence > -np.log(0.001)
        flips += flipped.sum()
        np.testing.assert_array_equal(targets.argmax(-1).numpy(), np.where(flipped, 1 - labels, labels))
        kept = trusted | flipped
        np.testing.assert_allclose(weights.numpy(), kept / kept[train].mean())
        new = divergence[trusted & train]
        largest += 0.1 * (new.max() - largest)
        mean_before, mean = mean, mean + 0.1 * (new.mean() - mean)
        total = variance * count + new.var() * len(new)
        total += (new.mean() - mean_before) ** 2 * count * len(new) / (count + len(new))
        count += len(new)
        variance, seen = total / count, np.concatenate([seen, new])
    assert flips > 3
    assert 0 < (weights == 0).sum() < 40
    assert denoiser.passes == 6


def test_a_tie_that_is_predicted_as_one_is_trusted_and_never_flipped() -> None:
    denoiser = LabelDenoiser(RimeConfig())
    ties, train = torch.full((2, 2), 0.5), torch.ones(2, dtype=torch.bool)
    targets, weights = denoiser(torch.tensor([[[0.0, 0.0], [60.0, 0.0]]]), ties, None, train)
    assert torch.equal(targets, ties)
    assert weights.tolist() == [2.0, 0.0]
    assert denoiser.largest == pytest.approx(0.0, abs=1e-6)


def flip_some(labels: list[Preference], share: float) -> list[Preference]:
    rng = np.random.default_rng(5)
    return [
        dataclasses.replace(one, probabilities=one.probabilities[::-1]) if rng.random() < share else one
        for one in labels
        if one.probabilities is not None
    ]


def test_a_fit_to_labels_of_which_a_quarter_is_wrong_is_better_with_rime() -> None:
    wrong, right = flip_some(make_preferences(160, seed=1), 0.25), make_preferences(200, seed=2, episode=5_000)
    accuracy = {}
    for rime in (None, RimeConfig(warm_up=0, beta_passes=15)):
        config = RewardConfig(members=2, width=64, layers=2, batch_size=32, epochs=60, stop="never", rime=rime)
        model = RewardEnsemble(3, 2, config, seed=0, device="cpu")
        model.fit(wrong)
        beliefs = model.preference_probabilities([one.query for one in right]).mean(0)
        accuracy[rime] = np.mean([belief.argmax() == one.best for belief, one in zip(beliefs, right, strict=True)])
    plain, robust = accuracy.values()
    assert robust > plain + 0.03


def test_statistics_and_the_learning_rate_go_on_after_loading(tmp_path: Path) -> None:
    config = RewardConfig(width=16, layers=2, epochs=4, rime=RimeConfig(warm_up=10))
    labels = make_preferences(40)
    model = RewardEnsemble(3, 2, config, seed=0, device="cpu")
    model.fit(labels[:30])
    assert model.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(config.learning_rate * 0.4)
    model.save(tmp_path / "reward.pt")
    loaded = RewardEnsemble.load(tmp_path / "reward.pt", device="cpu")
    assert loaded.config == config
    for one in (model, loaded):
        one.fit(labels)
    for first, second in zip(model.network.parameters(), loaded.network.parameters(), strict=True):
        assert torch.equal(first, second)


def test_a_fit_ends_early_only_after_the_least_passes() -> None:
    rime = RimeConfig(least_passes=7)
    config = RewardConfig(width=16, layers=2, epochs=20, stop_accuracy=0.0, rime=rime)
    assert RewardEnsemble(3, 2, config, seed=0, device="cpu").fit(make_preferences(20))["epochs"] == 7


def test_a_regression_step_is_adam_s_on_the_squared_error_of_each_member() -> None:
    model, other = (RewardEnsemble(3, 2, RewardConfig(members=2, width=8, layers=1), device="cpu") for _ in range(2))
    observations, actions, targets = torch.randn(6, 3), torch.randn(6, 2), torch.rand(6)
    rewards = other.forward(torch.cat([observations, actions], 1))
    loss = sum(torch.nn.functional.mse_loss(member, targets) for member in rewards)
    loss.backward()
    other.trainer.optimizer.step()
    model.regress(observations, actions, targets)
    for first, second in zip(model.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("change", [{"flip": 0.0}, {"beta_least": 4.0}, {"least_passes": 0}, {"alpha": math.nan}])
def test_bad_settings_are_named(change: dict[str, float]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(change))):
        RimeConfig(**change)  # type: ignore[arg-type]
