"""Data sets of other projects as trajectories and preferences, and back."""

from __future__ import annotations

from prefenvs.datasets.imitation import read_imitation, write_imitation

__all__ = ["read_imitation", "write_imitation"]
