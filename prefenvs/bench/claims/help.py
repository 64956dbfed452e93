"""Kinds of help from a simulated person with three minutes, on Pendulum-v1: the chosen one, and each alone."""

from __future__ import annotations

from contextlib import closing
from functools import cache

import numpy as np

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.interventions import TASK, Swinger
from prefenvs.envs import make
from prefenvs.oracles.simulated.help import HelpOptions, HelpOracle, Kind, SimulatedHelper
from prefenvs.preferences import Preference, make_pairs
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

MINUTES, LENGTH, ROUND = 3.0, 25, 5
"""Of the person; steps of a clip; questions that are asked together."""
BETA = 0.07
"""Inverse temperature of the person's choices: a quarter of the spread of clips' returns, as the belief has it."""
KINDS: tuple[Kind, ...] = ("pair", "best", "rating", "takeover")


@cache
def record_swings(episodes: int, seed: int) -> Trajectories:
    """Record episodes of persons with a bias of their own, who act by chance for a share of the time of their own."""
    rng, expert, buffer = np.random.default_rng(seed), Swinger(), TrajectoryBuffer(TASK, max_episodes=None)
    with closing(make(TASK)) as env:
        for episode in range(episodes):
            observation, info = env.reset(seed=seed * 1_000 + episode)
            expert.bias, share, done = rng.uniform(-2.5, 2.5), rng.random(), False
            while not done:
                row = np.asarray(observation, np.float32)[None]
                action = rng.uniform(-2.0, 2.0, 1) if rng.random() < share else expert.predict(row)[0][0]
                state = np.array(info["state"])
                following, _, terminated, truncated, info = env.step(action.astype(np.float32))
                done = terminated or truncated
                buffer.add_step(0, observation, action, info["true_reward"], state, done=done, terminated=terminated)
                observation = following
    return buffer.trajectories()


@cache
def _accuracy(seed: int, kinds: tuple[Kind, ...]) -> float:
    """Return how many of 2,000 new pairs a reward orders as their returns that was learned from a person's minutes."""
    rng = np.random.default_rng(seed)
    pool, fresh = record_swings(40, seed), record_swings(40, seed + 500).sample(4_000, LENGTH, rng)
    options = HelpOptions(kinds=kinds, beta=BETA)
    oracle = HelpOracle(SimulatedHelper(TASK, options, Swinger(0.0), seed), options, seed)
    told: list[Preference] = []
    while oracle.seconds < 60.0 * MINUTES:
        oracle.ask(make_pairs(pool.sample(2 * ROUND, LENGTH, rng)))
        told += [answer for answer in oracle.collect() if not answer.skipped]
    # As many gradient steps whatever the number of pairs.
    epochs = 300 // -(-len(told) // 128)
    config = RewardConfig(members=1, layers=2, width=64, epochs=epochs, stop="never", normalise=True)
    model = RewardEnsemble(3, 1, config, seed, "cpu")
    model.fit(told)
    rewards = model.predict(fresh.observations, fresh.actions)[0].sum(1).reshape(2, -1)
    assert fresh.true_rewards is not None
    returns = fresh.true_rewards.sum(1).reshape(2, -1)
    return float(np.mean((rewards[0] > rewards[1]) == (returns[0] > returns[1])))


def alone(seed: int, kind: Kind) -> Measured:
    """Chosen help, and one kind of it alone."""
    return Measured(_accuracy(seed, KINDS), _accuracy(seed, (kind,)))
