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


def _pebble(seed: int, agent_weight: float, steps: int) -> float:
    """Return the mean true return of PEBBLE on Reacher after 100 labels."""
    algorithm, task = find_algorithm("pebble"), find_task("Reacher-v5")
    settings = algorithm.settings(task, "small", steps=steps)
    config = replace(
        settings.config,
        labels=100,
        per_session=20,
        interact=steps // 10,
        segment_length=10,
        unsupervised_steps=steps // 10,
        selector="uniform",
        reward=replace(settings.config.reward, agent_weight=agent_weight),
    )
    given = Online(task, PartialReturnOracle(seed=seed), seed, "cpu")
    agent = algorithm.make_online(replace(settings, config=config), given)
    agent.learn(steps)
    return evaluate(agent, task.id, episodes=20, seed=seed + 1).mean_return


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
def swing(name: str, seed: int, steps: int) -> tuple[float, int]:
    """Return the mean true return of PEBBLE or a relative on Pendulum, and how many labels it asked for."""
    task = find_task("Pendulum-v1")
    given = Online(task, PartialReturnOracle(seed=seed), seed, "cpu")
    agent = find_algorithm(name).make_online(swing_settings(name, steps), given)
    agent.learn(steps)
    assert agent.feedback is not None
    return evaluate(agent, task.id, episodes=20, seed=seed + 1).mean_return, agent.feedback.labels


def thompson(seed: int, steps: int = STEPS) -> Measured:
    """Return of PEBBLE by Thompson sampling, and of plain PEBBLE."""
    return Measured(swing("thompson", seed, steps)[0], swing("pebble", seed, steps)[0])


def thompson_labels(seed: int, steps: int = STEPS) -> Measured:
    """Labels that Thompson sampling asks for, and plain PEBBLE."""
    return Measured(swing("thompson", seed, steps)[1], swing("pebble", seed, steps)[1])


def resets(seed: int, steps: int = STEPS) -> Measured:
    """Return of PEBBLE with resets to labelled states, and without."""
    return Measured(swing("resets", seed, steps)[0], swing("pebble", seed, steps)[0])


def rebel(seed: int, steps: int = STEPS) -> Measured:
    """REBEL's term with a weight of 0.1, and without it."""
    return Measured(_pebble(seed, 0.1, steps), _pebble(seed, 0.0, steps))
