"""What is asked, and how much when: a query selector and a schedule of one's own, each a function."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from own_environment import SMALL, Reach, nearer

import prefenvs
from prefenvs import Preference, Query, Trajectories
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.preferences import make_pairs
from prefenvs.protocols import RewardModel, predict_segments


def toss_ups(
    pool: Trajectories,
    count: int,
    length: int,
    reward_model: RewardModel | None,
    labelled: Sequence[Preference],
    rng: np.random.Generator,
) -> list[Query]:
    """Ask about the pairs, of ten times as many, whose learned returns are closest. The first session is uniform."""
    segments = pool.sample(20 * count, length, rng)
    if reward_model is None:
        return make_pairs(segments)[:count]
    returns = predict_segments(reward_model, segments.observations, segments.actions).mean(0).sum(1)
    queries = make_pairs(segments)  # segment i with segment i + 10 * count
    gaps = np.abs(returns[: len(queries)] - returns[len(queries) :])
    return [queries[i] for i in np.argsort(gaps)[:count]]


def front_loaded(per_session: int, steps: int, total_steps: int) -> float:
    """Ask much at the beginning: the size of a session falls to a quarter over the run."""
    return per_session * (1.0 - 0.75 * steps / total_steps)


if __name__ == "__main__":
    config = PebbleConfig(labels=60, per_session=20, interact=200, segment_length=10, unsupervised_steps=200,
                          selector=toss_ups, schedule=front_loaded)  # fmt: skip
    agent = PEBBLE("MlpPolicy", prefenvs.make(Reach), nearer, config, **SMALL)
    agent.learn(900)
    assert agent.feedback is not None
    # In a shell: prefenvs train pebble --selector own_selector:toss_ups --schedule own_selector:front_loaded ...
    print(f"{agent.feedback.labels} labels")
