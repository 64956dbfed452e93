"""States of the process's global random generators, which Stable-Baselines3 draws from."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class RngState:
    """States of the global generators of Python, NumPy and PyTorch."""

    python: Any
    numpy: Any
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None

    @classmethod
    def capture(cls) -> RngState:
        """Return the present states."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)  # noqa: NPY002

    def state_dict(self) -> dict[str, Any]:
        """Return the states as plain values, which JSON holds."""
        kind, keys, *rest = self.numpy
        version, words, normal = self.python
        cuda = None if self.torch_cuda is None else self.torch_cuda.tolist()
        return {
            "python": [version, list(words), normal],
            "numpy": [kind, keys.tolist(), *rest],
            "torch_cpu": self.torch_cpu.tolist(),
            "torch_cuda": cuda,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> RngState:
        """Return what `state_dict` made a dictionary of; without a CUDA device, its state is left out."""
        kind, keys, *rest = state["numpy"]
        version, words, normal = state["python"]
        cuda = state["torch_cuda"] if torch.cuda.is_available() else None
        return cls(
            (version, tuple(words), normal),
            (kind, np.asarray(keys, np.uint32), *rest),
            torch.tensor(state["torch_cpu"], dtype=torch.uint8),
            None if cuda is None else torch.tensor(cuda, dtype=torch.uint8),
        )

    def restore(self) -> None:
        """Set the generators to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None:
            torch.cuda.set_rng_state(self.torch_cuda)
