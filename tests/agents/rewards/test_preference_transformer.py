from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefenvs.agents.nets.transformer import StepTransformer
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from prefenvs.agents.rewards.relabel import relabel
from prefenvs.agents.rewards.segment import rate_factor
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.protocols import RewardModel
from prefenvs.trajectories import Trajectories

from ..worlds import make_preferences

SMALL = PreferenceTransformerConfig(width=16, heads=2, epochs=40, batch_size=40)


def make_model(config: PreferenceTransformerConfig = SMALL, seed: int = 0) -> PreferenceTransformer:
    return PreferenceTransformer(3, 2, config, seed=seed, device="cpu")


def make_episodes(lengths: list[int], seed: int = 0) -> Trajectories:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    observations = rng.standard_normal((total, 3)).astype(np.float32)
    return Trajectories(observations, rng.uniform(-1, 1, (total, 2)).astype(np.float32), np.cumsum(lengths))


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
def test_scores_and_loss_are_the_published_formula(aggregate: str) -> None:
    model = make_model(replace(SMALL, aggregate=aggregate))  # type: ignore[arg-type]
    preferences = make_preferences(6, steps=7)
    inputs = np.stack(
        [[np.concatenate([s.observations, s.actions], -1) for s in p.query.segments] for p in preferences]
    )
    targets = np.stack([p.probabilities for p in preferences])
    targets[0] = 0.5
    outputs = model.network(torch.from_numpy(inputs.reshape(12, 7, 5))).detach().numpy().astype(np.float64)
    scores = np.zeros(12)
    for segment in range(12):
        for i in range(7):
            products = [np.dot(outputs[segment, i, :16], outputs[segment, j, 16:32]) for j in range(7)]
            weights = np.exp(products) / np.sum(np.exp(products))
            scores[segment] += sum(weights[j] * outputs[segment, j, 32] for j in range(7))
    scores = (scores / 7 if aggregate == "mean" else scores).reshape(6, 2)
    beliefs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = -(targets * np.log(beliefs)).sum(1)
    losses = model.losses(torch.from_numpy(inputs), None, None, torch.from_numpy(targets).float())
    np.testing.assert_allclose(losses.detach(), expected, rtol=1e-4)
    np.testing.assert_allclose(
        model.preference_probabilities([p.query for p in preferences])[0], beliefs, rtol=1e-4, atol=1e-6
    )


def test_equal_rewards_are_weighted_to_themselves() -> None:
    """Attention weights sum to 1, so a constant reward passes the preference layer unchanged."""
    outputs = torch.randn(4, 9, 33)
    outputs[..., -1] = 0.7
    inside = torch.arange(9) < torch.tensor([9, 5, 2, 1])[:, None]
    torch.testing.assert_close(make_model().network.weigh(outputs, inside)[inside], torch.full((17,), 0.7))


def test_a_reward_depends_on_the_past_alone() -> None:
    model = make_model(replace(SMALL, layers=2))
    inputs = torch.randn(1, 8, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.step_rewards(inputs)[0, 4], inputs)
    assert (gradient[0, 5:] == 0).all()
    assert (gradient[0, :5].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("layers", [1, 2])
def test_the_last_step_alone_is_the_last_of_all(layers: int) -> None:
    model, inputs = make_model(replace(SMALL, layers=layers)), torch.randn(5, 6, 5)
    torch.testing.assert_close(model.step_rewards(inputs, last=True), model.step_rewards(inputs)[:, -1:])


@pytest.mark.parametrize("causal", [True, False])
def test_action_tokens_alone_are_those_of_all_tokens(causal: bool) -> None:
    steps = StepTransformer(3, 2, width=16, layers=2, heads=2, dropout=0.1, positions=10, causal=causal).eval()
    inputs, inside = torch.randn(4, 7, 5), torch.arange(7) < torch.tensor([[7], [3], [5], [1]])
    for mask in (None, inside):
        whole = steps(inputs, inside=mask)[:, :, 1]
        torch.testing.assert_close(steps.of_actions(inputs, mask), whole)
        torch.testing.assert_close(steps.of_actions(inputs, mask, last=True), whole[:, -1:])


def test_relabelling_is_a_loop_over_windows() -> None:
    """Each step's reward is that of the window that ends there and stays inside its episode."""
    model, episodes = make_model(), make_episodes([3, 11, 1, 6])
    model.context = 4
    inputs = torch.from_numpy(np.concatenate([episodes.observations, episodes.actions], 1))
    expected = []
    for begin, end in zip(episodes.begins, episodes.ends, strict=True):
        for t in range(begin, end):
            window = inputs[max(begin, t - 3) : t + 1]
            expected.append(model.step_rewards(window[None])[0, -1].item())
    np.testing.assert_allclose(model.relabel(episodes), expected, atol=1e-5)
    whole = model.predict(episodes.observations[3:14], episodes.actions[3:14])
    np.testing.assert_allclose(whole[0], expected[3:14], atol=1e-5)


def test_relabel_takes_any_reward_model() -> None:
    episodes, transformer, ensemble = make_episodes([3, 8]), make_model(), RewardEnsemble(3, 2, device="cpu")
    transformer.context = 4
    np.testing.assert_array_equal(relabel(transformer, episodes), transformer.relabel(episodes))
    expected = ensemble.predict(episodes.observations, episodes.actions).mean(0)
    np.testing.assert_allclose(relabel(ensemble, episodes), expected, atol=1e-6)
    with torch.no_grad():
        transformer.network.head.bias[-1] = torch.nan
    with pytest.raises(PrefenvsError, match="nan at step 0"):
        relabel(transformer, episodes)


def test_predict_takes_the_last_leading_axis_as_time() -> None:
    model, rng = make_model(), np.random.default_rng(0)
    model.context = 5
    observations, actions = rng.standard_normal((4, 6, 3)), rng.standard_normal((4, 6, 2))
    rewards = model.predict(observations, actions)
    assert rewards.shape == (1, 4, 6)
    assert rewards.dtype == np.float32
    np.testing.assert_allclose(model.predict(observations[2], actions[2]), rewards[:, 2], atol=1e-6)
    assert model.predict(observations[0, 0], actions[0, 0]).shape == (1,)
    np.testing.assert_allclose(model.predict(observations[0, 0], actions[0, 0]), rewards[:, 0, 0], atol=1e-6)
    with pytest.raises(PrefenvsError, match="do not fit"):
        model.predict(observations[..., :2], actions)


@pytest.mark.parametrize("change", [{}, {"attention": False}, {"scaled": True}, {"aggregate": "sum"}])
def test_learns_to_predict_unseen_preferences(change: dict[str, object]) -> None:
    model = make_model(replace(SMALL, **change))  # type: ignore[arg-type]
    assert isinstance(model, RewardModel)
    metrics = model.fit(make_preferences(200))
    unseen = make_preferences(200, seed=1)
    beliefs = model.preference_probabilities([p.query for p in unseen])[0]
    assert metrics["labels"] == metrics["decided"] == 200
    assert metrics["accuracy"] > 0.8
    assert np.mean(beliefs.argmax(-1) == [p.best for p in unseen]) > 0.75
    assert model.context == 10


def test_padding_changes_neither_scores_nor_loss() -> None:
    pair, longer = make_preferences(1), make_preferences(1, steps=17, k=3, seed=2)
    model = make_model()
    alone = model.preference_probabilities([p.query for p in pair])
    beside = model.preference_probabilities([p.query for p in pair + longer])
    np.testing.assert_allclose(beside[:, 0, :2], alone[:, 0], atol=1e-6)
    assert beside[0, 0, 2] == 0
    long, short = longer[0].query.segments[0], pair[0].query.segments[1]
    one = Preference(Query((long, short)), np.array([1.0, 0.0]))
    metrics = make_model(replace(SMALL, epochs=1, dropout=0.0)).fit([one])
    before = make_model(replace(SMALL, epochs=1, dropout=0.0)).preference_probabilities([one.query])[0, 0, 0]
    assert metrics["loss"] == pytest.approx(-math.log(before), rel=1e-4)


def test_a_file_keeps_how_far_a_reward_looks_back(tmp_path) -> None:
    model = make_model(replace(SMALL, epochs=2))
    model.fit(make_preferences(20))
    model.save(tmp_path / "reward.pt")
    assert PreferenceTransformer.load(tmp_path / "reward.pt", device="cpu").context == model.context == 10
    with pytest.raises(PrefenvsError, match="takes observations"):
        PreferenceTransformer(4, 2, SMALL, device="cpu").load_state_dict(model.state_dict())


def test_the_learning_rate_rises_tenfold_and_comes_back() -> None:
    config = PreferenceTransformerConfig()
    factors = [rate_factor(step, 1000, config) for step in range(1001)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(5.5)
    assert max(factors) == factors[100] == pytest.approx(10.0)
    assert factors[550] == pytest.approx(5.5)
    assert factors[1000] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"aggregate": "max"}, {"learning_rate": 0.0}, {"validation_share": 1.0}, {"heads": 0}],
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(change))):
        PreferenceTransformerConfig(**change)  # type: ignore[arg-type]


def test_bad_input_is_named() -> None:
    preferences = make_preferences(3)
    preferences[1].query.segments[0].observations[4, 0] = np.nan
    with pytest.raises(PrefenvsError, match="NaN"):
        make_model().fit(preferences)
    with pytest.raises(PrefenvsError, match="more than the transformer's 8 positions"):
        make_model(replace(SMALL, positions=8)).fit(make_preferences(3))
    with pytest.raises(PrefenvsError, match="multiple of heads"):
        make_model(replace(SMALL, heads=3))
