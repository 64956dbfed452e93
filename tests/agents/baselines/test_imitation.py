from __future__ import annotations

import csv
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

pytest.importorskip("imitation")

from imitation.algorithms import preference_comparisons as theirs
from imitation.data import rollout
from imitation.rewards import reward_nets
from imitation.util.logger import configure

import prefenvs
from prefenvs.agents.baselines.imitation import (
    ComparisonsConfig,
    ImitationRewardModel,
    RevealReward,
    as_reward_net,
    train_preference_comparisons,
)
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.protocols import RewardModel
from prefenvs.segments import Segment

OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-2.0, 2.0, (1,), np.float32)
SMALL = RewardConfig(width=16, layers=2)


def make_preferences(count: int, k: int = 2) -> list[Preference]:
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((count, k, 8, 3)).astype(np.float32)
    actions = rng.uniform(-2, 2, (count, k, 8, 1)).astype(np.float32)
    best = observations[..., 0].sum(-1).argmax(-1)
    return [
        Preference(Query(tuple(Segment(a, b, task="T") for a, b in zip(o, u, strict=True))), np.eye(k)[i])
        for o, u, i in zip(observations, actions, best, strict=True)
    ]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make_net(**kwargs: object) -> reward_nets.BasicRewardNet:
    return reward_nets.BasicRewardNet(OBSERVATIONS, ACTIONS, **kwargs)


def make_ensemble_net() -> reward_nets.RewardEnsemble:
    return reward_nets.RewardEnsemble(OBSERVATIONS, ACTIONS, [make_net() for _ in range(3)])


# Our ensemble in their hands


def test_our_ensemble_gives_the_same_rewards_as_a_net() -> None:
    ensemble = RewardEnsemble(3, 1, SMALL, device="cpu")
    net = as_reward_net(ensemble, OBSERVATIONS, ACTIONS)
    rng = np.random.default_rng(0)
    state, action = rng.standard_normal((7, 3)).astype(np.float32), rng.standard_normal((7, 1)).astype(np.float32)
    inputs = state, action, state, np.zeros(7, bool)
    rewards = ensemble.predict(state, action)
    np.testing.assert_allclose(net.predict(*inputs), rewards.mean(0), rtol=1e-5)
    bonus = reward_nets.AddSTDRewardWrapper(net, default_alpha=0.5)
    np.testing.assert_allclose(
        bonus.predict_processed(*inputs), rewards.mean(0) + 0.5 * rewards.std(0, ddof=1), rtol=1e-4
    )


def test_discrete_actions_become_one_hot_rows() -> None:
    ensemble = RewardEnsemble(3, 4, SMALL, device="cpu")
    net = as_reward_net(ensemble, OBSERVATIONS, spaces.Discrete(4))
    state, action = np.ones((4, 3), np.float32), np.array([3, 0, 1, 2])
    inputs = state, action, state, np.zeros(4, bool)
    expected = ensemble.predict(state, np.eye(4)[action]).mean(0)
    np.testing.assert_allclose(net.predict(*inputs), expected, rtol=1e-5)
    np.testing.assert_allclose(net.predict_reward_moments(*inputs)[0], expected, rtol=1e-5)


def test_imitations_trainer_moves_our_weights(tmp_path) -> None:
    ensemble = RewardEnsemble(3, 1, SMALL, device="cpu")
    net = as_reward_net(ensemble, OBSERVATIONS, ACTIONS)
    preferences = make_preferences(64)
    queries = [p.query for p in preferences]
    wrapped = ImitationRewardModel(net, epochs=20)
    assert wrapped.fit(preferences)["accuracy"] > 0.75
    beliefs = ensemble.preference_probabilities(queries).mean(0)
    assert np.mean(beliefs.argmax(-1) == [p.best for p in preferences]) > 0.8


def test_an_agent_of_theirs_trains_on_our_reward(tmp_path) -> None:
    """imitation's AgentTrainer hands PPO our reward and keeps the environment's own."""
    venv = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    ensemble = RewardEnsemble(3, 1, SMALL, device="cpu")
    net = as_reward_net(ensemble, venv.observation_space, venv.action_space)
    agent = PPO("MlpPolicy", venv, n_steps=100, batch_size=50, n_epochs=1, seed=0, device="cpu")
    trainer = theirs.AgentTrainer(
        agent, net, venv, np.random.default_rng(0), custom_logger=configure(tmp_path, format_strs=[])
    )
    trainer.train(400)
    assert max(abs(agent.rollout_buffer.rewards).max(), 0) <= 1.5, "tanh rewards, plus the bootstrap at time limits"
    assert min(t.rews.min() for t in trainer.sample(400)) < -1


def test_spaces_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PrefenvsError, match="3 observations and 1 actions, the reward model 17 and 6"):
        as_reward_net(RewardEnsemble(17, 6, SMALL, device="cpu"), OBSERVATIONS, ACTIONS)


# Their nets in our hands


@pytest.mark.parametrize(("net", "members"), [(make_net, 1), (make_ensemble_net, 3)])
def test_their_net_satisfies_our_protocol_and_learns(net, members: int, tmp_path) -> None:
    model = ImitationRewardModel(net(), epochs=25)
    assert isinstance(model, RewardModel)
    preferences = make_preferences(60)
    skipped = Preference(preferences[0].query, None)
    metrics = model.fit([*preferences, skipped])
    assert (metrics["labels"], metrics["skipped"], metrics["decided"]) == (60, 1, 60)
    assert metrics["accuracy"] > 0.9
    observations = np.stack([[s.observations for s in p.query.segments] for p in preferences])
    actions = np.stack([[s.actions for s in p.query.segments] for p in preferences])
    rewards = model.predict(observations, actions)
    assert rewards.shape == (members, 60, 2, 8)
    assert np.mean(rewards.mean(0).sum(-1).argmax(-1) == [p.best for p in preferences]) > 0.9
    model.save(tmp_path / "net.pt")
    other = ImitationRewardModel(net())
    assert not np.array_equal(other.predict(observations, actions), rewards)
    other.load(tmp_path / "net.pt")
    np.testing.assert_array_equal(other.predict(observations, actions), rewards)


def test_fit_with_only_skips_says_so() -> None:
    model = ImitationRewardModel(make_net())
    metrics = model.fit([Preference(make_preferences(1)[0].query, None)])
    assert metrics["epochs"] == metrics["labels"] == 0


@pytest.mark.parametrize("kwargs", [{"use_next_state": True}, {"use_done": True}])
def test_nets_that_read_more_than_segments_hold_are_refused(kwargs: dict[str, bool]) -> None:
    with pytest.raises(PrefenvsError, match="reads the next state or the done flag"):
        ImitationRewardModel(make_net(**kwargs))


def test_more_than_pairs_and_foreign_files_are_refused(tmp_path) -> None:
    model = ImitationRewardModel(make_net())
    with pytest.raises(PrefenvsError, match="compares two segments"):
        model.fit(make_preferences(3, k=3))
    ImitationRewardModel(make_net(hid_sizes=(8,))).save(tmp_path / "net.pt")
    with pytest.raises(PrefenvsError, match="another net"):
        model.load(tmp_path / "net.pt")
    with pytest.raises(PrefenvsError, match="there is no reward model"):
        model.load(tmp_path / "none.pt")


# Their preference comparisons on our tasks


def test_revealed_reward_is_the_hidden_one() -> None:
    hidden, plain = RevealReward(prefenvs.make("Pendulum-v1")), gymnasium.make("Pendulum-v1")
    np.testing.assert_array_equal(hidden.reset(seed=3)[0], plain.reset(seed=3)[0])
    for _ in range(5):
        action = np.array([0.5], np.float32)
        assert hidden.step(action)[1] == plain.step(action)[1]
    assert hidden.steps == 5


def test_preference_comparisons_run_on_a_task(tmp_path) -> None:
    config = ComparisonsConfig(iterations=2, epochs=1, initial_epoch_multiplier=5, environments=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        agent, model, metrics = train_preference_comparisons(
            "Pendulum-v1", 1600, 30, seed=0, config=config, folder=tmp_path
        )
    assert metrics["env_steps"] >= 1600
    assert 0.0 <= metrics["reward_accuracy"] <= 1.0
    venv = make_vec_env("Pendulum-v1", n_envs=1, seed=1)
    episode = rollout.rollout(
        agent, venv, rollout.make_sample_until(min_episodes=1), rng=np.random.default_rng(0), unwrap=False
    )[0]
    assert model.predict(episode.obs[:-1], episode.acts).shape == (1, 200)
    with open(tmp_path / "progress.csv") as file:
        assert len(list(csv.DictReader(file))) == 3, "one row for the first comparisons, one for each iteration"


def test_tasks_that_end_early_are_refused_in_one_line() -> None:
    config = ComparisonsConfig(iterations=2, epochs=1, initial_epoch_multiplier=1, environments=1, fragment_length=5)
    with pytest.raises(PrefenvsError, match="CartPole-v1 have different lengths"):
        train_preference_comparisons("CartPole-v1", 400, 20, config=config)
    with pytest.raises(PrefenvsError, match="longer than the horizon"):
        train_preference_comparisons("Pendulum-v1", 400, 20, config=ComparisonsConfig(fragment_length=201))
