"""An environment of one's own: any `gymnasium.Env`. Whatever else prefenvs needs is inferred from it, or said here."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import prefenvs
from prefenvs import Segment
from prefenvs.envs.check import check_task

Array = NDArray[Any]
SMALL: dict[str, Any] = {
    "learning_rate": 1e-3, "gamma": 0.95, "learning_starts": 200, "batch_size": 64, "target_update_interval": 1,
    "policy_kwargs": {"net_arch": [32, 32]}, "device": "cpu", "seed": 0,
}  # fmt: skip
"""Arguments of SAC for so small a task."""


class Reach(gymnasium.Env[Array, Array]):
    """The white dot moves to the green square and stays there."""  # raters read this sentence

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    max_episode_steps = 50
    observation_space = spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.state: Array = np.zeros(4)  # dot and square; with `state` and `render` clips are made from recorded states

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-0.9, 0.9, 4)
        return self.state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        dot = np.clip(self.state[:2] + 0.1 * np.clip(action, -1.0, 1.0), -1.0, 1.0)
        self.state = np.concatenate([dot, self.state[2:]])
        distance = float(np.linalg.norm(self.state[:2] - self.state[2:]))
        # The reward is for evaluation alone: prefenvs.make hides it from the learner. It may be 0.0 if there is none.
        return self.state.astype(np.float32), -distance, False, False, {"is_success": distance < 0.1}

    def render(self) -> Any:
        picture = np.full((128, 128, 3), 40, np.uint8)
        for (x, y), colour, half in ((self.state[2:], (60, 180, 75), 8), (self.state[:2], (255, 255, 255), 4)):
            row, column = int(64 - 56 * y), int(64 + 56 * x)
            picture[row - half : row + half, column - half : column + half] = colour
        return picture


def nearer(first: Segment, second: Segment) -> int:
    """Say which of two segments ends nearer to the square: 0 or 1."""
    left = [np.linalg.norm(segment.observations[-1, :2] - segment.observations[-1, 2:]) for segment in (first, second)]
    return int(left[1] < left[0])


if __name__ == "__main__":
    env = prefenvs.make("own_environment:Reach")  # or the class, an object, an id; the row that is inferred is printed
    env.reset(seed=0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    print(f"the learner sees the reward {reward}, evaluation {info['true_reward']:.2f}")
    for check in check_task("own_environment:Reach"):  # in a shell: prefenvs doctor --task own_environment:Reach
        print("ok    " if check.passed else "FAILED", check.name, check.detail)
