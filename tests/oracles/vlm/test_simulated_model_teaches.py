"""From a server's replies to a policy. The server is a simulated model: it reads the true returns."""

import numpy as np
import pytest
import torch
from server import judge_by

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import View
from prefenvs.store import Recorded, list_calls

TASK = "Pendulum-v1"


def teach(store, serve, steps, seed=0, **config):
    """Train PEBBLE on the server's verdicts; training waits for them."""
    torch.set_num_threads(1)
    server = serve(lambda request: judge(request))

    def worth(key):
        return float(store.find_segments([key], with_true_rewards=True)[key].true_rewards.sum())

    judge = judge_by(worth)
    rater = VLMOracle(TASK, "simulated", base_url=server.url, store=store, wait=True, stages="one", view=View(size=32))
    config = PebbleConfig(
        per_session=20,
        segment_length=25,
        selector="uniform",
        entropy_states=500,
        reward=RewardConfig(width=64, layers=2, epochs=60),
        **config,
    )
    agent = PEBBLE(
        "MlpPolicy",
        prefenvs.make(TASK),
        Recorded(rater, store),
        config,
        learning_rate=2e-3,
        learning_starts=400,
        batch_size=128,
        gamma=0.97,
        policy_kwargs={"net_arch": [64, 64]},
        buffer_size=10_000,
        target_update_interval=1,
        seed=seed,
        device="cpu",
        ent_coef_learning_rate=2e-3,
    )
    with rater:
        agent.learn(steps)
    assert len(server.requests) == len(list_calls(store)) == config.labels == len(store.preferences())
    return agent


def test_a_reward_model_learns_what_the_server_prefers(store, serve) -> None:
    agent = teach(store, serve, 850, labels=40, interact=200, unsupervised_steps=200)
    fresh = agent.recorder.buffer.trajectories().sample(300, 25, np.random.default_rng(1))
    predicted = np.array([agent.reward_model.predict(s.observations, s.actions).mean(0).sum() for s in fresh])
    true = fresh.true_rewards.sum(1)
    right = (predicted[:150] > predicted[150:]) == (true[:150] > true[150:])
    assert right.mean() > 0.7


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_server_teaches_pebble_a_task(store, serve, seed) -> None:
    """Random actions return about -1200 an episode, a pendulum that is swung up and held about -150."""
    agent = teach(store, serve, 8_000, seed, labels=120, interact=800, unsupervised_steps=600)
    learned = evaluate(agent, TASK, episodes=20, seed=0).mean_return
    env = prefenvs.make(TASK)
    chance = evaluate(random_policy(env.action_space), TASK, episodes=20, seed=0).mean_return
    print(f"seed {seed}: learned {learned:.0f}, by chance {chance:.0f}")
    assert learned > chance + 400, (learned, chance)
