"""From a person's key strokes to a policy: somebody at the page, here simulated, teaches PEBBLE a task."""

import threading

import numpy as np
import pytest
import torch

import prefenvs
from agents import PEBBLE, PebbleConfig, RewardConfig
from oracles import HumanOracle
from prefenvs.evaluate import evaluate, random_policy

LEFT, RIGHT = "\ue012", "\ue014"
TASK = "Pendulum-v1"


def label(page, store, stop):
    """Look at the two clips on show and press the key of the one with the greater true return."""
    while not stop.is_set():
        if not page.run("return document.querySelector('.clips.shown') !== null"):
            stop.wait(0.1)
            continue
        left, right = page.clips()
        segments = store.find_segments([left, right], with_true_rewards=True)
        better = segments[left].true_rewards.sum() >= segments[right].true_rewards.sum()
        page.answer(LEFT if better else RIGHT)


def teach(page, store, labels, steps):
    """Train PEBBLE on the answers of a rater at the page; training waits for them."""
    torch.set_num_threads(1)
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
        HumanOracle(store, "lesson", wait=True),
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
    stop = threading.Event()
    rater = threading.Thread(target=label, args=(page, store, stop))
    rater.start()
    try:
        agent.learn(steps)
    finally:
        stop.set()
        rater.join()
    answers = store.preferences(run="lesson", with_true_rewards=True)
    assert len(answers) == labels
    assert {answer.oracle for answer in answers} == {"human"}
    for answer in answers:
        returns = [segment.true_rewards.sum() for segment in answer.query.segments]
        assert returns[answer.best] == max(returns)
    return agent


def test_a_reward_model_learns_what_a_rater_at_the_page_wants(store, serve, visit):
    agent = teach(visit(serve()), store, labels=40, steps=1_700)
    seen = agent.recorder.buffer.trajectories()
    fresh = seen.sample(300, 25, np.random.default_rng(1))
    predicted = np.array([agent.reward_model.mean_reward(s.observations, s.actions).sum() for s in fresh])
    true = fresh.true_rewards.sum(1)
    right = (predicted[:150] > predicted[150:]) == (true[:150] > true[150:])
    assert right.mean() > 0.7


@pytest.mark.slow
def test_a_rater_at_the_page_teaches_pebble_a_task(store, serve, visit):
    agent = teach(visit(serve()), store, labels=60, steps=5_000)
    learned = evaluate(agent, TASK, episodes=10, seed=0).mean_return
    env = prefenvs.make(TASK)
    chance = evaluate(random_policy(env.action_space), TASK, episodes=10, seed=0).mean_return
    assert learned > chance + 200, (learned, chance)
