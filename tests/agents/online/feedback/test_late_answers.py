"""Answers that come after a restart: SURF still knows the steps around what the rater was shown."""

from pathlib import Path

import numpy as np

from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.oracles import HumanOracle
from prefenvs.preferences import Preference, Query
from prefenvs.store import Store

from ...worlds import Point

MARGIN = 2


def make_agent(store: Store) -> PEBBLE:
    reward = RewardConfig(width=16, layers=2, epochs=2, surf=SurfConfig(margin=MARGIN))
    config = PebbleConfig(
        labels=20,
        per_session=10,
        interact=60,
        segment_length=8,
        unsupervised_steps=60,
        reset_updates=3,
        unlabelled=3,
        reward=reward,
    )
    return PEBBLE(
        "MlpPolicy",
        Point(),
        HumanOracle(store, "run"),
        config,
        learning_starts=40,
        batch_size=16,
        buffer_size=5_000,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [16, 16]},
    )


def say(store: Store, query: Query, best: int) -> None:
    store.add_preferences([Preference(query, np.eye(2)[best], "ann", "human")], run="run")


def test_answers_to_questions_from_before_a_restart_cover_the_uncropped_segments(tmp_path: Path) -> None:
    with Store(tmp_path / "labels.sqlite") as store:
        agent = make_agent(store)
        agent.learn(170)
        asked = store.pending_queries(run="run", with_true_rewards=True)
        assert len(asked) == 20
        assert {len(segment) for query in asked for segment in query.segments} == {8}
        for query in asked[:4]:
            say(store, query, 0)
        # Steps go on: the answers are taken at one of the looks.
        agent.learn(20, reset_num_timesteps=False)
        assert agent.feedback.labels == 4
        agent.feedback.total_steps = 300
        agent.save_checkpoint(tmp_path / "checkpoint")
        uncropped = {query.id: query for query in agent.feedback.oracle.asked}

        resumed = make_agent(store)
        resumed.resume(tmp_path / "checkpoint")
        assert len(resumed.feedback.unlabelled) == len(agent.feedback.unlabelled) == 3 * 20
        for query in asked[4:]:
            say(store, query, 1)
        say(store, asked[0], 1)  # thought better of it
        resumed.learn(30, reset_num_timesteps=False)
        answers = {answer.query.id: answer for answer in resumed.feedback.preferences}
        assert resumed.feedback.labels == len(answers) == 20
        assert set(answers) == set(uncropped)
        chosen = sorted(answer.best for answer in answers.values())
        assert chosen == [0] * 3 + [1] * 17
        for key, answer in answers.items():
            for found, given in zip(answer.query.segments, uncropped[key].segments, strict=True):
                assert (len(found), found.episode, found.start) == (8 + 2 * MARGIN, given.episode, given.start)
                np.testing.assert_array_equal(found.observations, given.observations)
                np.testing.assert_array_equal(found.true_rewards, given.true_rewards)
