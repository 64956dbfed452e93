"""Tasks that do what environments of others do: reuse arrays, and have spaces of every kind."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from prefenvs.tasks import Task
from prefenvs.tasks import task as table

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Awkward(gymnasium.Env[Any, Any]):
    """Episodes of 6 steps; the true reward of a step is 1 for the greatest action of the space, else 0."""

    observation_space: spaces.Space[Any] = BOX
    action_space: spaces.Space[Any] = BOX

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.taken: list[Any] = []
        self.state = np.array([float(self.np_random.uniform())])
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.state = self.state + 1.0
        return self.observation_space.sample(), float(np.min(action) > 0), len(self.taken) >= 6, False, {}


class Reusing(gymnasium.Env[Any, Any]):
    """Writes every observation and every state into the same two arrays: [episode, step]."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = BOX

    def __init__(self) -> None:
        self.seen, self.state = np.zeros(2, np.float32), np.zeros(2)
        self.episode = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self._show(0)
        return self.seen, {"state": self.state}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._show(int(self.seen[1]) + 1)
        action[:] = 0.0  # even what it is given
        return self.seen, 1.0, self.seen[1] >= 6, False, {"state": self.state, "true_reward": 1.0}

    def _show(self, step: int) -> None:
        self.seen[:] = self.state[:] = self.episode, step


def make_task(name: str, env: type[Any]) -> Task:
    """A row for a class that this module holds under `name`."""
    globals()[name] = env
    return Task(
        f"{name}-v0",
        "classic_control",
        "It is awkward.",
        horizon=20,
        segment_length=2,
        fps=10,
        source=f"{__name__}:{name}",
    )


def add_task(monkeypatch: pytest.MonkeyPatch, row: Task) -> str:
    """Put a row into the table for the time of a test, and return its id."""
    monkeypatch.setitem(table.tables(), row.id, row)
    return row.id


def task_with(
    monkeypatch: pytest.MonkeyPatch, name: str, observation: spaces.Space[Any] = BOX, action: spaces.Space[Any] = BOX
) -> str:
    """Return the id of a task of `Awkward` with these spaces."""
    env = type(name, (Awkward,), {"observation_space": observation, "action_space": action})
    return add_task(monkeypatch, make_task(name, env))


REUSING = make_task("Reusing", Reusing)

LAMP = '''
import gymnasium
import numpy as np
from gymnasium import spaces


class Lamp(gymnasium.Env):
    """The lamp is bright. The rest is for its author."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    observation_space = spaces.Box(0, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    max_episode_steps = 12

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.light = self.np_random.uniform(0, 1, 1).astype(np.float32)
        return self.light, {}

    def step(self, action):
        self.light = np.clip(self.light + 0.2 * np.asarray(action), 0, 1).astype(np.float32)
        return self.light, float(self.light[0]), False, False, {}

    def render(self):
        return np.full((40, 62, 3), int(250 * self.light[0]), np.uint8)
'''
"""A module of a user's, whose task draws itself and tells no states."""
