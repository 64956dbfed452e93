from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import prefenvs
from prefenvs.preferences import Query, make_pairs
from prefenvs.store import Store
from prefenvs.trajectories import Trajectories, TrajectoryBuffer

sys.path.insert(0, str(Path(__file__).parent))

from server import Script, ScriptedServer

TASK = "Pendulum-v1"


@pytest.fixture(scope="session")
def swings() -> Trajectories:
    """Three recorded episodes of a random pendulum."""
    env = prefenvs.make(TASK)
    buffer = TrajectoryBuffer(TASK)
    rng = np.random.default_rng(0)
    for seed in range(3):
        observation, info = env.reset(seed=seed)
        done = False
        while not done:
            action = rng.uniform(-2, 2, 1).astype(np.float32)
            state = info["state"]
            following, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            buffer.add_step(0, observation, action, info["true_reward"], state, done=done, terminated=terminated)
            observation = following
    return buffer.trajectories()


@pytest.fixture
def make_queries(swings: Trajectories) -> Callable[..., list[Query]]:
    def make(count: int, seed: int = 0) -> list[Query]:
        return make_pairs(swings.sample(2 * count, 10, np.random.default_rng(seed)))

    return make


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def start(script: Script, **options: Any) -> ScriptedServer:
        servers.append(ScriptedServer(script, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened
