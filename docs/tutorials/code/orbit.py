"""A dot that a post keeps out, a taste for how it should move, and a picture of what came of it.

python orbit.py FOLDER ... draws paths of random actions and of the policies of these run folders into orbit.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from prefenvs import Segment, make

Array = NDArray[Any]


class Orbit(gymnasium.Env[Array, Array]):
    """The white dot circles the red post, anticlockwise."""  # people and models as raters read this sentence

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    max_episode_steps = 60
    has_reward = False  # what it gives means nothing
    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    post = 0.3

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.state: Array = np.array([self.post, 0.0])  # with `state` and `render`, clips are made of recorded states

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self._outside(self.np_random.uniform(-0.9, 0.9, 2))
        return self.state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        self.state = self._outside(np.clip(self.state + 0.1 * np.clip(action, -1.0, 1.0), -1.0, 1.0))
        return self.state.astype(np.float32), 0.0, False, False, {}  # no reward says how to move

    def _outside(self, place: Array) -> Array:
        """The place, or the nearest one outside the post."""
        distance = max(float(np.linalg.norm(place)), 1e-6)
        return np.asarray(place * max(1.0, self.post / distance))

    def render(self) -> Any:
        rows, columns = np.mgrid[1:-1:128j, -1:1:128j]
        picture = np.full((128, 128, 3), 40, np.uint8)
        picture[rows**2 + columns**2 < self.post**2] = (200, 60, 60)
        x, y = 0.95 * self.state
        picture[(rows - y) ** 2 + (columns - x) ** 2 < 0.06**2] = 255
        return picture


def angle(places: Array) -> float:
    """Radians that places `[T, 2]` sweep around the post, anticlockwise."""
    directions = np.unwrap(np.arctan2(places[:, 1], places[:, 0]))
    return float(directions[-1] - directions[0])


def taste(first: Segment, second: Segment) -> float | None:
    """My choice in place of my clicks: 0 or 1, the segment that goes further round; None where I see no difference."""
    swept = [angle(segment.observations) for segment in (first, second)]
    return None if abs(swept[0] - swept[1]) < 0.2 else float(swept[1] > swept[0])


def paths(policy: Any, episodes: int = 6) -> list[Array]:
    """Episodes of a policy, or of random actions for None: places `[T, 2]` each."""
    env, played = make(Orbit), []
    env.action_space.seed(0)
    for episode in range(episodes):
        observation, _ = env.reset(seed=1_000 + episode)
        places = [observation]
        for _ in range(Orbit.max_episode_steps):
            action = env.action_space.sample() if policy is None else policy.predict(observation, deterministic=True)[0]
            observation = env.step(action)[0]
            places.append(observation)
        played.append(np.array(places))
    return played


def draw(policies: dict[str, Any], file: str) -> dict[str, float]:
    """Draw the paths of policies beside each other; returns the mean rounds that each makes in an episode."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(policies), figsize=(3.2 * len(policies), 3.4), squeeze=False)
    rounds = {}
    for (name, policy), axis in zip(policies.items(), axes[0], strict=True):
        played = paths(policy)
        rounds[name] = float(np.mean([angle(places) / (2 * np.pi) for places in played]))
        for places in played:
            axis.plot(*places.T, linewidth=1)
            axis.plot(*places[0], "k.")
        axis.add_patch(plt.Circle((0, 0), Orbit.post, color="firebrick"))
        axis.set(title=f"{name}: {rounds[name]:+.1f} rounds", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)
    return rounds


if __name__ == "__main__":
    from prefenvs.agents.runs.train import load_policy
    from prefenvs.runs import Run

    print(draw({"random": None} | {name: load_policy(Run(Path(name))) for name in sys.argv[1:]}, "orbit.png"))
