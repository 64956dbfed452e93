"""What labels are held against: the same exploration, then nothing, a coin, or the true reward."""

from typing import Any

import numpy as np
import pytest

from prefenvs.agents import PEBBLE
from prefenvs.errors import PrefenvsError

from ...worlds import Point, Rater
from ..test_pebble import make_agent, make_config


def rows(agent: PEBBLE, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first observations and actions that an agent went through."""
    return agent.replay_buffer.observations[:count].copy(), agent.replay_buffer.actions[:count].copy()


@pytest.mark.parametrize("control", [{"exploration_only": True}, {"true_reward": True, "explore_first": True}])
def test_controls_explore_as_a_learner_from_labels_does(control: dict[str, Any]) -> None:
    # One after the other, since the seed sets the global generators.
    agents = [make_agent(Rater()).learn(200), make_agent(None, config=make_config(**control)).learn(200)]
    # 40 random steps and 60 of exploration.
    for ours, theirs in zip(*(rows(agent, 100) for agent in agents), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(rows(agents[0], 200)[1], rows(agents[1], 200)[1])


def test_exploration_alone_asks_nobody_and_never_stops() -> None:
    rater = Rater()
    agent = make_agent(rater, config=make_config(exploration_only=True))
    agent.learn(300)
    assert not rater.asked
    assert agent.exploring
    assert agent.learns_from == "state entropy alone (no labels)"


def test_exploration_before_a_true_reward_that_is_not_learned_from_is_refused() -> None:
    with pytest.raises(PrefenvsError, match="explore_first goes with true_reward"):
        make_agent(Rater(), config=make_config(explore_first=True)).learn(300)


def test_the_true_reward_after_exploration_starts_with_a_fresh_critic() -> None:
    agent = make_agent(None, config=make_config(true_reward=True, explore_first=True))
    agent.learn(300)
    assert not agent.exploring
    # The updates right after the reset come on top of one for each step.
    assert agent._n_updates == 300 - 40 + 3
    assert agent.replay_buffer.rewards[:300].any()


def test_the_critic_starts_afresh_too_where_updates_come_less_often() -> None:
    # Exploration ends after 100 steps, between the updates after 98 and 105.
    agent = make_agent(None, config=make_config(true_reward=True, explore_first=True), train_freq=7)
    agent.learn(300)
    assert agent._n_updates == 7 * len(range(42, 302, 7)) + 3


def test_the_true_reward_without_it_never_explores() -> None:
    agent = make_agent(None, config=make_config(true_reward=True))
    agent.learn(60)
    assert not agent.exploring
    assert agent._n_updates == 60 - 40


def test_two_controls_at_once_are_refused() -> None:
    with pytest.raises(PrefenvsError, match="choose one"):
        make_config(true_reward=True, exploration_only=True)


def test_exploration_longer_than_the_run_is_refused_on_the_true_reward_too() -> None:
    agent = make_agent(None, env=Point(), config=make_config(true_reward=True, explore_first=True))
    with pytest.raises(PrefenvsError, match="after 100 steps"):
        agent.learn(90)
