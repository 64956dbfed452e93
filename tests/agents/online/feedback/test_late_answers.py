"""Answers that come late: after a restart, and after episodes have become too short to ask about."""

from pathlib import Path

import numpy as np

from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.agents.online.feedback import Feedback, FeedbackConfig
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.oracles import HumanOracle
from prefenvs.preferences import Preference, Query
from prefenvs.store import Store
from prefenvs.trajectories import TrajectoryBuffer

from ...worlds import Point, Rater

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


def test_answers_are_taken_though_no_episode_is_long_enough_to_ask_about_any_more() -> None:
    """As where an agent learns to end its episodes early, while people still label the first questions."""
    rater, buffer, rng = Rater(late=1), TrajectoryBuffer("", max_episodes=4), np.random.default_rng(0)

    def play(lengths: list[int]) -> None:
        for length in lengths:
            for k in range(length):
                seen = rng.normal(size=2)
                buffer.add_step(0, seen, np.zeros(1, np.float32), float(k), None, done=k == length - 1)

    config = FeedbackConfig(labels=20, per_session=4, interact=10, segment_length=5, selector="uniform")
    model = RewardEnsemble(2, 1, RewardConfig(members=2, width=8, epochs=2), seed=0, device="cpu")
    feedback = Feedback(config, rater, model, buffer, 10, 1_000, seed=0)
    play([8, 8, 8, 8])
    assert feedback.due(10)
    assert feedback.run(10) is None
    play([3, 3, 3, 3])
    assert feedback.due(20)
    assert feedback.run(20) is not None
    assert (feedback.labels, feedback.asked) == (4, 4)
    assert not feedback.due(21)
