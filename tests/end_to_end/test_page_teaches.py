"""From a person's key strokes to a policy: somebody at the page, here simulated, teaches PEBBLE a task."""

import threading

import numpy as np
import pytest
import torch

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.oracles import HumanOracle

LEFT, RIGHT = "\ue012", "\ue014"
TASK = "Pendulum-v1"
SEGMENT = 25


class Rater(threading.Thread):
    """Look at the two clips on show and press the key of the one with the greater true return."""

    def __init__(self, page, store, oracle):
        super().__init__()
        self.page, self.store, self.oracle = page, store, oracle
        self.over, self.error = threading.Event(), None

    def run(self):
        try:
            while not self.over.is_set():
                if self.page.run("return document.querySelector('.clips.shown') !== null"):
                    self.label()
                else:
                    self.over.wait(0.05)
        except BaseException as error:
            self.error = error
            # Nobody will answer any more; training is not to wait for it.
            self.oracle.wait = False

    def label(self):
        left, right = self.page.clips()
        segments = self.store.find_segments([left, right], with_true_rewards=True)
        better = segments[left].true_rewards.sum() >= segments[right].true_rewards.sum()
        self.page.answer(LEFT if better else RIGHT)


def teach(page, store, steps, seed=0, **config):
    """Train PEBBLE on the answers of a rater at the page; training waits for them."""
    torch.set_num_threads(1)
    config = PebbleConfig(
        per_session=20,
        segment_length=SEGMENT,
        selector="uniform",
        entropy_states=500,
        reward=RewardConfig(width=64, layers=2, epochs=60),
        **config,
    )
    oracle = HumanOracle(store, "lesson", wait=True)
    agent = PEBBLE(
        "MlpPolicy",
        prefenvs.make(TASK),
        oracle,
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
    rater = Rater(page, store, oracle)
    rater.start()
    try:
        agent.learn(steps)
    finally:
        rater.over.set()
        rater.join()
    if rater.error is not None:
        raise rater.error
    answers = store.preferences(run="lesson", with_true_rewards=True)
    assert len(answers) == agent.config.labels
    assert {answer.oracle for answer in answers} == {"human"}
    for answer in answers:
        returns = [segment.true_rewards.sum() for segment in answer.query.segments]
        assert returns[answer.best] == max(returns)
    return agent


def test_a_reward_model_learns_what_a_rater_at_the_page_wants(store, serve, visit):
    agent = teach(visit(serve()), store, 850, labels=40, interact=200, unsupervised_steps=200)
    seen = agent.recorder.buffer.trajectories()
    fresh = seen.sample(300, SEGMENT, np.random.default_rng(1))
    predicted = np.array([agent.reward_model.predict(s.observations, s.actions).mean(0).sum() for s in fresh])
    true = fresh.true_rewards.sum(1)
    right = (predicted[:150] > predicted[150:]) == (true[:150] > true[150:])
    assert right.mean() > 0.75


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rater_at_the_page_teaches_pebble_to_swing_a_pendulum_up(store, serve, visit, seed):
    """Random actions return about -1200 an episode, a pendulum that is swung up and held about -150."""
    agent = teach(visit(serve()), store, 8_000, seed, labels=120, interact=800, unsupervised_steps=600)
    learned = evaluate(agent, TASK, episodes=20, seed=0).mean_return
    env = prefenvs.make(TASK)
    chance = evaluate(random_policy(env.action_space), TASK, episodes=20, seed=0).mean_return
    print(f"seed {seed}: learned {learned:.0f}, by chance {chance:.0f}")
    assert learned > chance + 600, (learned, chance)
