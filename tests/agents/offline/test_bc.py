"""Behaviour cloning: its losses in plain NumPy, and which data the best share is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents import BC, BCConfig
from prefenvs.agents.offline.bc import choose_best, rate_segments
from prefenvs.agents.offline.tables import PairTable, RankedSegments
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query


@pytest.mark.parametrize("loss", ["nll", "mse"])
def test_the_loss_is_the_published_one(loss, make_dataset):
    dataset = make_dataset()
    learner = BC(dataset, config=BCConfig(loss=loss, hidden=(8,), batch_size=16), device="cpu")
    if loss == "nll":
        learner.actor.log_std.data.fill_(-0.7)
    state = learner.generator.get_state()
    chosen = torch.randint(len(learner.rows), (16,), generator=learner.generator)
    learner.generator.set_state(state)
    rows = learner.rows[chosen]
    o, a = learner.data.observations[rows].numpy(), learner.data.actions[rows].numpy()
    first, last = learner.actor.layers
    hidden = np.maximum(o @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    mean = np.tanh(hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy())
    if loss == "mse":
        expected = ((mean - a) ** 2).sum(1).mean()
    else:
        std = np.exp(-0.7)
        density = np.exp(-((a - mean) ** 2) / (2 * std**2)) / (std * np.sqrt(2 * np.pi))
        expected = -np.log(density).sum(1).mean()
    assert float(learner._update()["bc_loss"]) == pytest.approx(expected, rel=1e-4)


def table(pairs, targets):
    starts = torch.tensor(pairs) * 10
    return PairTable(starts, torch.full_like(starts, 5), torch.tensor(targets), 5)


def test_win_rate_counts_ties_as_half():
    starts, lengths, strengths = rate_segments(
        table([[0, 1], [0, 2], [1, 2]], [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), "win_rate"
    )
    assert starts.tolist() == [0, 10, 20]
    assert lengths.tolist() == [5, 5, 5]
    np.testing.assert_allclose(strengths, [0.75, 0.0, 0.75])


def test_bradley_terry_knows_who_was_beaten():
    """Segment 2 beat the strong segment 1, segment 3 the weak segment 0: one win each, of unequal worth."""
    pairs = table([[1, 0]] * 5 + [[2, 1], [3, 0]], [[1.0, 0.0]] * 7)
    wins, strengths = (rate_segments(pairs, by)[2] for by in ("win_rate", "bradley_terry"))
    assert wins[2] == wins[3] == 1.0
    assert strengths[2] > strengths[3]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.floats(0, 1)), min_size=1, max_size=12))
def test_bradley_terry_strengths_are_where_the_gradient_vanishes(rows):
    rows = [(i, j, p) for i, j, p in rows if i != j] or [(0, 1, 1.0)]
    pairs = table([[i, j] for i, j, _ in rows], [[p, 1 - p] for _, _, p in rows])
    starts, _, strengths = rate_segments(pairs, "bradley_terry", prior=0.1)
    position = {start: k for k, start in enumerate(starts.tolist())}
    slope = 0.1 * strengths
    for i, j, p in rows:
        a, b = position[10 * i], position[10 * j]
        expected = 1 / (1 + np.exp(strengths[b] - strengths[a]))
        slope[a] += expected - p
        slope[b] -= expected - p
    np.testing.assert_allclose(slope, 0.0, atol=1e-3)


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9), min_size=1, max_size=30), st.floats(0.01, 1.0))
def test_the_best_share(strengths, share):
    strengths = np.asarray(strengths)
    best = choose_best(strengths, share)
    assert len(set(best.tolist())) == len(best) == max(int(np.ceil(share * len(strengths) - 1e-9)), 1)
    rest = np.delete(strengths, best)
    assert not len(rest) or strengths[best].min() >= rest.max()


def test_only_the_preferred_segments_are_cloned(make_dataset):
    dataset = make_dataset()
    segments = dataset.trajectories.cut(np.array([0, 1, 2, 3]), np.array([0, 3, 6, 9]), 5)
    answers = [
        Preference(Query((segments[0], segments[1])), np.array([0.0, 1.0])),
        Preference(Query((segments[2], segments[3])), np.array([1.0, 0.0])),
        Preference(Query((segments[0], segments[3])), None),
    ]
    learner = BC(dataset, answers, BCConfig(best_share=0.5), device="cpu")
    assert learner.rows.tolist() == [*range(28, 33), *range(56, 61)]
    assert learner.labels == 2
    assert "best 50% of the labelled segments" in learner.learns_from
    ranking = RankedSegments(segments, np.array([0.1, 0.2, 0.3, 0.4]))
    ranked = BC(dataset, config=BCConfig(best_share=0.25), ranking=ranking, device="cpu")
    assert ranked.rows.tolist() == list(range(84, 89))


def test_the_best_share_by_return_says_so(make_dataset):
    dataset = make_dataset(episodes=10)
    returns = dataset.trajectories.returns
    learner = BC(dataset, config=BCConfig(best_share=0.2), returns=returns, device="cpu")
    episodes = sorted(set((learner.rows // 25).tolist()))
    assert episodes == sorted(np.argsort(returns)[-2:].tolist())
    assert learner.learns_from == "the best 20% of the episodes by given returns"
    with pytest.raises(PrefenvsError, match="one thing to tell the best by"):
        BC(dataset, config=BCConfig(best_share=0.2), device="cpu")
    with pytest.raises(PrefenvsError, match="has 10 episodes"):
        BC(dataset, config=BCConfig(best_share=0.2), returns=returns[:3], device="cpu")


@pytest.mark.parametrize("by", ["win_rate", "bradley_terry"])
def test_the_best_share_beats_all_data(by, make_dataset, prefer_by_regret, play):
    dataset = make_dataset(episodes=60)
    config = {"hidden": (32, 32), "batch_size": 128, "learning_rate": 3e-3, "loss": "mse"}
    clone = BC(dataset, config=BCConfig(**config), device="cpu").learn(300)
    best = BC(
        dataset, prefer_by_regret(dataset, 300), BCConfig(best_share=0.3, best_by=by, **config), device="cpu"
    ).learn(300)
    assert play(best) > play(clone) + 2.0
