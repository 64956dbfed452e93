"""Agents with a preset's settings from Python, as the command line makes them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from prefenvs.agents import PEBBLE
from prefenvs.agents.registry import find_algorithm
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import CoinOracle
from prefenvs.tasks import find_task


def test_an_agent_for_a_task_has_the_settings_of_the_command_line() -> None:
    asked: dict[str, Any] = {"steps": 5_000, "labels": 40, "per_session": 10}
    agent = PEBBLE.for_task("Pendulum-v1", CoinOracle(seed=0), "small", gamma=0.9, std_weight=2.0, seed=3, **asked)
    settings = find_algorithm("pebble").settings(find_task("Pendulum-v1"), "small", **asked)
    assert agent.config == dataclasses.replace(settings.config, std_weight=2.0)
    assert (agent.gamma, agent.seed, agent.batch_size) == (0.9, 3, settings.options.batch_size)
    assert agent.task == "Pendulum-v1"
    agent.check_run(5_000)


class OwnPEBBLE(PEBBLE):
    """A learner of one's own by inheritance."""


def test_a_subclass_is_made_for_a_task_too_and_wrong_names_are_told() -> None:
    assert type(OwnPEBBLE.for_task("Pendulum-v1", CoinOracle(seed=0), "small", steps=2_000, labels=20, per_session=10,
                                   buffer_size=100)) is OwnPEBBLE  # fmt: skip
    with pytest.raises(PrefenvsError, match="unknown preset 'tiny' of pebble: choose published or small"):
        PEBBLE.for_task("Pendulum-v1", preset="tiny")
    with pytest.raises(PrefenvsError, match=r"pebble has no setting 'lables'\. Did you mean labels"):
        PEBBLE.for_task("Pendulum-v1", lables=3)
