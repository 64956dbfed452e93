"""ZO-RankSGD: its weights against a count of pairs, and that it climbs by rankings alone."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

import prefenvs
from prefenvs.agents.direct.ranksgd import RankSGD, RankSGDConfig, ranking_direction, ranking_weights
from prefenvs.envs.vectors import make_envs
from prefenvs.errors import PrefenvsError
from prefenvs.raters import FunctionOracle


@pytest.mark.parametrize("top", [1, 3, 6])
def test_weights_are_pairs_won_less_pairs_lost(top: int) -> None:
    rng = np.random.default_rng(top)
    order = rng.permutation(6)
    place = np.argsort(order)
    wins, decided = np.zeros(6), 0
    for a, b in itertools.combinations(range(6), 2):
        better, worse = (a, b) if place[a] < place[b] else (b, a)
        # Of two items below the best k nothing is known.
        if place[better] < top:
            wins[better] += 1
            wins[worse] -= 1
            decided += 1
    np.testing.assert_allclose(ranking_weights(order[:top].tolist(), 6), wins / decided)


def test_a_shift_of_all_perturbations_moves_nothing() -> None:
    noise = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = [3, 1, 0]
    torch.testing.assert_close(ranking_direction(noise + 7.0, order), ranking_direction(noise, order))


def test_it_climbs_and_counts_what_it_asks() -> None:
    def lasts(*segments: Any) -> list[float]:
        # Padded steps have no actions.
        lengths = np.array([segment.actions.any(axis=1).sum() for segment in segments])
        best = lengths == lengths.max()
        return list(best / best.sum())

    config = RankSGDConfig(labels=40, candidates=4, top=4, steps_tried=3)
    agent = RankSGD("MlpPolicy", prefenvs.make("CartPole-v1"), FunctionOracle(lasts), config, seed=0)
    agent.learn(4_000)
    assert agent.asked == agent.labels <= 40
    assert agent.asked % config.questions == 0
    env = prefenvs.make("CartPole-v1", reward="true")
    lengths = []
    for seed in range(5):
        observation, _ = env.reset(seed=seed)
        steps, done = 0, False
        while not done:
            observation, _, ended, cut, _ = env.step(agent.predict(observation)[0])
            done, steps = ended or cut, steps + 1
        lengths.append(steps)
    # The policy of zeros falls after 8 to 10 steps.
    assert np.mean(lengths) > 30


def test_a_rater_who_skips_moves_nothing_and_is_named() -> None:
    config = RankSGDConfig(labels=4, candidates=2, top=2, steps_tried=1)
    agent = RankSGD("MlpPolicy", prefenvs.make("CartPole-v1"), FunctionOracle(lambda *_: None), config, seed=0)
    with pytest.raises(PrefenvsError, match="questions were skipped"):
        agent.learn(100)
    assert not parameters_to_vector(agent.policy.parameters()).any()


@pytest.mark.parametrize("wrong", [{"candidates": 4, "top": 5}, {"labels": 3}, {"candidates": 1, "top": 1}])
def test_settings_that_rank_nothing_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PrefenvsError):
        RankSGDConfig(**wrong)


def test_several_environments_are_refused_in_a_line() -> None:
    agent = RankSGD("MlpPolicy", make_envs("CartPole-v1", 2, 0), FunctionOracle(lambda *_: None), device="cpu")
    with pytest.raises(PrefenvsError, match="not in 2 environments"):
        agent.learn(100)
