"""From a person's key strokes to a policy: somebody at the page, here simulated, teaches PEBBLE a task."""

import threading

import pytest

from prefenvs.oracles import HumanOracle

from ...pendulum import accuracy_of, check_gain, make_pebble

LEFT, RIGHT = "\ue012", "\ue014"


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
    oracle = HumanOracle(store, "lesson", wait=True)
    agent = make_pebble(oracle, seed, **config)
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
    assert accuracy_of(agent) > 0.75


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rater_at_the_page_teaches_pebble_to_swing_a_pendulum_up(store, serve, visit, seed):
    check_gain(teach(visit(serve()), store, 8_000, seed, labels=120, interact=800, unsupervised_steps=600), 600, seed)
