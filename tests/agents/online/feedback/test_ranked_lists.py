"""PEBBLE's questions as ranked lists: what is asked, what is learned from, what counts, and resuming."""

from pathlib import Path
from typing import Any

import pytest

from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.errors import PrefenvsError
from prefenvs.queries.lists import ListMethod

from ...worlds import Point, Rater


def make_agent(rater: Rater, lists: ListMethod = "lire", **kwargs: Any) -> PEBBLE:
    session: dict[str, Any] = {"labels": 25, "per_session": 10, "interact": 60, "segment_length": 8}
    reward = RewardConfig(width=16, layers=2, epochs=2)
    config = PebbleConfig(unsupervised_steps=60, reset_updates=3, lists=lists, reward=reward, **(session | kwargs))
    networks = {"net_arch": [16, 16]}
    given: dict[str, Any] = {"learning_starts": 40, "batch_size": 16, "buffer_size": 5_000, "seed": 0, "device": "cpu"}
    return PEBBLE("MlpPolicy", Point(), rater, config, policy_kwargs=networks, **given)


def asked(rater: Rater) -> list[str]:
    assert all(len(queries) == 1 for queries in rater.asked), "one after the other"
    return [queries[0].id for queries in rater.asked]


@pytest.mark.parametrize("lists", ["lire", "seqrank"])
def test_all_pairs_of_the_lists_are_learned_from_and_questions_count(lists: ListMethod) -> None:
    rater, learned = Rater(), []
    agent = make_agent(rater, lists)
    fit = agent.reward_model.fit
    agent.reward_model.fit = lambda labels, *args: learned.append(labels) or fit(labels, *args)
    agent.learn(230)
    assert len(asked(rater)) == agent.feedback.asked == agent.feedback.labels == 25
    assert len({*asked(rater)}) == 25
    for pair in learned[-1]:
        returns = [segment.true_rewards.sum() for segment in pair.query.segments]
        assert pair.best == (0 if returns[0] > returns[1] else 1)
    sizes = [sum(len(group) for group in groups) for groups in agent.feedback.lists.lists]
    assert len(learned[-1]) == sum(size * (size - 1) // 2 for size in sizes) > (40 if lists == "lire" else 25)
    # Pairs that were learned from before are the same objects, which are not copied to the device again.
    assert {id(pair) for pair in learned[0]} <= {id(pair) for pair in learned[-1]}
    assert agent.feedback.preferences[0].query.id == asked(rater)[0]


def test_a_list_of_few_questions_is_followed_by_another() -> None:
    agent = make_agent(Rater(), list_questions=5)
    agent.learn(230)
    assert len(agent.feedback.lists.lists) == 5


def test_a_checkpoint_s_answers_make_the_same_lists_and_the_same_open_question(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(170)
    agent.save_checkpoint(tmp_path / "checkpoint")
    resumed = make_agent(Rater())
    resumed.resume(tmp_path / "checkpoint")
    before, after = (
        (
            one.feedback._question.id,
            [[[segment.hash for segment in group] for group in groups] for groups in one.feedback.lists.lists],
            [pair.query.id for pair in one.feedback._learned_from()],
        )
        for one in (agent, resumed)
    )
    assert before == after


def test_skips_leave_their_segments_out_and_cost_their_questions() -> None:
    agent = make_agent(Rater(skip=True))
    agent.learn(300)
    assert (agent.feedback.asked, agent.feedback.labels, agent.reward_learned) == (25, 0, False)


def test_a_rater_that_answers_late_is_refused() -> None:
    with pytest.raises(PrefenvsError, match="a rater that answers at once, which test does not"):
        make_agent(Rater(late=3)).learn(300)
