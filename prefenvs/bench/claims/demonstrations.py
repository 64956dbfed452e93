"""Demonstrations of an imperfect person beside labels, on Pendulum-v1: PEBBLE kept close to their clone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from prefenvs.agents.registry import Online, find_algorithm
from prefenvs.bench.claims.claim import Measured
from prefenvs.bench.claims.interventions import TASK, Swinger, measure_return, play
from prefenvs.bench.claims.online import swing, swing_settings
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.oracles import CoinOracle, PartialReturnOracle
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

STEPS, SHOWN = 6_000, 1_000


class Clone:
    """The cloned policy that an agent is kept close to."""

    def __init__(self, agent: Any) -> None:
        self.agent = agent

    def predict(self, observation: Array, *_: Any, **__: Any) -> tuple[Array, None]:
        """Return its mean actions."""
        with torch.no_grad():
            mean = self.agent.clone.get_action_dist_params(torch.as_tensor(observation))[0].tanh()
        return self.agent.policy.unscale_action(mean.numpy()), None


@cache
def _learn(seed: int, coin_labels: bool = False) -> tuple[float, float]:
    """Return the mean true returns of the learner and of the clone that it began as."""
    task, settings = find_task(TASK), swing_settings("demonstrations", STEPS)
    observations, actions = play(Swinger(), Swinger(), SHOWN, SHOWN, seed, False)
    ends = np.arange(task.horizon, SHOWN + 1, task.horizon)
    data = Trajectories(observations, actions, ends, terminated=np.zeros(len(ends), bool), task=TASK)
    rater = CoinOracle(seed=seed) if coin_labels else PartialReturnOracle(seed=seed)
    with TemporaryDirectory() as folder:
        shown = write_npz(OfflineDataset("person", data), Path(folder) / "person")
        config = replace(settings.config, demonstrations=str(shown), unsupervised_steps=0)
        given = Online(task, rater, seed, "cpu")
        agent = find_algorithm("demonstrations").make_online(replace(settings, config=config), given)
        agent.learn(STEPS)
    return measure_return(agent, seed), measure_return(Clone(agent), seed)


def plain(seed: int) -> Measured:
    """The learner, and PEBBLE without demonstrations."""
    return Measured(_learn(seed)[0], swing("pebble", seed, STEPS)[0])


def clone(seed: int) -> Measured:
    """The learner, and the clone that it began as."""
    return Measured(*_learn(seed))


def coin(seed: int) -> Measured:
    """The learner, and the same on a coin's labels."""
    return Measured(_learn(seed)[0], _learn(seed, True)[0])
