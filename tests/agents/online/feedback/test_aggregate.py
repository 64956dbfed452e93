"""What an ensemble becomes for the agent, and the learned return beside the true one."""

import numpy as np
import pytest
from stable_baselines3.common.logger import Logger

import prefenvs
from prefenvs.agents import PEBBLE
from prefenvs.agents.online.pebble import PebbleConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.runs.callbacks import EvaluationCallback
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.oracles import PartialReturnOracle
from prefenvs.runs import Run

SMALL = {
    "labels": 8,
    "per_session": 4,
    "interact": 60,
    "segment_length": 10,
    "unsupervised_steps": 60,
    "reset_updates": 1,
    "reward": RewardConfig(width=16, layers=1, epochs=2),
}


def make_agent(**settings: object) -> PEBBLE:
    return PEBBLE(
        "MlpPolicy",
        prefenvs.make("InvertedPendulum-v5"),
        PartialReturnOracle(seed=0),
        PebbleConfig(**SMALL, **settings),
        learning_starts=30,
        batch_size=16,
        buffer_size=400,
        policy_kwargs={"net_arch": [16]},
        seed=0,
        device="cpu",
    )


@pytest.mark.parametrize("aggregate", ["mean", "min", "mean-std"])
def test_the_agent_maximises_what_it_was_told_to(aggregate: str) -> None:
    agent = make_agent(aggregate=aggregate, std_weight=2.0)
    agent.learn(200)
    buffer = agent.replay_buffer
    rows = buffer.size()
    actions = agent.policy.unscale_action(buffer.actions[:rows, 0])
    members = agent.reward_model.predict(buffer.observations[:rows, 0], actions)
    expected = {
        "mean": members.mean(0),
        "min": members.min(0),
        "mean-std": members.mean(0) - 2.0 * members.std(0),
    }[aggregate]
    np.testing.assert_allclose(buffer.rewards[:rows, 0], expected, rtol=1e-4, atol=1e-5)
    assert members.std(0).max() > 0


@pytest.mark.parametrize(("setting", "value"), [("aggregate", "median"), ("std_weight", -1.0)])
def test_an_unknown_aggregate_is_named(setting: str, value: object) -> None:
    with pytest.raises(PrefenvsError, match=f"{setting}.*{value}"):
        PebbleConfig(**{setting: value})


def test_evaluations_tell_the_learned_return_of_the_same_episodes(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "train pebble", {})
    agent = make_agent()
    agent.set_logger(Logger(None, []))
    agent.learn(200, callback=EvaluationCallback(run, "InvertedPendulum-v5", every=80, episodes=3, seed=4))
    rows = run.rows("evaluations")
    assert np.isnan(rows[0]["learned_return"])  # nothing is learned before the first session
    seen = evaluate(agent, "InvertedPendulum-v5", episodes=3, seed=4, record=3)
    assert rows[-1]["mean_return"] == pytest.approx(seen.mean_return, abs=1e-3)
    members = agent.reward_model.predict(seen.trajectories.observations, seen.trajectories.actions).sum(1) / 3
    assert rows[-1]["learned_return"] == pytest.approx(members.mean(), abs=1e-3)
    assert rows[-1]["learned_return_min"] == pytest.approx(members.min(), abs=1e-3)


def test_the_upper_bound_has_no_learned_return(tmp_path) -> None:
    run = Run.create(tmp_path / "run", "train pebble", {})
    agent = make_agent(true_reward=True)
    agent.set_logger(Logger(None, []))
    agent.learn(100, callback=EvaluationCallback(run, "InvertedPendulum-v5", every=100, episodes=2))
    assert all(np.isnan(row["learned_return"]) for row in run.rows("evaluations"))
