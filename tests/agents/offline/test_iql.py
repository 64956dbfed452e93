"""IQL: each loss against its formula in plain NumPy, rewards by episode, and what it learns from mixed data."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents import BC, IQL, BCConfig, IQLConfig, RewardConfig, RewardEnsemble
from prefenvs.agents.offline.iql import advantage_weights, expectile_loss, fit_reward_models, transform_rewards
from prefenvs.errors import PrefenvsError

UNIT = {"hidden": (16,), "batch_size": 32}


def layers(state, prefix, member=None):
    """Weights [out, in] and biases [out] of a saved network, in order."""
    names = sorted(name.removesuffix(".weight") for name in state if name.startswith(prefix) and "weight" in name)
    pick = (lambda x: x) if member is None else (lambda x: x[member])
    return [(pick(state[f"{n}.weight"].numpy()), pick(state[f"{n}.bias"].numpy())) for n in names]


def forward(network, x):
    for i, (weight, bias) in enumerate(network):
        x = x @ weight.T + bias
        x = np.maximum(x, 0.0) if i < len(network) - 1 else x
    return x.astype(np.float64)


def numpy_losses(before, batch, config):
    """Equations 5 to 7 of the paper, from the weights before the step, by loops over nothing but members."""
    o, a, o2, r, d = (part.numpy().astype(np.float64) for part in batch)
    pairs = np.concatenate([o, a], 1)
    q_bar = np.min([forward(layers(before["targets"], "", k), pairs)[:, 0] for k in range(2)], axis=0)
    v, v2 = (forward(layers(before["value"], "", 0), x)[:, 0] for x in (o, o2))
    u = q_bar - v
    value_loss = np.mean(np.abs(config.expectile - (u < 0)) * u**2)
    target = r + config.discount * d * v2
    critic_loss = np.mean([(target - forward(layers(before["critics"], "", k), pairs)[:, 0]) ** 2 for k in range(2)])
    mean = np.tanh(forward(layers(before["actor"], "layers"), o))
    weight = np.minimum(np.exp(config.inv_temperature * u), config.weight_clip)
    if config.deterministic:
        log_prob = -np.sum((mean - a) ** 2, axis=1)
    else:
        std = np.exp(before["actor"]["log_std"].numpy())
        log_prob = np.sum(-((a - mean) ** 2) / (2 * std**2) - np.log(std) - np.log(2 * np.pi) / 2, axis=1)
    return {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": -np.mean(weight * log_prob)}


@pytest.mark.parametrize("deterministic", [False, True])
def test_losses_are_the_published_ones(deterministic, make_dataset):
    dataset = make_dataset(episodes=8)
    config = IQLConfig(
        deterministic=deterministic, expectile=0.8, inv_temperature=2.5, weight_clip=1.3, discount=0.9, **UNIT
    )
    rewards = np.random.default_rng(0).normal(size=200)
    learner = IQL(dataset, config=config, rewards=rewards, device="cpu").learn(30)
    if not deterministic:
        learner.actor.log_std.data.fill_(-0.4)
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in learner._modules().items()}
    state = learner.generator.get_state()
    batch = learner.data.draw(config.batch_size, learner.generator)
    learner.generator.set_state(state)
    figures = learner._update()
    for name, expected in numpy_losses(before, batch, config).items():
        assert float(figures[name]) == pytest.approx(expected, rel=1e-4), name


def test_targets_follow_the_critics_slowly(make_dataset):
    config = IQLConfig(target_rate=0.25, **UNIT)
    learner = IQL(make_dataset(), config=config, rewards=np.arange(300.0), device="cpu")
    learner._total_timesteps = 1
    old = [p.clone() for p in learner.targets.parameters()]
    learner._update()
    for before, target, online in zip(old, learner.targets.parameters(), learner.critics.parameters(), strict=True):
        torch.testing.assert_close(target, 0.75 * before + 0.25 * online)


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=20), st.floats(0.01, 0.99))
def test_expectile_loss(errors, tau):
    u = torch.tensor(errors, dtype=torch.float64)
    torch.testing.assert_close(expectile_loss(u, 0.5), 0.5 * u**2)
    torch.testing.assert_close(expectile_loss(u, tau) + expectile_loss(-u, tau), u**2)
    assert (expectile_loss(u, tau) >= 0).all()


def test_the_expectile_goes_to_the_maximum():
    targets = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=torch.float64)
    grid = torch.linspace(0, 10, 10001, dtype=torch.float64)
    minimisers = [
        float(grid[expectile_loss(targets[:, None] - grid, tau).mean(0).argmin()]) for tau in (0.5, 0.9, 0.9999)
    ]
    assert minimisers == sorted(minimisers)
    assert minimisers[0] == pytest.approx(float(targets.mean()))
    assert minimisers[-1] == pytest.approx(10.0, abs=0.02)


def test_weights_are_clipped_and_do_not_overflow():
    weights = advantage_weights(torch.tensor([-1e4, 0.0, 0.5, 1e4]), 3.0, 100.0)
    np.testing.assert_allclose(weights, [0.0, 1.0, np.exp(1.5), 100.0], rtol=1e-5)


def test_rewards_are_scaled_by_whole_episodes():
    """An episode of two steps and one of three, of returns 3 and 12: the range is 9."""
    rewards, begins, ends = np.array([1.0, 2.0, 4.0, 4.0, 4.0]), np.array([0, 2]), np.array([2, 5])
    np.testing.assert_allclose(transform_rewards(rewards, begins, ends, "range"), rewards * 1000 / 9)
    np.testing.assert_allclose(transform_rewards(rewards, begins, ends, "none", -1.0), rewards - 1)
    shifted = transform_rewards(rewards, begins, ends, "range_from_min")
    np.testing.assert_allclose(np.add.reduceat(shifted, begins), [0.0, 1000.0], atol=1e-9)
    with pytest.raises(PrefenvsError, match="same return"):
        transform_rewards(np.ones(6), np.array([0, 3]), np.array([3, 6]), "range")


def test_the_actors_rate_alone_falls_along_a_cosine(make_dataset):
    learner = IQL(make_dataset(), config=IQLConfig(**UNIT), rewards=np.arange(300.0), device="cpu").learn(10)
    values, actor = (group["lr"] for group in learner.optimiser.param_groups)
    assert values == 3e-4
    assert actor == pytest.approx(3e-4 * 0.5 * (1 + np.cos(np.pi * 0.9)))


def test_one_source_of_rewards(make_dataset, prefer):
    dataset = make_dataset()
    for sources in ({}, {"preferences": prefer(dataset, 4), "rewards": np.zeros(300)}):
        with pytest.raises(PrefenvsError, match="one source of rewards"):
            IQL(dataset, **sources, device="cpu")
    with pytest.raises(PrefenvsError, match="has 300 steps"):
        IQL(dataset, rewards=np.zeros(12), device="cpu")


def test_a_reward_model_labels_the_data(make_dataset):
    dataset = make_dataset()
    model = RewardEnsemble(2, 1, RewardConfig(members=2, layers=1, width=8), seed=1, device="cpu")
    learner = IQL(dataset, reward_model=model, config=IQLConfig(reward_rule="none", **UNIT), device="cpu")
    data = dataset.trajectories
    expected = model.predict(data.observations, data.actions).mean(0)
    np.testing.assert_allclose(learner.data.rewards, expected[learner.data.rows], rtol=1e-6)
    assert learner.learns_from == "preferences"


def test_reward_models_of_seeds_are_those_of_each_learner_and_their_faults_are_told(make_dataset, prefer):
    dataset, seeds = make_dataset(), [3, 4]
    config = IQLConfig(**UNIT, normalise_observations=True, reward=RewardConfig(width=16, layers=1, epochs=5))
    labels = [prefer(dataset, 20, seed=seed) for seed in seeds]
    fitted = fit_reward_models(dataset, config, labels, seeds, "cpu")
    states, actions = dataset.trajectories.observations[:50], dataset.trajectories.actions[:50]
    for (model, figures), own, seed in zip(fitted, labels, seeds, strict=True):
        alone = IQL(dataset, own, config, seed=seed, device="cpu")
        np.testing.assert_allclose(model.predict(states, actions), alone.reward_model.predict(states, actions), 1e-4)
        assert figures["accuracy"] == pytest.approx(alone.reward_figures["accuracy"])
    labels[1][0].query.segments[0].observations[0] = np.nan
    with pytest.raises(PrefenvsError, match="hold a NaN"):
        fit_reward_models(dataset, config, labels, seeds, "cpu")


@pytest.mark.parametrize("source", ["given rewards", "preferences"])
def test_it_beats_cloning_on_mixed_data(source, make_dataset, prefer, play):
    """Half of the episodes walk away from the goal, so a clone stands still; IQL walks to it."""
    dataset = make_dataset(episodes=60)
    config = {"hidden": (32, 32), "batch_size": 128, "learning_rate": 3e-3}
    clone = BC(dataset, config=BCConfig(**config), device="cpu").learn(300)
    # Episodes are short here: scaled to their length, rewards would teach too little in so few steps.
    reward = RewardConfig(members=2, layers=2, width=32, epochs=20)
    own = IQLConfig(reward_rule="range", return_range=1_000.0, reward=reward, **config)
    if source == "preferences":
        learner = IQL(dataset, prefer(dataset, 150), own, device="cpu")
    else:
        learner = IQL(dataset, config=own, rewards=dataset.trajectories.true_rewards, device="cpu")
    assert learner.learns_from == source
    learner.learn(400)
    # The best an episode can do is about -3.
    assert play(learner) > -6.0
    assert play(learner) > play(clone) + 4.0


def test_values_are_in_units_of_the_given_rewards(make_dataset, tmp_path):
    """A learner of true rewards serves a rater of regret; walking to the goal has less regret than walking away."""
    dataset = make_dataset(episodes=60)
    data = dataset.trajectories
    config = IQLConfig(hidden=(32, 32), batch_size=128, learning_rate=3e-3, discount=0.9, target_rate=0.02)
    learner = IQL(dataset, config=config, rewards=data.true_rewards, device="cpu").learn(800)
    values = learner.value(data.observations)
    # Standing at the goal is worth nothing, standing still at distance 1 is worth at least -1 / (1 - 0.9).
    assert abs(learner.value(np.array([[1.0, 0.5]]))[0]) < 2.0
    assert np.corrcoef(values, -np.abs(data.observations[:, 0] - 1.0))[0, 1] > 0.9
    expert = IQL.load(learner.save(tmp_path / "expert"), device="cpu")
    np.testing.assert_allclose(expert.value(data.observations), values, rtol=1e-5, atol=1e-5)
    segments = data.sample(200, 5, np.random.default_rng(0))
    advantages = expert.advantage(segments.observations, segments.actions)
    assert advantages.shape == (200, 5)
    towards = segments.actions[..., 0].sum(1) > 2
    away = segments.actions[..., 0].sum(1) < -2
    assert advantages[towards].mean() > advantages[away].mean()
