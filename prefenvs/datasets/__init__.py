"""Data sets of other projects as trajectories and preferences, and back."""

from __future__ import annotations

from prefenvs.datasets.human_labels import LabelFile, label_preferences, read_labels
from prefenvs.datasets.imitation import read_imitation, write_imitation
from prefenvs.datasets.label_report import LabelReport, report_labels
from prefenvs.datasets.offline import OfflineDataset, Transitions, load_dataset

__all__ = [
    "LabelFile",
    "LabelReport",
    "OfflineDataset",
    "Transitions",
    "label_preferences",
    "load_dataset",
    "read_imitation",
    "read_labels",
    "report_labels",
    "write_imitation",
]
