"""Demonstrations that train an agent online, minutes for each seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from prefenvs.agents.registry import Online, Settings, find_algorithm
from prefenvs.bench.claims.claim import Measured
from prefenvs.evaluate import evaluate
from prefenvs.oracles import PartialReturnOracle
from prefenvs.tasks import find_task

STEPS = 10_000


def swing_settings(name: str, steps: int) -> Settings:
    """Return settings of PEBBLE or a relative for Pendulum, with 100 labels."""
    settings = find_algorithm(name).settings(find_task("Pendulum-v1"), "small", steps=steps)
    config = replace(
        settings.config,
        labels=100,
        per_session=10,
        interact=steps // 15,
        segment_length=20,
        unsupervised_steps=steps // 10,
        selector="uniform",
        reward=replace(settings.config.reward, width=64, layers=2, epochs=20),
    )
    options = replace(
        settings.options, learning_starts=200, hidden=(64, 64), batch_size=128, learning_rate=1e-3, layer_norm=False
    )
    return replace(settings, config=config, options=options)


@cache
def swing(name: str, seed: int, steps: int = STEPS, agent_weight: float = 0.0, bonus: float = 0.0) -> tuple[float, int]:
    """Return the mean true return of PEBBLE or a relative on Pendulum, and how many labels it asked for.

    agent_weight: REBEL's; bonus: RUNE's.
    """
    task, settings = find_task("Pendulum-v1"), swing_settings(name, steps)
    reward = replace(settings.config.reward, agent_weight=agent_weight)
    settings = replace(settings, config=replace(settings.config, bonus=bonus, reward=reward))
    given = Online(task, PartialReturnOracle(seed=seed), seed, "cpu")
    agent = find_algorithm(name).make_online(settings, given)
    agent.learn(steps)
    assert agent.feedback is not None
    return evaluate(agent, task.id, episodes=20, seed=seed + 1).mean_return, agent.feedback.labels


def beside_pebble(seed: int, name: str) -> Measured:
    """Return of a relative of PEBBLE, and of PEBBLE itself."""
    return Measured(swing(name, seed)[0], swing("pebble", seed)[0])


def thompson_rune(seed: int) -> Measured:
    """Return of PEBBLE by Thompson sampling, and of PEBBLE with RUNE's bonus for what the members disagree on."""
    return Measured(swing("thompson", seed)[0], swing("pebble", seed, bonus=0.05)[0])


def thompson_labels(seed: int) -> Measured:
    """Labels that Thompson sampling asks for, and plain PEBBLE."""
    return Measured(swing("thompson", seed)[1], swing("pebble", seed)[1])


def rebel(seed: int) -> Measured:
    """REBEL's term with a weight of 0.1, and without it."""
    return Measured(swing("pebble", seed, agent_weight=0.1)[0], swing("pebble", seed)[0])
