"""Files of offline learners, and the spaces that their networks are made for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

import prefenvs
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import list_tasks

FORMAT = "prefenvs-offline-1"


def read_state(path: str | Path) -> dict[str, Any]:
    """Read the file of a learner, whatever its kind; raises PrefenvsError for anything else."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise KeyError("format")
    except FileNotFoundError:
        raise PrefenvsError(f"there is no saved learner at {path}") from None
    except Exception as error:
        raise PrefenvsError(f"{path} was not written by an offline learner's save ({type(error).__name__})") from error
    return state


def read_config(kind: type[Any], values: dict[str, Any]) -> Any:
    """Make a configuration from plain values; dataclasses inside it are told by their defaults.

    A field that is not there, because the file is older than it, gets its default.
    """
    made = {}
    default = kind()
    for field in dataclasses.fields(kind):
        like = getattr(default, field.name)
        value = values.get(field.name, like)
        if dataclasses.is_dataclass(like) and isinstance(value, dict):
            value = read_config(type(like), value)
        made[field.name] = tuple(value) if isinstance(like, tuple) else value
    return kind(**made)


def find_spaces(dataset: OfflineDataset, action_space: spaces.Box | None) -> tuple[spaces.Box, spaces.Box]:
    """Return the spaces that the networks are made for, after a look at whether the data are of their task."""
    data = dataset.trajectories
    observation_shape = data.observations.shape[1:]
    if action_space is None and dataset.task in {task.id for task in list_tasks()}:
        env = prefenvs.make(dataset.task)
        observation_size, space = spaces.flatdim(env.observation_space), env.action_space
        env.close()
        if not isinstance(space, spaces.Box):
            raise PrefenvsError(f"the actions of {dataset.task} are {space}; offline learners take continuous ones")
        if (observation_size, *space.shape) != (observation_shape[-1], *data.actions.shape[1:]):
            raise PrefenvsError(
                f"data set {dataset.name!r} has observations {list(observation_shape)} and actions "
                f"{list(data.actions.shape[1:])}, but task {dataset.task} has [{observation_size}] and "
                f"{list(space.shape)}: name the task that the data were made in"
            )
        action_space = space
    if action_space is None:
        bound = np.maximum(np.abs(data.actions).max(0), 1.0).astype(np.float32)
        action_space = spaces.Box(-bound, bound)
    if not np.isfinite([action_space.low, action_space.high]).all():
        raise PrefenvsError(f"the actions of {dataset.task or dataset.name!r} have no bounds: pass action_space=...")
    return spaces.Box(-np.inf, np.inf, observation_shape, np.float32), action_space
