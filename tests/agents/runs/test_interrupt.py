"""Ctrl-C while an agent learns: nothing is left half done, and an agent that waits for people stops at once."""

import os
import signal

import pytest

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, PrefPPO, PrefPPOConfig
from prefenvs.agents.runs import train as training
from prefenvs.agents.runs.interrupt import StopOnInterrupt
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import Oracle
from prefenvs.runs import Run


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


def make_prefppo():
    env = prefenvs.make("InvertedPendulum-v5")
    small = {"n_steps": 64, "batch_size": 32, "n_epochs": 1, "policy_kwargs": {"net_arch": [8]}}
    return PrefPPO("MlpPolicy", env, None, PrefPPOConfig(true_reward=True), seed=0, device="cpu", **small)


def test_an_error_tells_how_to_go_on_from_the_newest_checkpoint(tmp_path, monkeypatch, capsys):
    """A model's key may expire hours into a run."""
    run, agent = Run.create(tmp_path / "run", "train prefppo", {}), make_prefppo()

    def fail():
        raise PrefenvsError("the key is not accepted")

    monkeypatch.setattr(agent, "train", fail)
    for kept in (False, True):
        if kept:
            agent.save_checkpoint(run.checkpoint)
        with pytest.raises(PrefenvsError, match="not accepted"):
            training.train([agent], [run], 64, 64, episodes=1, progress=False)
        assert (f"prefenvs train prefppo --resume {run.folder}" in capsys.readouterr().out) == kept
        agent.num_timesteps = 0


def test_the_seconds_of_a_resumed_run_are_those_of_all_its_starts(tmp_path):
    run = Run.create(tmp_path / "run", "train prefppo", {})
    agent = make_prefppo()
    training.train([agent], [run], 64, 64, episodes=1, progress=False)
    run.append("evaluations", run.rows("evaluations")[-1] | {"seconds": 1000.0})
    resumed = make_prefppo()
    resumed.resume(run.checkpoint)
    (summary,) = training.train([resumed], [run], 128, 64, episodes=1, progress=False)
    assert summary["seconds"] >= summary["last"]["seconds"] >= 1000.0


@pytest.mark.parametrize("pressed", [80, 120])
def test_no_evaluation_is_lost_where_a_rollout_stops_on_its_step(tmp_path, monkeypatch, pressed):
    """Of 100 steps the last rollout ends after 128: where that one is stopped, nothing would be left to resume."""

    class Pressed(StopOnInterrupt):
        def _on_step(self):
            self.requested |= self.num_timesteps == pressed
            return super()._on_step()

    run = Run.create(tmp_path / "run", "train prefppo", {})
    agent = make_prefppo()
    with monkeypatch.context() as patch:
        patch.setattr(training, "StopOnInterrupt", Pressed)
        try:
            training.train([agent], [run], 100, 40, episodes=1, progress=False)
        except KeyboardInterrupt:
            agent = make_prefppo()
            agent.resume(run.checkpoint)
            training.train([agent], [run], 100, 40, episodes=1, progress=False)
    assert [row["steps"] for row in run.rows("evaluations")][:3] == [0, 40, 80]
    assert run.rows("evaluations")[-1]["steps"] == agent.num_timesteps >= 128
    assert agent.rollout_buffer.full
