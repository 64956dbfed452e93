"""Data sets of other projects as trajectories and preferences, and back."""

from __future__ import annotations

from prefenvs.datasets.collecting import CollectionPlan, collect
from prefenvs.datasets.d4rl.entries import find_d4rl, load_d4rl, read_d4rl
from prefenvs.datasets.formats.imitation import read_imitation, write_imitation
from prefenvs.datasets.formats.minari import read_minari, write_minari
from prefenvs.datasets.formats.npz import read_npz, write_npz
from prefenvs.datasets.labels.files import LabelFile, label_preferences, read_labels
from prefenvs.datasets.labels.report import LabelReport, report_labels
from prefenvs.datasets.labels.table import LabelTable, read_label_table
from prefenvs.datasets.labels.writing import write_label_table
from prefenvs.datasets.load import load_dataset
from prefenvs.datasets.offline import OfflineDataset, TransitionArrays
from prefenvs.datasets.recorded.lerobot import read_lerobot
from prefenvs.datasets.recorded.lerobot_writer import write_lerobot
from prefenvs.datasets.recorded.robomimic import read_robomimic
from prefenvs.datasets.recorded.videos import read_videos
from prefenvs.datasets.sources import Source, parse_mix

__all__ = [
    "CollectionPlan",
    "LabelFile",
    "LabelReport",
    "LabelTable",
    "OfflineDataset",
    "Source",
    "TransitionArrays",
    "collect",
    "find_d4rl",
    "label_preferences",
    "load_d4rl",
    "load_dataset",
    "parse_mix",
    "read_d4rl",
    "read_imitation",
    "read_label_table",
    "read_labels",
    "read_lerobot",
    "read_minari",
    "read_npz",
    "read_robomimic",
    "read_videos",
    "report_labels",
    "write_imitation",
    "write_label_table",
    "write_lerobot",
    "write_minari",
    "write_npz",
]
