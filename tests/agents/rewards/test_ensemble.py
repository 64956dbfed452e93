from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from prefenvs.agents.nets.mlp import stacked_linear
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query
from prefenvs.protocols import RewardModel

from ..worlds import make_preferences
from .small_ensemble import SMALL, make_model


def test_satisfies_the_protocol() -> None:
    assert isinstance(make_model(), RewardModel)


@pytest.mark.parametrize("k", [2, 3])
def test_learns_to_predict_unseen_preferences(k: int) -> None:
    model = make_model(replace(SMALL, epochs=60))
    metrics = model.fit(make_preferences(300, k=k))
    unseen = make_preferences(200, seed=1, k=k)
    beliefs = model.preference_probabilities([p.query for p in unseen]).mean(0)
    right = np.mean(beliefs.argmax(-1) == [p.best for p in unseen])
    assert metrics["accuracy"] > 0.9
    assert metrics["labels"] == metrics["decided"] == 300
    assert right > 0.85
    np.testing.assert_allclose(beliefs.sum(-1), 1.0, atol=1e-5)


def test_predict_keeps_leading_axes_and_agrees_with_forward_and_mean() -> None:
    model = make_model()
    rng = np.random.default_rng(0)
    observations, actions = rng.standard_normal((4, 700, 3)), rng.standard_normal((4, 700, 2))
    rewards = model.predict(observations, actions)
    assert rewards.shape == (3, 4, 700)
    assert rewards.dtype == np.float32
    x = torch.from_numpy(np.concatenate([observations, actions], -1).astype(np.float32))
    np.testing.assert_allclose(model.forward(x).detach().numpy(), rewards, atol=1e-6)
    mean, std = model.mean_and_std(observations, actions)
    np.testing.assert_allclose(mean, rewards.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, rewards.std(0), atol=1e-6)
    assert model.predict(observations[:0, 0], actions[:0, 0]).shape == (3, 0)
    assert model.predict(observations[0, 0], actions[0, 0]).shape == (3,)


@pytest.mark.parametrize(
    ("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1), ("relu", 0, np.inf), ("identity", -np.inf, np.inf)]
)
def test_output_function_bounds_the_reward(output: str, low: float, high: float) -> None:
    model = make_model(replace(SMALL, output=output))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    rewards = model.predict(1e3 * rng.standard_normal((500, 3)), 1e3 * rng.standard_normal((500, 2)))
    assert rewards.min() >= low
    assert rewards.max() <= high
    assert np.ptp(rewards) > 0


def test_members_differ() -> None:
    assert len(np.unique(make_model().predict(np.ones((5, 3)), np.ones((5, 2)))[:, 0])) == 3


def test_batched_path_equals_the_loop_over_members() -> None:
    """What other devices compute by batched products is what the CPU computes one member at a time."""
    network = make_model().network
    x = torch.randn(3, 6, 5)
    layers = [(weight.mT, bias.squeeze(1)) for weight, bias in zip(network.weights, network.biases, strict=True)]
    expected = network.output(network._chain(stacked_linear, x, layers))
    torch.testing.assert_close(network.forward_each(x), expected)
    torch.testing.assert_close(network(x[0])[1], network.forward_each(x[0].expand(3, 6, 5))[1])


def test_bfloat16_stays_close_and_learns() -> None:
    preferences, x = make_preferences(200), (np.ones((5, 3)), np.ones((5, 2)))
    exact, rough = make_model(), make_model(replace(SMALL, precision="bfloat16"))
    np.testing.assert_allclose(rough.predict(*x), exact.predict(*x), atol=0.02)
    assert rough.fit(preferences)["accuracy"] > 0.85
    assert rough.predict(*x).dtype == np.float32


# Files


def test_a_loaded_model_continues_as_the_saved_one(tmp_path) -> None:
    preferences = make_preferences(60)
    config = replace(SMALL, validation_share=0.1, epochs=4, surf=SurfConfig(margin=2, threshold=0.9, ratio=2))
    pool = [p.query for p in make_preferences(30, seed=4)]
    model = make_model(config)
    model.fit(preferences[:30], unlabelled=pool)
    model.save(tmp_path / "reward.pt")
    loaded = RewardEnsemble.load(tmp_path / "reward.pt", device="cpu", observation_size=3, action_size=2)
    assert loaded.config == config
    assert loaded.fit(preferences, unlabelled=pool) == model.fit(preferences, unlabelled=pool)
    x = np.ones((4, 3)), np.ones((4, 2))
    np.testing.assert_array_equal(loaded.predict(*x), model.predict(*x))


def test_files_that_do_not_fit_are_refused(tmp_path) -> None:
    model, path = make_model(), tmp_path / "reward.pt"
    model.save(path)
    with pytest.raises(PrefenvsError, match="observation_size=3, but the task has observation_size=17"):
        RewardEnsemble.load(path, observation_size=17)
    with pytest.raises(PrefenvsError, match="observation_size=3"):
        RewardEnsemble(4, 2, SMALL, device="cpu").load_state_dict(model.state_dict())
    with pytest.raises(PrefenvsError, match="width=32"):
        make_model(replace(SMALL, width=16)).load_state_dict(model.state_dict())
    with pytest.raises(PrefenvsError, match="there is no reward model"):
        RewardEnsemble.load(tmp_path / "none.pt")
    path.write_bytes(pickle.dumps({"format": print}, protocol=2))
    with pytest.raises(PrefenvsError, match="is not a reward model"):
        RewardEnsemble.load(path)


# Bad input


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_nan_is_refused_and_leaves_the_model_usable(name: str) -> None:
    preferences, model = make_preferences(10), make_model()
    array = getattr(preferences[4].query.segments[1], name)
    array[7, 1] = np.nan
    with pytest.raises(PrefenvsError, match=rf"{name} .* episode 9, step 7"):
        model.fit(preferences)
    array[7, 1] = 0.0
    assert model.fit(preferences)["labels"] == 10


def test_wrong_sizes_are_named() -> None:
    model = make_model()
    with pytest.raises(PrefenvsError, match=r"observations have shape \(10, 3\), the reward model takes \[steps, 4\]"):
        RewardEnsemble(4, 2, SMALL, device="cpu").fit(make_preferences(2))
    with pytest.raises(PrefenvsError, match="do not fit"):
        model.predict(np.zeros((5, 4)), np.zeros((5, 2)))
    with pytest.raises(PrefenvsError, match="do not fit"):
        model.mean_and_std(np.zeros((5, 3)), np.zeros((6, 2)))


@pytest.mark.parametrize(
    "change",
    [
        {"members": 0},
        {"flip_rate": 0.5},
        {"output": "softplus"},
        {"stop": "validation"},
        {"validation_share": 1.0},
        {"learning_rate": float("nan")},
    ],
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(change)).removesuffix("_share")):
        RewardConfig(**change)  # type: ignore[arg-type]


def test_normalised_observations_are_those_of_the_labelled_steps() -> None:
    """A model of small positions far from 0 learns what one of their multiples does, and its state keeps the scale."""
    plain = make_preferences(200)
    small = [
        replace(p, query=Query(tuple(replace(s, observations=5.0 + 1e-2 * s.observations) for s in p.query.segments)))
        for p in plain
    ]
    config = replace(SMALL, epochs=40, normalise=True)
    models = [make_model(config), make_model(config)]
    accuracies = [model.fit(preferences)["accuracy"] for model, preferences in zip(models, (plain, small), strict=True)]
    assert min(accuracies) > 0.9
    steps = np.concatenate([s.observations for p in small for s in p.query.segments])
    np.testing.assert_allclose(models[1].network.mean.numpy(), [*steps.mean(0), 0.0, 0.0], atol=1e-4)
    np.testing.assert_allclose(models[1].network.std.numpy(), [*(steps.std(0) + 1e-3), 1.0, 1.0], rtol=1e-3)
    observations, actions = np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32)
    again = make_model(config)
    again.load_state_dict(models[1].state_dict())
    np.testing.assert_array_equal(again.predict(observations, actions), models[1].predict(observations, actions))
