"""From a server's replies to a policy. The server is a stand-in for a model: it reads the true returns."""

import numpy as np
import pytest
import torch
from server import judge_by

import prefenvs
from agents import PEBBLE, PebbleConfig, RewardConfig
from oracles import VLMOracle
from oracles.vlm import View
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.store import Recorded, list_calls

TASK = "Pendulum-v1"


def teach(store, serve, labels, steps):
    """Train PEBBLE on the server's verdicts; training waits for them."""
    torch.set_num_threads(1)
    server = serve(lambda request: judge(request))

    def worth(key):
        return float(store.find_segments([key], with_true_rewards=True)[key].true_rewards.sum())

    judge = judge_by(worth)
    rater = VLMOracle(TASK, "stand-in", base_url=server.url, store=store, wait=True, stages="one", view=View(size=32))
    config = PebbleConfig(
        labels=labels,
        per_session=20,
        interact=800,
        segment_length=25,
        unsupervised_steps=500,
        entropy_states=500,
        reward=RewardConfig(width=64, layers=2, epochs=60),
    )
    agent = PEBBLE(
        "MlpPolicy",
        prefenvs.make(TASK),
        Recorded(rater, store),
        config,
        learning_rate=2e-3,
        learning_starts=300,
        batch_size=128,
        gamma=0.97,
        policy_kwargs={"net_arch": [64, 64]},
        buffer_size=10_000,
        seed=0,
        device="cpu",
        ent_coef_learning_rate=2e-3,
    )
    with rater:
        agent.learn(steps)
    assert len(server.requests) == len(list_calls(store)) == labels == len(store.preferences())
    return agent


def test_a_reward_model_learns_what_the_server_prefers(store, serve) -> None:
    agent = teach(store, serve, labels=40, steps=1_700)
    fresh = agent.recorder.buffer.trajectories().sample(300, 25, np.random.default_rng(1))
    predicted = np.array([agent.reward_model.mean_reward(s.observations, s.actions).sum() for s in fresh])
    true = fresh.true_rewards.sum(1)
    right = (predicted[:150] > predicted[150:]) == (true[:150] > true[150:])
    assert right.mean() > 0.7


@pytest.mark.slow
def test_the_server_teaches_pebble_a_task(store, serve) -> None:
    agent = teach(store, serve, labels=60, steps=5_000)
    learned = evaluate(agent, TASK, episodes=10, seed=0).mean_return
    env = prefenvs.make(TASK)
    chance = evaluate(random_policy(env.action_space), TASK, episodes=10, seed=0).mean_return
    assert learned > chance + 200, (learned, chance)
