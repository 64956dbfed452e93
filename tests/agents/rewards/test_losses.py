from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.rewards.losses import credit_labels, is_decided, preference_loss, score_returns
from prefenvs.agents.rewards.options.surf import SurfConfig, centre_query, crop_returns, pseudo_label_loss
from prefenvs.errors import PrefenvsError
from prefenvs.frames.recording import Camera, Recording
from prefenvs.preferences import Preference, Query

from ..worlds import make_preferences, true_reward
from .small_ensemble import SMALL, make_model


def finite(shape: tuple[int, ...], size: float = 3.0) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, shape, elements=st.floats(-size, size))


@given(finite((5, 2)), st.floats(0, 1))
def test_two_segments_are_bradley_terry(returns: np.ndarray, p: float) -> None:
    target = torch.tensor([p, 1 - p], dtype=torch.float64).expand(5, 2)
    difference = torch.from_numpy(returns[:, 0] - returns[:, 1])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(difference, target[:, 0], reduction="none")
    torch.testing.assert_close(preference_loss(torch.from_numpy(returns), target), expected)


@given(finite((4, 3)), st.floats(0.01, 0.45))
def test_the_unbiased_loss_averages_to_the_clean_one_over_flips(returns: np.ndarray, rate: float) -> None:
    scores, labels = torch.from_numpy(returns), torch.eye(3, dtype=torch.float64)
    clean = preference_loss(scores, labels[0])
    noisy = torch.stack([preference_loss(scores, label, flip_rate=rate) for label in labels])
    torch.testing.assert_close((1 - rate) * noisy[0] + rate / 2 * (noisy[1] + noisy[2]), clean)


@given(finite((4, 2), 200.0), st.floats(0.01, 0.45), st.sampled_from(["unbiased", "forward", "smoothing"]))
def test_corrected_losses_are_bounded_below(returns: np.ndarray, rate: float, correction: str) -> None:
    label = torch.tensor([1.0, 0.0], dtype=torch.float64)
    loss = preference_loss(torch.from_numpy(returns), label, flip_rate=rate, correction=correction)  # type: ignore[arg-type]
    assert torch.isfinite(loss).all()
    assert loss.min() >= -10 * rate / (1 - 2 * rate) - 1e-9


def test_absent_segments_change_nothing() -> None:
    returns, target = torch.randn(6, 2), torch.eye(2)[torch.tensor([0, 1, 1, 0, 0, 1])]
    wide, present = torch.nn.functional.pad(returns, (0, 1), value=7.0), torch.tensor([True, True, False])
    wide_target = torch.nn.functional.pad(target, (0, 1))
    for options in ({}, *({"flip_rate": 0.2, "correction": name} for name in ("unbiased", "forward", "smoothing"))):
        expected = preference_loss(returns, target, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(preference_loss(wide, wide_target, present.expand(6, 3), **options), expected)  # type: ignore[arg-type]
    assert torch.equal(credit_labels(wide, wide_target, present.expand(6, 3)), credit_labels(returns, target))


def test_decided_and_correct() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    assert is_decided(targets).tolist() == [True, False, True]
    returns = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    assert (credit_labels(returns, targets) * is_decided(targets)).tolist() == [1.0, 0.0, 0.5]


# SURF


def test_centre_query_is_what_the_rater_sees() -> None:
    query = make_preferences(1, steps=20)[0].query
    inner = centre_query(query, 4)
    for whole, centre in zip(query.segments, inner.segments, strict=True):
        np.testing.assert_array_equal(centre.observations, whole.observations[4:16])
        np.testing.assert_array_equal(centre.actions, whole.actions[4:16])
        assert (centre.start, centre.episode) == (4, whole.episode)
    with pytest.raises(PrefenvsError, match="no centre"):
        centre_query(query, 10)


def test_the_centre_of_what_a_camera_saw_is_what_it_saw_then() -> None:
    recording = Recording((Camera("top", "top.mp4"),), np.arange(20) / 10)
    segment = replace(make_preferences(1, steps=20)[0].query.segments[0], recording=recording)
    inner = centre_query(Query((segment, segment)), 4).segments[0].recording
    assert inner is not None
    assert (inner.first, inner.times.tolist()) == (4, (np.arange(4, 16) / 10).tolist())


def test_crops_share_a_length_and_cover_every_offset() -> None:
    steps, margin = 14, 3
    ones = torch.ones(1, 2000, 2, steps)
    lengths = crop_returns(ones, margin, torch.Generator().manual_seed(0))
    assert lengths.shape == (1, 2000, 2)
    assert torch.equal(lengths[..., 0], lengths[..., 1])
    assert set(lengths.flatten().tolist()) == set(range(steps - 3 * margin, steps - margin + 1))
    for step in (0, steps - 1):
        reached = crop_returns(ones * (torch.arange(steps) == step), margin, torch.Generator().manual_seed(0))
        assert 0 < reached.mean() < 1
        assert not torch.equal(reached[..., 0], reached[..., 1]), "the offsets are independent"


def test_pseudo_labels_need_confidence() -> None:
    sure = torch.stack([torch.ones(8), -torch.ones(8)])
    unsure = torch.stack([torch.zeros(8), 0.01 * torch.ones(8)])
    rewards = torch.stack([sure, unsure]).expand(3, 2, 2, 8).clone().requires_grad_()
    loss = pseudo_label_loss(rewards, SurfConfig(margin=1, threshold=0.99), torch.Generator().manual_seed(0))
    assert loss.shape == (3, 2)
    assert (loss[:, 0] > 0).all()
    assert (loss[:, 1] == 0).all()
    loss.sum().backward()
    assert (rewards.grad[:, 1] == 0).all()
    assert (rewards.grad[:, 0, 0].sum(-1) < 0).all(), "descent raises the pseudo-preferred segment"


def test_surf_learns_from_wide_segments() -> None:
    wide = make_preferences(120, steps=14)
    inner = [centre_query(p.query, 2) for p in wide]
    labels = [
        true_reward(np.stack([s.observations for s in q.segments]), np.stack([s.actions for s in q.segments]))
        for q in inner
    ]
    preferences = [Preference(p.query, np.eye(2)[r.sum(-1).argmax()]) for p, r in zip(wide, labels, strict=True)]
    config = replace(SMALL, epochs=40, surf=SurfConfig(margin=2, threshold=0.95, ratio=2))
    model = make_model(config)
    metrics = model.fit(preferences, unlabelled=[p.query for p in make_preferences(100, steps=14, seed=8)])
    assert metrics["epochs"] == 40 * 120 // 32 // 4 + 1, "SURF counts gradient steps and does not stop early"
    assert metrics["accuracy"] > 0.75
    beliefs = model.preference_probabilities([p.query for p in preferences]).mean(0)
    assert np.mean(beliefs.argmax(-1) == [p.best for p in preferences]) > 0.85
    with pytest.raises(PrefenvsError, match="no centre"):
        make_model(replace(config, surf=SurfConfig(margin=7))).fit(preferences)
    with pytest.raises(PrefenvsError, match="SurfConfig"):
        make_model().fit(preferences, unlabelled=inner)


def test_a_linear_score_is_lire_s_chance_and_counts_only_steps_that_are_there() -> None:
    rewards = torch.tensor([[[0.5, -0.25, 1.0], [-1.0, 0.0, 0.3]]])
    first, second = (float(row.sum()) for row in rewards[0])
    expected = (first + 3 + 1e-5) / (first + second + 6 + 2e-5)
    assert score_returns(rewards, None, "linear").softmax(-1)[0, 0].item() == pytest.approx(expected, abs=1e-6)
    inside = torch.tensor([[[True, True, True], [True, True, False]]])
    shorter = (first + 3 + 1e-5) / (first + 3 + 1e-5 + (-1.0 + 2 + 1e-5))
    assert score_returns(rewards, inside, "linear").softmax(-1)[0, 0].item() == pytest.approx(shorter, abs=1e-6)
    assert score_returns(rewards, inside)[0].tolist() == pytest.approx([1.25, -1.0])
    worst = torch.full((1, 2, 4), -1.0, requires_grad=True)
    score_returns(worst, None, "linear").softmax(-1).sum().backward()
    assert torch.isfinite(worst.grad).all()


def test_a_linear_score_fits_and_is_refused_where_returns_may_be_lower_than_minus_the_length() -> None:
    with pytest.raises(PrefenvsError, match='needs output="tanh"'):
        RewardConfig(score="linear", output="identity")
