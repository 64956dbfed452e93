"""CPL: each loss against its formula in plain NumPy, its stages, and what it learns from mixed data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents import BC, CPL, BCConfig, CPLConfig
from prefenvs.agents.offline.actor import TanhActor, random_bytes
from prefenvs.agents.offline.cpl import pair_loss, ranking_loss, segment_scores
from prefenvs.agents.offline.tables import RankedSegments
from prefenvs.agents.rewards.losses import preference_loss
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query

SMALL = {"hidden": (16,), "batch_size": 8, "warmup_updates": 0}
finite = st.floats(-8, 8)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def plain_loss(g, p, lam):
    """-log(exp(g+) / (exp(g+) + exp(lambda g-))), each side weighted by the chance that it is preferred."""
    sides = [-np.log(np.exp(g[k]) / (np.exp(g[k]) + np.exp(lam * g[1 - k]))) for k in (0, 1)]
    return p[0] * sides[0] + p[1] * sides[1]


@settings(deadline=None)
@given(st.lists(st.tuples(finite, finite, st.sampled_from([0.0, 0.5, 1.0, 0.3])), min_size=1, max_size=8))
def test_the_pair_loss_is_the_published_one(rows):
    scores, targets = double([r[:2] for r in rows]), double([(r[2], 1 - r[2]) for r in rows])
    for lam in (0.5, 0.75, 1.0):
        expected = [plain_loss(np.array(g), p, lam) for g, p in zip(scores.tolist(), targets.tolist(), strict=True)]
        np.testing.assert_allclose(pair_loss(scores, targets, lam), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(pair_loss(scores, targets, 1.0), preference_loss(scores, targets))


def test_scores_are_discounted_sums():
    rng = np.random.default_rng(0)
    log_probs, inside = rng.normal(size=(3, 2, 7)), rng.random((3, 2, 7)) < 0.7
    expected = np.zeros((3, 2))
    for t in range(7):
        expected += 0.9**t * 0.2 * log_probs[..., t] * inside[..., t]
    np.testing.assert_allclose(segment_scores(double(log_probs), 0.2, 0.9, torch.from_numpy(inside)), expected)


@settings(deadline=None)
@given(st.lists(st.tuples(finite, st.integers(0, 3)), min_size=2, max_size=7), st.sampled_from([0.5, 1.0]))
def test_the_ranking_loss_is_the_mean_over_all_pairs(rows, lam):
    scores, ranks = double([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
    losses = [
        plain_loss((rows[i][0], rows[j][0]), (p := np.heaviside(rows[i][1] - rows[j][1], 0.5), 1 - p), lam)
        for i in range(len(rows))
        for j in range(i)
    ]
    assert float(ranking_loss(scores, ranks, lam)) == pytest.approx(np.mean(losses))


@settings(deadline=None)
@given(finite, finite, st.floats(0.01, 0.45), st.sampled_from([0.5, 1.0]))
def test_the_unbiased_loss_averages_to_the_clean_one_over_flips(first, second, rate, lam):
    scores = double([[first, second]]) / 2  # where no logarithm is cut
    clean, flipped = double([[1.0, 0.0]]), double([[0.0, 1.0]])
    robust = [pair_loss(scores, labels, lam, rate) for labels in (clean, flipped)]
    mean = (1 - rate) * robust[0] + rate * robust[1]
    torch.testing.assert_close(mean, pair_loss(scores, clean, lam), rtol=1e-8, atol=1e-10)


def test_the_other_corrections():
    d, e = 1.7, 0.2
    scores, labels = double([[d, 0.0]]), double([[1.0, 0.0]])
    chance = 1 / (1 + np.exp(-d))
    forward = -np.log((1 - e) * chance + e * (1 - chance))
    smoothed = -(1 - e) * np.log(chance) - e * np.log(1 - chance)
    assert float(pair_loss(scores, labels, 1.0, e, "forward")) == pytest.approx(forward)
    assert float(pair_loss(scores, labels, 1.0, e, "smoothing")) == pytest.approx(smoothed)


def test_the_unbiased_loss_stops_falling():
    labels = double([[1.0, 0.0]])
    far, farther = (float(pair_loss(double([[d, 0.0]]), labels, 1.0, 0.2)) for d in (50.0, 500.0))
    assert far == pytest.approx(farther)


def actor_outputs(learner, observations):
    x = observations.double().numpy()
    state = {name: value.double().numpy() for name, value in learner.actor.state_dict().items()}
    for i in range(len(learner.actor.layers)):
        x = x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
        x = np.maximum(x, 0.0) if i < len(learner.actor.layers) - 1 else np.tanh(x)
    return x, state.get("log_std")


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("variant", ["plain", "bc", "kl"])
def test_the_loss_of_a_batch(variant, gaussian, make_dataset, prefer):
    dataset = make_dataset()
    config = CPLConfig(
        pretrain_updates=3, dropout=0.0, gaussian=gaussian, discount=0.9, kl=variant == "kl", alpha=0.3,
        bc_coefficient=0.7 if variant == "bc" else 0.0, conservative=0.75, learning_rate=1e-2, **SMALL,
    )  # fmt: skip
    learner = CPL(dataset, prefer(dataset, 30), config, device="cpu").learn(8)
    drawn = learner._draw()
    loss, _ = learner._loss(drawn)
    targets = drawn["targets"]
    assert "inside" not in drawn

    def log_prob(actor_of):
        mean, log_std = actor_outputs(actor_of, drawn["observations"])
        error = drawn["actions"].double().numpy() - mean
        if log_std is None:
            return -(error**2).sum(-1)
        std = np.exp(log_std)
        return (-(error**2) / (2 * std**2) - np.log(std) - 0.5 * np.log(2 * np.pi)).sum(-1)

    log_probs = scored = log_prob(learner)
    if variant == "kl":
        trained = learner.actor
        learner.actor = learner.reference
        scored = log_probs - log_prob(learner)
        learner.actor = trained
    scores = (scored * 0.3 * 0.9 ** np.arange(5)).sum(-1)
    expected = np.mean([plain_loss(g, p, 0.75) for g, p in zip(scores, targets.numpy(), strict=True)])
    if variant == "bc":
        expected -= 0.7 * log_probs.mean()
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_cloning_comes_first_and_its_optimiser_is_forgotten(make_dataset, prefer):
    dataset = make_dataset()
    config = CPLConfig(pretrain_updates=6, kl=True, rate_factor=0.5, **SMALL | {"warmup_updates": 4})
    learner = CPL(dataset, prefer(dataset, 20), config, device="cpu")
    learner._total_timesteps = 20
    for _ in range(6):
        assert set(learner._update()) == {"bc_loss"}
        learner.num_timesteps += 1
    cloned = [p.clone() for p in learner.actor.parameters()]
    rates = []
    for _ in range(6):
        assert "contrastive_loss" in learner._update()
        rates.append(learner.optimiser.param_groups[0]["lr"])
        learner.num_timesteps += 1
    np.testing.assert_allclose(rates, 0.5e-4 * np.array([0.25, 0.5, 0.75, 1, 1, 1]))
    assert {int(entry["step"]) for entry in learner.optimiser.state.values()} == {6}
    for before, reference in zip(cloned, learner.reference.parameters(), strict=True):
        assert torch.equal(before, reference)
    with pytest.raises(PrefenvsError, match="lower pretrain_updates"):
        learner.learn(6)
    with pytest.raises(PrefenvsError, match="pretrain_updates=0 clones none"):
        CPL(dataset, prefer(dataset, 20), replace(config, pretrain_updates=0), device="cpu").learn(6)


def test_segments_of_different_lengths_count_their_own_steps(make_dataset):
    dataset = make_dataset()
    long, short = (dataset.trajectories.cut([i], [20 - i], n) for i, n in ((0, 5), (1, 3)))
    preference = Preference(Query((long[0], short[0])), np.array([1.0, 0.0]))
    learner = CPL(dataset, [preference], CPLConfig(dropout=0.0, **SMALL), device="cpu")
    drawn = learner._draw()
    assert drawn["inside"].sum(-1).unique(dim=0).tolist() == [[5, 3]]
    assert torch.equal(drawn["observations"][0, 1, :3], learner.data.observations[44:47])


def test_dropout_acts_in_training_alone(make_dataset, prefer):
    dataset = make_dataset()
    learner = CPL(dataset, prefer(dataset, 4), CPLConfig(dropout=0.5, **SMALL), device="cpu")
    observations = learner.data.observations[:200]
    assert torch.equal(learner.actor(observations), learner.actor(observations))
    dropped = [learner.actor.draw_dropped((200,), learner.generator) for _ in range(400)]
    outputs = torch.stack([learner.actor(observations, units) for units in dropped])
    assert outputs.std(0).min() > 0


def test_dropout_is_that_of_the_textbook():
    """Units are dropped alike often, the rest scaled so that the mean stays, and gradients pass where units do."""
    actor = TanhActor(3, 2, (64,), dropout=0.25)
    generator = torch.Generator().manual_seed(0)
    taken = torch.stack([random_bytes(torch.Size((9, 9)), generator) for _ in range(4000)]).double()
    assert abs(taken.mean() - 127.5) < 0.5
    np.testing.assert_allclose(taken.mean(0), 127.5, atol=6.0)
    np.testing.assert_allclose(taken.var(0), (256**2 - 1) / 12, rtol=0.1)
    observations = torch.randn(5, 3)
    state = generator.get_state()
    mask = (random_bytes(torch.Size((5, 64)), generator) >= 64) / 0.75
    generator.set_state(state)
    expected = torch.tanh(actor.layers[1](torch.relu(actor.layers[0](observations)) * mask))
    dropped = actor.draw_dropped((5,), generator)
    torch.testing.assert_close(actor(observations, dropped), expected)
    wanted = torch.autograd.grad(expected.square().sum(), list(actor.layers.parameters()))
    gradients = torch.autograd.grad(actor(observations, dropped).square().sum(), list(actor.layers.parameters()))
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other)


def test_a_rate_of_dropout_near_1_leaves_some_units():
    actor, generator = TanhActor(3, 2, (64,), dropout=0.999), torch.Generator().manual_seed(0)
    outputs = actor(torch.randn(5, 3, generator=generator), actor.draw_dropped((5,), generator))
    assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("dense", [False, True])
def test_it_beats_cloning_on_mixed_data(dense, make_dataset, prefer_by_regret, regret, play):
    dataset = make_dataset(episodes=60)
    network = {"hidden": (32, 32), "learning_rate": 3e-3}
    clone = BC(dataset, config=BCConfig(batch_size=128, **network), device="cpu").learn(300)
    config = CPLConfig(
        pretrain_updates=100, warmup_updates=20, batch_size=32, alpha=0.2, dropout=0.1, pretrain_batch=64, **network
    )
    if dense:
        segments = dataset.trajectories.sample(80, 5, np.random.default_rng(0))
        ranking = RankedSegments(segments, -regret(segments.observations, segments.actions).sum(1))
        learner = CPL(dataset, config=config, ranking=ranking, device="cpu")
    else:
        learner = CPL(dataset, prefer_by_regret(dataset, 300), config, device="cpu")
    learner.learn(500)
    assert play(learner) > -6.0
    assert play(learner) > play(clone) + 4.0
