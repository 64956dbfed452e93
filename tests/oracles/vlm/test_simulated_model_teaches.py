"""From a server's replies to a policy. The server is a simulated model: it reads the true returns."""

import pytest
from server import judge_by

from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import View
from prefenvs.store import Recorded, list_calls

from ...pendulum import TASK, accuracy_of, check_gain, make_pebble


def teach(store, serve, steps, seed=0, **config):
    """Train PEBBLE on the server's verdicts; training waits for them."""
    server = serve(lambda request: judge(request))

    def worth(key):
        return float(store.find_segments([key], with_true_rewards=True)[key].true_rewards.sum())

    judge = judge_by(worth)
    rater = VLMOracle(TASK, "simulated", base_url=server.url, store=store, wait=True, stages="one", view=View(size=32))
    agent = make_pebble(Recorded(rater, store), seed, **config)
    with rater:
        agent.learn(steps)
    assert len(server.requests) == len(list_calls(store)) == agent.config.labels == len(store.preferences())
    return agent


def test_a_reward_model_learns_what_the_server_prefers(store, serve) -> None:
    agent = teach(store, serve, 850, labels=40, interact=200, unsupervised_steps=200)
    assert accuracy_of(agent) > 0.7


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_server_teaches_pebble_a_task(store, serve, seed) -> None:
    check_gain(teach(store, serve, 8_000, seed, labels=120, interact=800, unsupervised_steps=600), 400, seed)
