from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prefenvs.agents.offline.dppo import (
    DPPO,
    DPPOConfig,
    SegmentScore,
    SegmentScoreConfig,
    Windows,
    alignment_loss,
    segment_distances,
)
from prefenvs.errors import PrefenvsError
from prefenvs.trajectories import Trajectories

from ..worlds import ACTIONS, drive, make_line_data, prefer_by_return

PREDICTOR = SegmentScoreConfig(width=16, heads=2, epochs=40, batch_size=50, shift=2.0)
SMALL = DPPOConfig(predictor=PREDICTOR, hidden=(64, 64), batch_size=64, dropout=0.0, learning_rate=1e-3)
DATA = make_line_data()
LABELS = prefer_by_return(DATA, 150, 12)


def make_agent(config: DPPOConfig = SMALL, seed: int = 0) -> DPPO:
    return DPPO(DATA, LABELS, config, seed=seed, device="cpu", action_space=ACTIONS)


@pytest.fixture(scope="module")
def agent() -> DPPO:
    return make_agent()


def test_losses_are_the_published_formulas() -> None:
    rng = np.random.default_rng(0)
    predicted, actions, lengths = rng.uniform(-1, 1, (5, 6, 3)), rng.uniform(-1, 1, (5, 6, 3)), [6, 6, 4, 1, 6]
    distances = [
        np.mean([np.sqrt((((predicted[i, t] - actions[i, t]) / 2) ** 2).sum()) for t in range(lengths[i])])
        for i in range(5)
    ]
    inside = torch.arange(6) < torch.tensor(lengths)[:, None]
    computed = segment_distances(torch.from_numpy(predicted), torch.from_numpy(actions), inside)
    np.testing.assert_allclose(computed, distances)
    scores = np.array([0.3, -1.0, 2.0, 0.3, 0.7])
    terms = [
        -np.log(np.exp(-distances[i]) / (np.exp(-distances[i]) + np.exp(-0.5 * distances[j])))
        for i in range(5)
        for j in range(5)
        if scores[i] > scores[j]
    ]
    assert len(terms) == 9
    loss = alignment_loss(computed, torch.from_numpy(scores), 0.5)
    assert loss.item() == pytest.approx(np.mean(terms))


def test_alignment_pulls_the_better_segment_nearer() -> None:
    distances = torch.tensor([0.5, 0.5], requires_grad=True)
    alignment_loss(distances, torch.tensor([1.0, 0.0]), 1.0).backward()
    assert distances.grad[0] > 0 > distances.grad[1]
    plain = distances.grad.clone()
    distances.grad = None
    alignment_loss(distances, torch.tensor([1.0, 0.0]), 0.5).backward()
    assert distances.grad[0] > plain[0], "below 1, lambda keeps up the pull towards the better segment"
    assert alignment_loss(distances, torch.zeros(2), 0.5) == 0, "equal scores compare nothing"


def test_the_predictor_sees_the_whole_segment_and_learns() -> None:
    model = SegmentScore(2, 1, replace(PREDICTOR, epochs=60), device="cpu")
    inputs = torch.randn(1, 5, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.score_segments(inputs, None)[0], inputs)
    assert (gradient.abs().sum(-1) > 0).all()
    inside = torch.arange(5)[None] < 3
    junk = torch.where(inside[..., None], inputs, 9.0)
    torch.testing.assert_close(model.score_segments(junk, inside), model.score_segments(inputs[:, :3], None))
    assert model.fit(LABELS)["accuracy"] > 0.8
    unseen = prefer_by_return(DATA, 100, 12, seed=5)
    beliefs = model.preference_probabilities([p.query for p in unseen])[0]
    assert np.mean(beliefs.argmax(1) == [p.best for p in unseen]) > 0.75


def test_smoothness_brings_overlapping_segments_together() -> None:
    windows, spread = Windows(DATA.trajectories, 12, torch.device("cpu")), {}
    for weight in (0.0, 100.0):
        model = SegmentScore(2, 1, replace(PREDICTOR, smoothness=weight, epochs=20), device="cpu")
        model.unlabelled = windows
        model.fit(LABELS)
        first, second = windows.draw_overlapping(200, 2.0, torch.Generator().manual_seed(0))
        with torch.no_grad():
            apart = model.score_segments(*first) - model.score_segments(*second)
        spread[weight] = apart.square().mean().item()
    assert spread[100.0] < 0.5 * spread[0.0]


def test_the_smoothness_term_is_the_weighted_squared_difference() -> None:
    windows = Windows(DATA.trajectories, 12, torch.device("cpu"))
    model = SegmentScore(2, 1, PREDICTOR, device="cpu")
    inputs, targets = torch.randn(6, 2, 12, 3), torch.eye(2)[torch.tensor([0, 1, 0, 1, 0, 1])]
    plain = model.losses(inputs, None, None, targets)
    model.unlabelled = windows
    state = model.generator.get_state()
    smooth = model.losses(inputs, None, None, targets)
    model.generator.set_state(state)
    first, second = windows.draw_overlapping(6, 2.0, model.generator)
    difference = model.score_segments(*first) - model.score_segments(*second)
    torch.testing.assert_close(smooth - plain, difference.square(), atol=1e-6, rtol=1e-3)


def test_windows_are_all_segments_inside_episodes() -> None:
    rng = np.random.default_rng(0)
    episodes = Trajectories(rng.standard_normal((14, 2)), rng.standard_normal((14, 1)), np.array([3, 9, 14]))
    windows = Windows(episodes, 4, torch.device("cpu"))
    assert windows.starts.tolist() == [0, 3, 4, 5, 9, 10]
    steps, inside = windows.cut(torch.arange(6))
    assert inside.sum(1).tolist() == [3, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(steps[2, :, :2], episodes.observations[4:8], rtol=1e-6)
    numbers = torch.arange(6)
    moved = torch.minimum(torch.maximum(numbers + 10, windows.first), windows.last)
    assert moved.tolist() == [0, 3, 3, 3, 5, 5], "a shifted segment stays in its episode"


def test_segments_are_ranked_as_the_predictor_scores_them(agent: DPPO) -> None:
    scores = agent.rank()
    assert len(scores) == 60 * 14
    segments = DATA.trajectories.cut(np.array([3, 7]), np.array([2, 13]), 12)
    inputs = torch.from_numpy(np.concatenate([segments.observations, segments.actions], -1)).float()
    with torch.no_grad():
        expected = agent.predictor.score_segments(inputs, None)
    torch.testing.assert_close(scores[[3 * 14 + 2, 7 * 14 + 13]], expected, atol=1e-5, rtol=1e-4)


def test_learns_from_mixed_data_to_do_better_than_it(agent: DPPO) -> None:
    agent.learn(300)
    assert agent.preference_accuracy(prefer_by_return(DATA, 100, 12, seed=6)) > 0.75
    assert drive(agent) > DATA.trajectories.returns.mean() + 12.0


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path) -> None:
    config = replace(SMALL, predictor=replace(PREDICTOR, epochs=1), dropout=0.1)
    first, second = make_agent(config), make_agent(config)
    first.learn(4)
    second.learn(2)
    second.save_checkpoint(tmp_path)
    resumed = make_agent(config)
    resumed.resume(tmp_path)
    assert resumed.predictor_figures == second.predictor_figures
    resumed.learn(2, reset_num_timesteps=False)
    observations = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_allclose(resumed.predict(observations)[0], first.predict(observations)[0], atol=1e-6)
    loaded = DPPO.load(resumed.save(tmp_path / "dppo.zip"), device="cpu")
    assert loaded.config == config
    np.testing.assert_array_equal(loaded.predict(observations)[0], resumed.predict(observations)[0])


def test_bad_input_is_named() -> None:
    with pytest.raises(PrefenvsError, match="empty"):
        DPPO(DATA, [], SMALL, device="cpu", action_space=ACTIONS)
    for change in ({"conservatism": 1.5}, {"temperature": 0.0}, {"batch_size": 1}, {"dropout": 1.0}):
        with pytest.raises(PrefenvsError, match=next(iter(change))):
            DPPOConfig(**change)  # type: ignore[arg-type]
    with pytest.raises(PrefenvsError, match="smoothness"):
        SegmentScoreConfig(smoothness=-1.0)
    with pytest.raises(PrefenvsError, match="not steps"):
        SegmentScore(2, 1, PREDICTOR, device="cpu").relabel(DATA.trajectories)
