from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from prefenvs.agents.rewards.pearl import GaussianReward, GaussianRewardConfig, gaussian_entropy
from prefenvs.errors import PrefenvsError
from prefenvs.protocols import RewardModel
from prefenvs.trajectories import Trajectories

from ..worlds import make_preferences

MLP = GaussianRewardConfig(width=32, backbone="mlp", epochs=40, batch_size=40)
TRANSFORMER = GaussianRewardConfig(width=16, heads=2, epochs=40, batch_size=40)


def make_model(config: GaussianRewardConfig = MLP, seed: int = 0) -> GaussianReward:
    return GaussianReward(3, 2, config, seed=seed, device="cpu")


def test_loss_is_the_published_formula() -> None:
    rng = np.random.default_rng(0)
    means, stds = rng.standard_normal((4, 2, 6)), rng.uniform(0.05, 0.5, (4, 2, 6))
    noise, targets = rng.standard_normal((3, 4, 2, 6)), np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.2, 0.8]])
    model = make_model(replace(MLP, samples=3, entropy_weight=0.3, entropy_floor=0.1, aggregate="sum"))
    expected = np.zeros(4)
    for query in range(4):
        for sample in range(3):
            returns = [sum(means[query, k] + stds[query, k] * noise[sample, query, k]) for k in range(2)]
            log_beliefs = returns - np.log(np.sum(np.exp(returns)))
            expected[query] -= np.dot(targets[query], log_beliefs) / 3
        entropy = np.mean([norm(0, std).entropy() for std in stds[query].flatten()])
        expected[query] += 0.3 * max(0.0, 0.1 - entropy)
    scores = torch.from_numpy(means + stds * noise).sum(-1)
    losses = model.robust_losses(scores, torch.from_numpy(stds), None, None, torch.from_numpy(targets))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_the_loss_of_a_batch_uses_samples_of_the_network() -> None:
    """Without variance, sampling changes nothing: the loss is the cross entropy of the means plus the penalty."""
    model = make_model(replace(MLP, entropy_weight=0.0))
    with torch.no_grad():
        model.network.head.bias[1], model.network.head.weight[1] = -100.0, 0.0
    inputs, targets = torch.randn(5, 2, 8, 5), torch.eye(2)[torch.tensor([0, 1, 1, 0, 1])]
    means = model.network(inputs)[0].mean(-1)
    expected = torch.nn.functional.cross_entropy(means, targets.argmax(-1), reduction="none")
    torch.testing.assert_close(model.losses(inputs, None, None, targets), expected, atol=5e-3, rtol=5e-3)


def test_the_penalty_pushes_small_variances_up_and_leaves_large_ones() -> None:
    model = make_model(replace(MLP, entropy_floor=0.0, entropy_weight=1.0))
    std = torch.tensor([[[0.1], [0.1]], [[2.0], [2.0]]], requires_grad=True)
    targets, scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(1, 2, 2)
    model.robust_losses(scores, std, None, None, targets).sum().backward()
    assert (std.grad[0] < 0).all()
    assert (std.grad[1] == 0).all()


def test_padding_counts_for_nothing() -> None:
    pair, longer = make_preferences(1), make_preferences(1, steps=17, k=3, seed=2)
    for config in (MLP, TRANSFORMER):
        model = make_model(config)
        alone = model.preference_probabilities([p.query for p in pair])
        beside = model.preference_probabilities([p.query for p in pair + longer])
        np.testing.assert_allclose(beside[:, 0, :2], alone[:, 0], atol=1e-6)
    std = torch.rand(2, 2, 5) + 0.1
    inside = torch.arange(5) < torch.tensor([[5, 3], [2, 4]])[..., None]
    losses = [
        model.robust_losses(torch.zeros(1, 2, 2), torch.where(inside, std, junk), inside, None, torch.full((2, 2), 0.5))
        for junk in (0.01, 5.0)
    ]
    torch.testing.assert_close(*losses)


def test_entropy_is_that_of_the_normal_distribution() -> None:
    stds = np.random.default_rng(0).uniform(0.01, 5, 20)
    np.testing.assert_allclose(gaussian_entropy(torch.from_numpy(stds)), norm(0, stds).entropy())


@pytest.mark.parametrize("config", [MLP, TRANSFORMER], ids=["mlp", "transformer"])
def test_learns_to_predict_unseen_preferences(config: GaussianRewardConfig) -> None:
    model = make_model(config)
    assert isinstance(model, RewardModel)
    metrics = model.fit(make_preferences(200))
    unseen = make_preferences(200, seed=1)
    beliefs = model.preference_probabilities([p.query for p in unseen])[0]
    assert metrics["accuracy"] > 0.85
    assert np.mean(beliefs.argmax(-1) == [p.best for p in unseen]) > 0.75
    assert model.context == (1 if config is MLP else 10)


def test_the_floor_keeps_the_variance() -> None:
    inputs = torch.randn(50, 10, 5)
    entropy = {}
    for weight in (0.0, 1.0):
        model = make_model(replace(MLP, entropy_weight=weight, aggregate="sum"))
        model.fit(make_preferences(100))
        with torch.no_grad():
            entropy[weight] = gaussian_entropy(model.network(inputs)[1]).mean().item()
    assert entropy[1.0] > entropy[0.0] + 0.1


def test_with_flipped_labels_the_variance_keeps_predictions_modest() -> None:
    """Of 120 labels 30 % name the wrong segment; unseen clean ones are then predicted with less false confidence."""
    rng = np.random.default_rng(0)
    noisy = [
        replace(p, probabilities=p.probabilities[::-1]) if rng.random() < 0.3 else p for p in make_preferences(120)
    ]
    unseen, loss = make_preferences(300, seed=9), {}
    for weight in (0.0, 1.0):
        model = make_model(replace(MLP, epochs=80, entropy_weight=weight, entropy_floor=1.0, aggregate="sum"))
        model.fit(noisy)
        beliefs = model.preference_probabilities([p.query for p in unseen])[0]
        loss[weight] = -np.mean(np.log(beliefs[np.arange(300), [p.best for p in unseen]]))
    assert loss[1.0] < loss[0.0]


def test_relabelling_with_an_mlp_sees_one_step() -> None:
    model, rng = make_model(), np.random.default_rng(0)
    episodes = Trajectories(rng.standard_normal((9, 3)), rng.standard_normal((9, 2)), np.array([4, 9]))
    expected = model.network(torch.from_numpy(np.hstack([episodes.observations, episodes.actions])).float())[0]
    np.testing.assert_allclose(model.relabel(episodes), expected.detach(), atol=1e-6)


@pytest.mark.parametrize("change", [{"samples": 0}, {"backbone": "lstm"}, {"entropy_weight": -1.0}])
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(change))):
        GaussianRewardConfig(**change)  # type: ignore[arg-type]
