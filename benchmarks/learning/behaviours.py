"""Behaviours that no task rewards, each with a measure that a scripted rater judges by.

Run from this folder: `prefenvs bench run behaviours:BEHAVIOURS --folder bench/behaviours`, or one by
`prefenvs train pebble --task behaviours:CheetahBackwards --preset reliable`, then `prefenvs record` the run. The
measure is the hidden reward, so that `evaluate` tells it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from prefenvs.bench.cells import Limits, Option
from prefenvs.bench.suite import Grid, Suite

Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


class CheetahBackwards(HalfCheetahEnv):
    """The two-legged cheetah runs to the left, backwards, as fast as it can.

    Measure: metres a second to the left.
    """

    max_episode_steps = 1_000

    def step(self, action: np.ndarray) -> Step:  # type: ignore[override]
        """Step the simulation; the reward is the measure."""
        observation, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, -float(info["x_velocity"]), terminated, truncated, info


class CheetahOnItsBack(HalfCheetahEnv):
    """The two-legged cheetah lies on its back, its legs in the air.

    Measure: minus the cosine of the torso's pitch, 1 on its back and -1 on its feet.
    """

    max_episode_steps = 500

    def step(self, action: np.ndarray) -> Step:  # type: ignore[override]
        """Step the simulation; the reward is the measure."""
        observation, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, -float(np.cos(self.data.qpos[2])), terminated, truncated, info


class HopperFlip(HopperEnv):
    """The one-legged hopper turns backward somersaults.

    Measure: turns of the torso a second, backward ones positive. Episodes do not end when it falls.
    """

    max_episode_steps = 500

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(terminate_when_unhealthy=False, **kwargs)

    def step(self, action: np.ndarray) -> Step:  # type: ignore[override]
        """Step the simulation; the reward is the measure."""
        before = float(self.data.qpos[2])
        observation, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        turns = (before - float(self.data.qpos[2])) / (2.0 * np.pi)
        return observation, turns / self.dt, terminated, truncated, info


class WalkerOneLeg(Walker2dEnv):
    """The two-legged walker stands upright on its left leg and holds its right foot up.

    Measure: height of the right foot over the ground, in metres, while the torso is above 0.8 m and within half a
    radian of upright; 0 else. Episodes do not end when it falls.
    """

    max_episode_steps = 500

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(terminate_when_unhealthy=False, **kwargs)

    def step(self, action: np.ndarray) -> Step:  # type: ignore[override]
        """Step the simulation; the reward is the measure."""
        observation, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        height, lean = float(self.data.qpos[1]), float(self.data.qpos[2])
        foot = float(self.data.body("foot").xpos[2])
        standing = height > 0.8 and abs(lean) < 0.5
        return observation, foot if standing else 0.0, terminated, truncated, info


def _behaviour(name: str, steps: int, labels: int, **options: Option) -> Grid:
    run: dict[str, Option] = {"preset": "reliable", "steps": steps, "evaluate_every": steps // 5, "episodes": 5}
    return Grid(
        methods=("pebble", "pebble-coin", "pebble-no-labels", "pebble-true-reward-explored"),
        tasks=(f"behaviours:{name}",),
        labels=(labels,),
        seeds=(0, 1, 2, 3, 4),
        options=run | {"segment_length": 25, "unsupervised_steps": 2_000, "per_session": 50} | options,
        # What the committed results were made with; the preset has had neither since.
        method_options={
            name: {"selector": "policy-likelihood", "aggregate": "mean"} for name in ("pebble", "pebble-coin")
        },
        limits=Limits(seconds=3_600, memory_gb=6),
    )


BEHAVIOURS = Suite(
    "behaviours",
    "Behaviours that no task rewards: labels by a scripted rater, a coin, no labels, and the measure itself.",
    (
        _behaviour("CheetahBackwards", 15_000, 700, interact=600),
        _behaviour("CheetahOnItsBack", 12_000, 600, interact=700),
        _behaviour("HopperFlip", 15_000, 700, interact=600),
        _behaviour("WalkerOneLeg", 30_000, 1_000, interact=1_000),
    ),
    reduced="12,000 to 30,000 environment steps, networks of 2x128, five seeds.",
)
