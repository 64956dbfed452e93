"""Environments that hide their reward: wrappers, state capture, and registration."""

from __future__ import annotations

from typing import Any

import gymnasium

from prefenvs.errors import PrefenvsError


def make(task_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment of a task."""
    raise PrefenvsError(task_id)
