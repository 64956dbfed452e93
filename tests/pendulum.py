"""PEBBLE at the size of a pendulum, for the tests in which somebody teaches it, and what it then knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.preferences import Oracle

TASK = "Pendulum-v1"
SEGMENT = 25


def make_pebble(oracle: Oracle, seed: int = 0, **config: Any) -> PEBBLE:
    """Return an agent that learns in 8,000 steps and 120 labels."""
    torch.set_num_threads(1)
    settings = PebbleConfig(
        per_session=20,
        segment_length=SEGMENT,
        selector="uniform",
        entropy_states=500,
        reward=RewardConfig(width=64, layers=2, epochs=60),
        **config,
    )
    return PEBBLE(
        "MlpPolicy",
        prefenvs.make(TASK),
        oracle,
        settings,
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


def accuracy_of(agent: PEBBLE) -> float:
    """Return the share of 150 pairs of recorded segments that the learned reward orders as the true return does."""
    fresh = agent.recorder.buffer.trajectories().sample(300, SEGMENT, np.random.default_rng(1))
    assert fresh.true_rewards is not None
    predicted = np.array([agent.reward_model.predict(s.observations, s.actions).mean(0).sum() for s in fresh])
    true = fresh.true_rewards.sum(1)
    return float(((predicted[:150] > predicted[150:]) == (true[:150] > true[150:])).mean())


def check_gain(agent: PEBBLE, least: float, seed: int) -> None:
    """Random actions return about -1200 an episode, a pendulum that is swung up and held about -150."""
    learned = evaluate(agent, TASK, episodes=20, seed=0).mean_return
    chance = evaluate(random_policy(prefenvs.make(TASK).action_space), TASK, episodes=20, seed=0).mean_return
    print(f"seed {seed}: learned {learned:.0f}, by chance {chance:.0f}")
    assert learned > chance + least, (learned, chance)
