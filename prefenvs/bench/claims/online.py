"""Demonstrations that train an agent online, minutes for each seed."""

from __future__ import annotations

from dataclasses import replace

from prefenvs.agents.registry import Online, find_algorithm
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


def rebel(seed: int, steps: int = STEPS) -> Measured:
    """REBEL's term with a weight of 0.1, and without it."""
    return Measured(_pebble(seed, 0.1, steps), _pebble(seed, 0.0, steps))
