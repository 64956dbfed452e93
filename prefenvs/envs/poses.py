"""The humanoid without a reward, for tasks that are defined by a picture in words."""

from __future__ import annotations

from typing import Any

from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv

from prefenvs.segments import Array


class HumanoidPoseEnv(HumanoidEnv):
    """Gymnasium's Humanoid-v5 with a reward of 0 in every step: nobody has written down what a pose is worth.

    Rocamonde et al. 2024 do the same. Its own reward, for walking to the right, would mislead whoever evaluates by it.
    """

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """Advance by one step of 0.015 s; the reward is 0."""
        observation, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        return observation, 0.0, terminated, truncated, info
