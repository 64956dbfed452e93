"""Data sets of other projects as trajectories and preferences, and back."""

from __future__ import annotations

from prefenvs.datasets.imitation import read_imitation, write_imitation
from prefenvs.datasets.offline import OfflineDataset, Transitions, load_dataset

__all__ = ["OfflineDataset", "Transitions", "load_dataset", "read_imitation", "write_imitation"]
