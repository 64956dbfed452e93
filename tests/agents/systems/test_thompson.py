"""Thompson sampling in PEBBLE: which pairs are asked, and whose reward the replay holds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import prefenvs
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.variants.thompson import DrawsDiffer, ThompsonConfig, ThompsonPEBBLE, draws_differ
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import PartialReturnOracle
from prefenvs.protocols import predict_rewards

CONFIG = ThompsonConfig(
    labels=20,
    per_session=10,
    interact=200,
    segment_length=10,
    unsupervised_steps=100,
    reward=RewardConfig(width=16, layers=1, epochs=3),
)
SMALL: dict[str, Any] = {
    "learning_starts": 150,
    "batch_size": 16,
    "policy_kwargs": {"net_arch": [16, 16]},
    "seed": 0,
    "device": "cpu",
}


def test_pairs_are_asked_by_the_difference_of_two_draws() -> None:
    margins = np.array([[0.0, 3.0], [0.0, -3.0]])
    # Of two members both are drawn: sigma(3) - sigma(-3) = .905.
    for epsilon, asked in ((0.9, [False, True]), (0.91, [False, False])):
        assert draws_differ(margins, epsilon, np.random.default_rng(0)).tolist() == asked
    three = np.array([[2.0], [2.0], [-2.0]]).repeat(3_000, axis=1)
    # Two of the three pairs of members differ.
    assert draws_differ(three, 0.5, np.random.default_rng(0)).mean() == pytest.approx(2 / 3, abs=0.03)


def test_it_follows_one_member_and_draws_again_after_an_episode() -> None:
    agent = ThompsonPEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), PartialReturnOracle(seed=0), CONFIG, **SMALL)
    agent.learn(620)
    assert agent.draws == 3
    assert agent.feedback is not None
    assert isinstance(agent.feedback.selector, DrawsDiffer)
    assert 10 <= agent.feedback.asked <= 20
    buffer = agent.replay_buffer
    observations, actions = buffer.observations[:620, 0], 2.0 * buffer.actions[:620, 0]
    members = predict_rewards(agent.reward_model, observations, actions)
    np.testing.assert_allclose(buffer.rewards[:620, 0], members[agent.drawn], rtol=1e-4, atol=1e-5)
    assert np.abs(members - members[agent.drawn]).max() > 1e-3


def test_an_aggregate_of_the_members_is_refused() -> None:
    config = dataclasses.replace(CONFIG, aggregate="min")
    agent = ThompsonPEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), PartialReturnOracle(seed=0), config, **SMALL)
    with pytest.raises(PrefenvsError, match="one member"):
        agent.learn(620)
