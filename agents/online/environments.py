"""The episodes under way in a checkpoint: a pickle that can hold numbers, arrays and random generators, and no code."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from prefenvs.agents.nets.rng_state import RngState
from prefenvs.envs.recording import TrajectoryRecorder

# What NumPy's arrays, scalars and generators are made by.
NUMPY_NAMES = (
    *("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer", "__generator_ctor", "__bit_generator_ctor"),
    *("__randomstate_ctor", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64", "SeedSequence"),
    *("__pyx_unpickle_SeedSequence",),
)


class EpisodesUnpickler(pickle.Unpickler):
    """Finds NumPy's own constructors and `Snapshot`; any other name is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class or function of that name if a file of episodes may hold it."""
        numpy_own = module.split(".")[0] == "numpy" and name in NUMPY_NAMES
        if numpy_own or (module, name) == ("prefenvs.envs.states", "Snapshot"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")


def save_episodes(recorder: TrajectoryRecorder, path: Path) -> None:
    """Write the episodes under way, or None where the task cannot tell its state."""
    path.write_bytes(pickle.dumps(recorder.keep_episodes()))


def read_episodes(path: Path) -> dict[str, Any] | None:
    """Read what `save_episodes` wrote."""
    kept: dict[str, Any] | None = EpisodesUnpickler(io.BytesIO(path.read_bytes())).load()
    return kept


def random_state(agent: Any) -> dict[str, Any]:
    """Return where the random generators of an agent's process stand, and that of its action space."""
    return RngState.capture().state_dict() | {"actions": _plain(agent.action_space.np_random.bit_generator.state)}


def go_on_drawing(agent: Any, state: dict[str, Any]) -> None:
    """Let the generators go on from what `random_state` returned."""
    agent.action_space.np_random.bit_generator.state = state["actions"]
    RngState.from_dict(state).restore()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
