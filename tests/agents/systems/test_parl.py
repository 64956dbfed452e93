"""A-PARL: its gradient through the policy against differences, and that it learns a board from its own episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

import prefenvs
from prefenvs.agents.tabular.parl import PARL, BoardPolicy, PARLConfig, policy_scores
from prefenvs.bench.claims.delivery import table_of
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import scaled_return
from prefenvs.envs.vectors import make_envs
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import PartialReturnOracle, Teacher

BOARD = find_board(4)
GAMMA, TEMPERATURE = 0.7, 0.5


def known_policy(weights: np.ndarray) -> BoardPolicy:
    """The soft optimum of reward weights [6] on a board that is known but for two moves."""
    policy = BoardPolicy(spaces.Box(0.0, 1.0, (124,), np.float32), spaces.Discrete(4))
    following = np.where(BOARD.terminal[BOARD.next_cells], 100, BOARD.next_cells)
    known = ~(BOARD.terminal | (BOARD.glyphs == "#"))[:, None] & np.ones((100, 4), bool)
    known[0, 1] = known[55, 2] = False
    for name, array in {"features": BOARD.features, "following": following, "known": known, "weights": weights}.items():
        getattr(policy, name).copy_(torch.from_numpy(array))
    policy.solve(GAMMA, TEMPERATURE, 120)
    return policy


def test_the_policy_moves_with_the_reward_as_its_scores_say() -> None:
    weights = np.array([-0.3, -0.6, 0.4, -0.2, -2.0, 3.0])
    policy = known_policy(weights)
    scores = policy_scores(policy, GAMMA, TEMPERATURE)
    assert policy.chances.sum(1).numpy() == pytest.approx(np.ones(100))
    for k in range(6):
        step = 1e-5 * np.eye(6)[k]
        up, down = (known_policy(weights + sign * step).chances[policy.known].log() for sign in (1, -1))
        assert scores[k][policy.known].numpy() == pytest.approx(((up - down) / 2e-5).numpy(), abs=1e-6)


def test_the_gradient_of_the_loss_through_the_policy() -> None:
    """Of pairs of single moves from one cell, against differences of the expected loss, which is a sum over them."""
    weights, cell = np.array([-0.3, -0.6, 0.4, -0.2, -2.0, 3.0]), 45
    moves = [(a, b) for a in range(4) for b in range(4)]
    losses = torch.from_numpy(np.random.default_rng(0).random(16))

    def chances(policy: BoardPolicy) -> torch.Tensor:
        return torch.stack([policy.chances[cell, a] * policy.chances[cell, b] for a, b in moves])

    config = PARLConfig(gamma=GAMMA, temperature=TEMPERATURE)
    agent = PARL("MlpPolicy", prefenvs.make("Delivery-v0"), PartialReturnOracle(), config, device="cpu")
    agent.policy = policy = known_policy(weights)
    counts = np.random.default_rng(1).multinomial(3_000, chances(policy).numpy())
    drawn = np.repeat(np.arange(16), counts)
    visited = [[(np.array([cell]), np.array([move])) for move in moves[i]] for i in drawn]
    found = agent.policy_gradient(losses[drawn], visited)
    for k in range(6):
        step = 1e-5 * np.eye(6)[k]
        up, down = (float(chances(known_policy(weights + sign * step)) @ losses) for sign in (1, -1))
        assert float(found[k]) == pytest.approx((up - down) / 2e-5, abs=0.03)


def test_it_learns_a_board_from_its_own_episodes() -> None:
    config = PARLConfig(labels=30, explore=2_000, updates=30)
    rater = PartialReturnOracle(Teacher(beta=1.0), seed=0)
    agent = PARL("MlpPolicy", prefenvs.make("Delivery-v0"), rater, config, seed=0, device="cpu").learn(10_000)
    assert agent.asked == agent.labels == len(agent.rows) == 30
    road, brick, _, _, sheep, destination = agent.policy.weights.tolist()
    assert sheep < min(road, brick) < max(road, brick) < destination
    assert scaled_return(find_board(0), table_of(agent, find_board(0))) > 0.5


def test_other_tasks_and_several_environments_are_refused() -> None:
    with pytest.raises(PrefenvsError, match="one delivery board"):
        PARL("MlpPolicy", prefenvs.make("CartPole-v1"), PartialReturnOracle(), device="cpu")
    held = PARL("MlpPolicy", prefenvs.make("Delivery-v0@2"), PartialReturnOracle(), device="cpu")
    with pytest.raises(PrefenvsError, match="holds each action"):
        held.learn(10_000)
    agent = PARL("MlpPolicy", make_envs("Delivery-v0", 2, 0), PartialReturnOracle(), device="cpu")
    with pytest.raises(PrefenvsError, match="not in 2 environments"):
        agent.learn(100)
