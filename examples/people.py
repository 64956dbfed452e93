"""People as raters, from Python alone: a page in the browser, and an agent that waits for its answers."""

from __future__ import annotations

from own_environment import SMALL, Reach

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.oracles import HumanOracle
from prefenvs.oracles.labelling import serve
from prefenvs.store import Store


def teach(labels: int = 30, port: int = 8000) -> PEBBLE:
    """Train an agent on what somebody answers at the page; every answer is in labels.sqlite at once."""
    with Store("labels.sqlite") as store, serve(store, "clips", port=port) as address:
        print(f"open {address} and choose the better clip, {labels} times", flush=True)
        config = PebbleConfig(labels=labels, per_session=10, interact=200, segment_length=20, unsupervised_steps=100)
        rater = HumanOracle(store, "reach", wait=True)
        agent = PEBBLE("MlpPolicy", prefenvs.make(Reach), rater, config, **SMALL)
        agent.learn(300 + 20 * labels)
        return agent


if __name__ == "__main__":
    teach().save("taught.zip")
