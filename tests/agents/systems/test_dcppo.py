"""DCPPO: exact choices give back the reward that made them, and it drives better than those it learns from."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import prefenvs
from prefenvs.agents.tabular.dcppo import DCPPO, DCPPOConfig, fit_choices
from prefenvs.bench.claims.delivery import drive, soft_policy, table_of
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.envs.delivery.board import REWARDS, find_board
from prefenvs.envs.delivery.values import BoardValues, scaled_return
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.trajectories import Trajectories

BOARD = find_board(4)


def test_choices_without_noise_of_sampling_give_the_reward_up_to_a_potential() -> None:
    free = ~(BOARD.terminal | (BOARD.glyphs == "#"))
    counts = 1e4 * soft_policy(BOARD, 20.0, 0.5) * free[:, None]
    following = np.where(BOARD.terminal[BOARD.next_cells], 100, BOARD.next_cells)
    config = DCPPOConfig(gamma=0.5, smoothing=0.0, ridge=1e-5)
    weights, _ = fit_choices(counts, BOARD.features, following, config)
    np.testing.assert_allclose(20.0 * weights[2:4], REWARDS[2:4], atol=1e-3)
    # The others are known up to a potential, which advantages do not see.
    found = BoardValues(BOARD, 0.5, 20.0 * BOARD.features @ weights)
    np.testing.assert_allclose(found.a[free], BoardValues(BOARD, 0.5).a[free], atol=1e-2)


def test_with_all_moves_known_and_no_pessimism_it_drives_by_the_optimal_values() -> None:
    data = drive(BOARD, soft_policy(BOARD, 2.5), 400, np.random.default_rng(0))
    learner = DCPPO(OfflineDataset("person", data), config=DCPPOConfig(pessimism=0.0), device="cpu").learn(400)
    rewards = np.where(learner.tables.counts.numpy() > 0, learner.tables.rewards.numpy(), -1e6)
    values = BoardValues(BOARD, 0.95, np.where(np.isin(BOARD.glyphs, list("SD#"))[:, None], 0.0, rewards))
    visited = learner.tables.counts.numpy().sum(axis=1) > 0
    np.testing.assert_allclose(learner.tables.values.numpy()[visited], values.v[visited], rtol=1e-6)
    assert scaled_return(BOARD, table_of(learner, BOARD)) > 0.99


def test_pessimism_keeps_to_moves_that_were_seen() -> None:
    data = drive(BOARD, soft_policy(BOARD, 1.0), 5, np.random.default_rng(0))
    learner = DCPPO(OfflineDataset("person", data), device="cpu").learn(100)
    counts = learner.tables.counts.numpy()
    visited = counts.sum(axis=1) > 0
    moves = table_of(learner, BOARD).argmax(axis=1)
    assert (counts[visited, moves[visited]] > 0).all()


def test_it_is_evaluated_on_the_board_that_it_was_made_for() -> None:
    data = drive(BOARD, soft_policy(BOARD, 1.0), 60, np.random.default_rng(0))
    learner = DCPPO(OfflineDataset("person", data), device="cpu").learn(200)
    with closing(prefenvs.make("Delivery-v0")) as env:
        assert learner.action_space == env.action_space
    assert evaluate(learner, "Delivery-v0", episodes=2).returns.shape == (2,)
    one, many = learner.predict(BOARD.observations[0])[0], learner.predict(BOARD.observations)[0]
    assert one == many[0]
    with pytest.raises(PrefenvsError, match="observations"):
        learner.predict(np.zeros(3))


def test_data_of_other_tasks_are_refused() -> None:
    data = Trajectories(np.zeros((4, 3), np.float32), np.zeros((4, 2), np.float32), np.array([4]))
    with pytest.raises(PrefenvsError, match="delivery board"):
        DCPPO(OfflineDataset("other", data))
