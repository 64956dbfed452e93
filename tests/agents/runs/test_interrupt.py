"""Ctrl-C while an agent learns: nothing is left half done, and an agent that waits for people stops at once."""

import os
import signal

import pytest

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import Oracle


class InterruptedRater(Oracle):
    """A rater in whose `collect` the user presses Ctrl-C."""

    name = "interrupted"

    def __init__(self, presses: int, waits: bool) -> None:
        self.teacher = PartialReturnOracle(seed=0)
        self.presses, self.waits = presses, waits

    def ask(self, queries):
        self.teacher.ask(queries)

    def collect(self):
        self.waiting = self.waits
        answers = self.teacher.collect()
        for _ in range(self.presses):
            os.kill(os.getpid(), signal.SIGINT)
        self.presses = 0
        self.waiting = False
        return answers

    @property
    def pending(self):
        return self.teacher.pending


def learn(rater: Oracle) -> tuple[PEBBLE, StopOnInterrupt]:
    config = PebbleConfig(
        labels=40, per_session=10, interact=50, segment_length=5, unsupervised_steps=50, reset_updates=5
    )
    small = {"batch_size": 32, "policy_kwargs": {"net_arch": [16]}, "buffer_size": 1_000}
    env = prefenvs.make("InvertedPendulum-v5")
    agent = PEBBLE("MlpPolicy", env, rater, config, learning_starts=100, seed=0, **small)
    stop = StopOnInterrupt(rater)
    with pytest.raises(KeyboardInterrupt), stop:
        agent.learn(400, callback=stop)
    return agent, stop


def test_the_answers_of_the_session_are_kept():
    agent, stop = learn(InterruptedRater(presses=1, waits=False))
    assert agent.feedback.asked == agent.feedback.labels == 10
    assert stop.requested
    assert stop.safe


def test_every_step_is_both_recorded_and_replayed():
    agent, _ = learn(InterruptedRater(presses=1, waits=False))
    assert agent.replay_buffer.size() == agent.num_timesteps
    assert agent.reward_learned


def test_a_second_ctrl_c_stops_at_once_and_says_that_the_agent_is_not_whole():
    agent, stop = learn(InterruptedRater(presses=2, waits=False))
    assert agent.feedback.labels == 0
    assert not stop.safe


def test_a_rater_who_is_waited_for_is_left_at_once():
    agent, stop = learn(InterruptedRater(presses=1, waits=True))
    assert agent.feedback.labels == 0
    assert stop.safe


def test_the_former_handler_is_put_back():
    former = signal.getsignal(signal.SIGINT)
    learn(InterruptedRater(presses=1, waits=False))
    assert signal.getsignal(signal.SIGINT) is former
