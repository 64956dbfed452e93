"""Files of offline learners, and the spaces that their networks are made for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

import prefenvs
from prefenvs.agents.nets.saved import saved_state
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sizes import check_actions
from prefenvs.errors import PrefenvsError
from prefenvs.segments import Array
from prefenvs.tasks import known_task

FORMAT = "prefenvs-offline-1"
WAY_OUT = "put it back from a copy, or train again"


def read_state(path: str | Path) -> dict[str, Any]:
    """Read the file of a learner, whatever its kind; raises PrefenvsError for anything else."""
    with saved_state(path, FORMAT, "an offline learner", "saved learner") as state:
        return state


def find_spaces(dataset: OfflineDataset, action_space: spaces.Space[Any] | None) -> tuple[spaces.Box, spaces.Box]:
    """Return the spaces that the networks are made for, after a look at whether the data are of their task.

    Raises PrefenvsError for observations that are no vectors, for actions that are not continuous, bounded and within
    sight of their bounds, and for data of other sizes than their task's.
    """
    data = dataset.trajectories
    observation_shape = data.observations.shape[1:]
    where = f"the actions of {dataset.task or repr(dataset.name)}"
    if len(observation_shape) != 1 or data.actions.ndim != 2:
        raise PrefenvsError(
            f"data set {dataset.name!r} has observations {list(observation_shape)} and actions "
            f"{list(data.actions.shape[1:])}; offline learners take vectors: flatten them, and pictures by an encoder"
        )
    if not data.actions.shape[1]:
        raise PrefenvsError(
            f"data set {dataset.name!r} holds no actions, of which a policy learns: `prefenvs actions` infers them "
            "from a data set that has some"
        )
    if action_space is None and known_task(dataset.task) is not None:
        env = prefenvs.make(dataset.task)
        observation_size, space = spaces.flatdim(env.observation_space), env.action_space
        env.close()
        _check_continuous(space, where)
        if (observation_size, spaces.flatdim(space)) != (observation_shape[0], data.actions.shape[1]):
            raise PrefenvsError(
                f"data set {dataset.name!r} has observations {list(observation_shape)} and actions "
                f"{list(data.actions.shape[1:])}, but task {dataset.task} has [{observation_size}] and "
                f"[{spaces.flatdim(space)}]: name the task that the data were made in"
            )
        action_space = space
    elif action_space is None and dataset.action_space is not None:
        _check_continuous(dataset.action_space, where)
        # A file whose box has no bounds tells no more than its actions do.
        action_space = dataset.action_space if _is_bounded(dataset.action_space) else None
    if action_space is None:
        bound = np.maximum(np.abs(data.actions).max(0), 1.0).astype(np.float32)
        action_space = spaces.Box(-bound, bound)
    box = _check_continuous(action_space, where)
    if not _is_bounded(box):
        raise PrefenvsError(f"{where} have no bounds on both sides, or equal ones: pass action_space=...")
    if spaces.flatdim(box) != data.actions.shape[1]:
        raise PrefenvsError(f"{where} have {data.actions.shape[1]} entries, but their space is {box}")
    check_actions(data.actions, box, dataset.name)
    _warn_of_clipping(data.actions, box, dataset.name)
    return spaces.Box(-np.inf, np.inf, observation_shape, np.float32), box


def _check_continuous(space: spaces.Space[Any], where: str) -> spaces.Box:
    """Return the space if it is continuous, else raise a PrefenvsError that names the learners of discrete actions."""
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return space
    discrete = isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    others = "online, prefppo takes discrete ones" if discrete else "no learner here takes such"
    raise PrefenvsError(f"{where} are {space}; offline learners (iql, cpl, ...) take continuous ones: {others}")


def _is_bounded(space: spaces.Space[Any]) -> bool:
    """Whether a box has a lower and a higher bound for each entry."""
    if not isinstance(space, spaces.Box):
        return False
    return bool(np.isfinite([space.low, space.high]).all() and np.all(space.low < space.high))


def _warn_of_clipping(actions: Array, space: spaces.Box, name: str) -> None:
    """Warn where data act outside of the bounds, which an environment clips but a learner imitates."""
    low, high = space.low.ravel(), space.high.ravel()
    margin = 0.01 * (high - low)
    outside = ((actions < low - margin) | (actions > high + margin)).any(1)
    if outside.any():
        warnings.warn(
            f"{outside.mean():.1%} of the actions of data set {name!r} lie outside of their bounds, which learners "
            "cannot reach: clip them where the environment did",
            stacklevel=4,
        )
