"""Published label files of people, read as preferences over a D4RL data set."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from prefenvs.datasets.formats.pickles import read_array_pickle
from prefenvs.datasets.labels.rows import is_table
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array

Rows = Literal["qlearning", "raw"]

LENGTH = 100
"""Steps in a segment of Preference Transformer's files, where their names give no other number."""
UNI_NAME = re.compile(r"(human|fake)_label(_domain_\w+?_env_(.+)_num_\d+_len_(\d+)_.*)\.pkl")
PT_NAME = re.compile(r"indices_num\d+(?:_q(\d+))?")
FOLDER = "PREFENVS_HUMAN_LABELS"
"""Environment variable that names the folder of published label files."""
PUBLISHERS = {"uni-rlhf": "_human_labels", "uni-rlhf-script": "_fake_labels", "preference-transformer": ""}
"""How each publication's folders are called after the data set's name."""
WRONG_BASE = 0.02
"""From this share of pairs across an episode's end on, the rows may be counted in the wrong way."""
FIRST, SECOND, TIE = 0, 1, -1
"""How both publications write that the first, the second or neither segment is better."""


@dataclass(frozen=True, eq=False)
class LabelFile:
    """N labelled pairs of segments of one data set, as numbers of rows.

    name: the data set's name at D4RL; folder: where the files lie; layout: who published them.
    starts: [N, 2] int64, the row that each segment begins with; length: steps in a segment, T.
    probabilities: [N, 2] float64, the chance that each segment is the better one: one-hot, or 0.5/0.5 for a tie; a row
    of NaN is a skip.
    indexed: pairs in the index files; more than N where only the first N were labelled.
    scripted: whether a script answered by true return, not people. time: when the label file was last written.
    """

    name: str
    folder: Path
    layout: Literal["preference-transformer", "uni-rlhf"]
    starts: Array
    probabilities: Array
    length: int
    indexed: int
    scripted: bool = False
    time: float = 0.0

    def __len__(self) -> int:
        """Number of labelled pairs."""
        return len(self.starts)

    @property
    def skipped(self) -> Array:
        """[N] bool, pairs without an answer."""
        skipped: Array = np.isnan(self.probabilities[:, 0])
        return skipped

    @property
    def tied(self) -> Array:
        """[N] bool, pairs called equal."""
        tied: Array = self.probabilities[:, 0] == self.probabilities[:, 1]
        return tied

    @property
    def strict(self) -> Array:
        """[N] bool, pairs with one better segment."""
        return ~(self.skipped | self.tied)


def find_labels(name: str | Path) -> Path:
    """Return where labels lie: a path itself, or of PUBLISHER/DATA a folder below that of PREFENVS_HUMAN_LABELS.

    Publishers are uni-rlhf, uni-rlhf-script and preference-transformer. Raises PrefenvsError for labels that are not
    there.
    """
    publisher, _, data = str(name).partition("/")
    if Path(name).exists() or publisher not in PUBLISHERS:
        return Path(name)
    root = os.environ.get(FOLDER, "")
    folders = sorted(path for path in Path(root).rglob(data + PUBLISHERS[publisher]) if path.is_dir()) if root else []
    if publisher == "preference-transformer":
        folders = [folder for folder in folders if (folder / "label_human").is_file()]
    if not folders:
        place = f"{FOLDER} names {root}, which holds none" if root else f"name the folder that holds them in {FOLDER}"
        raise PrefenvsError(f"there are no labels {name}: {place}")
    return folders[0]


def read_labels(path: str | Path) -> LabelFile:
    """Read a folder of labels as Preference Transformer (Kim et al. 2023) or Uni-RLHF (Yuan et al. 2024) publish them.

    path: the folder of three files of one data set, or the label file in it. Nothing in the files is executed. Raises
    PrefenvsError where files are missing, do not belong together or hold anything but rows and labels.
    """
    path = Path(path)
    if not path.exists():
        raise PrefenvsError(f"there are no labels at {path}: name a folder of label and index files")
    if is_table(path):
        raise PrefenvsError(f"{path} is a table of labels: `prefenvs labels import {path} --dry-run` reports on it")
    folder = path if path.is_dir() else path.parent
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    labels = [path.name] if path.is_file() else [f for f in files if f == "label_human" or UNI_NAME.fullmatch(f)]
    if len(labels) != 1:
        found = f"{len(labels)} label files ({', '.join(labels)})" if labels else "no label_human or *_label_*.pkl"
        raise PrefenvsError(f"{folder} holds {found}: name a folder with one label file, or the file itself")
    if labels[0] == "label_human":
        return _read_preference_transformer(folder, files)
    match = UNI_NAME.fullmatch(labels[0])
    if match is None:
        raise PrefenvsError(f"{path} is no label file: its name is neither label_human nor *_label_domain_*.pkl")
    author, suffix, name, length = match.groups()
    indices = [f"indices_{side}{suffix}.pkl" for side in (1, 2)]
    missing = [file for file in indices if file not in files]
    if missing:
        raise PrefenvsError(f"{folder} lacks the index file {missing[0]}, which belongs to {labels[0]}")
    return _assemble(name, folder, "uni-rlhf", labels[0], indices, int(length), scripted=author == "fake")


def _read_preference_transformer(folder: Path, files: list[str]) -> LabelFile:
    firsts = [file for file in files if PT_NAME.fullmatch(file)]
    if len(firsts) != 1:
        raise PrefenvsError(f"{folder} holds {len(firsts)} files indices_num<N>, expected 1 beside label_human")
    second = firsts[0].replace("indices_num", "indices_2_num")
    if second not in files:
        raise PrefenvsError(f"{folder} lacks the index file {second}, which belongs to {firsts[0]}")
    match = PT_NAME.fullmatch(firsts[0])
    length = int(match.group(1)) if match and match.group(1) else LENGTH
    return _assemble(folder.name, folder, "preference-transformer", "label_human", [firsts[0], second], length)


def _assemble(
    name: str,
    folder: Path,
    layout: Literal["preference-transformer", "uni-rlhf"],
    label_name: str,
    index_names: list[str],
    length: int,
    scripted: bool = False,
) -> LabelFile:
    columns = []
    for file in index_names:
        column = read_array_pickle(folder / file)
        if column.ndim != 1 or column.dtype.kind not in "iu" or np.any(column > np.iinfo(np.int64).max):
            raise PrefenvsError(f"{folder / file} holds {column.dtype} of shape {column.shape}, expected row numbers")
        columns.append(column.astype(np.int64))
    if len(columns[0]) != len(columns[1]):
        raise PrefenvsError(
            f"{folder} pairs {len(columns[0])} first segments with {len(columns[1])} second ones: its index files "
            "do not belong together"
        )
    probabilities = _probabilities(read_array_pickle(folder / label_name), folder / label_name)
    count, indexed = len(probabilities), len(columns[0])
    if not count:
        raise PrefenvsError(f"{folder / label_name} holds no label")
    if count > indexed:
        raise PrefenvsError(f"{folder} holds {count} labels but only {indexed} pairs of rows: an index file is cut off")
    if not 1 <= length < 2**31:
        raise PrefenvsError(f"{folder} names segments of {length} steps in its file names")
    starts = np.stack(columns, axis=1)[:count]
    written = (folder / label_name).stat().st_mtime
    return LabelFile(name, folder, layout, starts, probabilities, length, indexed, scripted, written)


def _probabilities(labels: Array, path: Path) -> Array:
    """Turn [N] labels 0, 1 and -1 or 0.5, or [N, 2] shares as scripted files have them, into probabilities.

    NaN is a skip.
    """
    labels = labels.astype(np.float64)
    if labels.ndim == 2 and labels.shape[1] == 2:
        skipped = np.isnan(labels[:, 0]) | np.isnan(labels[:, 1])
        sound = skipped | ((labels >= 0).all(axis=1) & (np.abs(labels.sum(axis=1) - 1.0) <= 1e-6))
        if not np.all(sound):
            raise PrefenvsError(f"{path} holds a pair of labels that is not two shares of 1")
        return np.where(skipped[:, None], np.nan, labels)
    if labels.ndim != 1:
        raise PrefenvsError(f"{path} holds labels of shape {labels.shape}, expected one number or two shares for each")
    known = np.isnan(labels) | np.isin(labels, (FIRST, SECOND, TIE, 0.5))
    if not known.all():
        at = int(np.argmin(known))
        raise PrefenvsError(
            f"{path} holds the label {labels[at]:g} at position {at}; known are 0, 1, and -1 or 0.5 for a tie"
        )
    second = np.where(labels == TIE, 0.5, labels)
    return np.stack([1.0 - second, second], axis=1)


def other_rows(rows: Rows) -> Rows:
    """Return the other way of counting rows."""
    return "raw" if rows == "qlearning" else "qlearning"


def miscounted(crossing: float, crossing_other: float) -> bool:
    """Tell whether rows were counted in the wrong way, by the shares of pairs across an episode's end in either way.

    Some do in published files that are read rightly: 33% of Uni-RLHF's door-human-v1, 37% with the other rows.
    """
    return crossing >= WRONG_BASE and crossing_other < crossing / 2


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the pairs of a label file lie in a data set.

    episodes, starts: [N, 2] int64, episode and step of each segment, -1 where it lies in no episode as a whole.
    outside: [N] bool, pairs that reach past the last row; crossing: [N] bool, pairs that cross an episode's end.
    """

    episodes: Array
    starts: Array
    outside: Array
    crossing: Array


def place(labels: LabelFile, dataset: OfflineDataset, rows: Rows = "qlearning") -> Placement:
    """Find the segments of a label file in a data set; rows: steps of D4RL's q-learning form, or of the file."""
    if rows not in ("qlearning", "raw"):
        raise PrefenvsError(f'rows count "qlearning" or "raw" steps of the data, got {rows!r}')
    data = dataset.trajectories
    kept = dataset.qlearning_rows() if rows == "qlearning" else np.arange(len(data.observations))
    # In this order no sum overflows.
    outside = np.logical_or(labels.starts < 0, labels.starts > len(kept) - labels.length)
    last = np.where(outside, -1, labels.starts) + labels.length - 1
    # Position -1, a row of its own, stands for what lies outside, so that a data set may keep no row at all.
    kept = np.append(kept, 0)
    begin, end = kept[np.where(outside, -1, labels.starts)], kept[np.where(outside, -1, last)]
    episodes = np.searchsorted(data.ends, begin, side="right")
    crossing = np.where(outside, False, end >= data.ends[episodes])
    bad = outside | crossing
    return Placement(
        np.where(bad, -1, episodes),
        np.where(bad, -1, begin - data.begins[episodes]),
        outside[:, 0] | outside[:, 1],
        crossing[:, 0] | crossing[:, 1],
    )


def label_preferences(
    labels: LabelFile,
    dataset: OfflineDataset,
    rows: Rows = "qlearning",
    crossing: Literal["drop", "refuse"] = "drop",
    annotator: str = "",
) -> list[Preference]:
    """Return the labels as preferences over segments of a data set, in the file's order, skips included.

    rows: what the file's numbers count; both publications count the rows of D4RL's q-learning form.
    crossing: pairs with a segment across an episode's end are left out, which the difference in length tells, or
    refused. annotator: who is named as the rater, since the files tell nobody; by default the publication's name.
    Raises PrefenvsError where a row lies past the end of the data, as with the labels of another data set, where far
    fewer pairs would cross an end if rows were counted in the other way, and where every pair does.
    """
    found = place(labels, dataset, rows)
    if found.outside.any():
        at = int(np.argmax(found.outside))
        raise PrefenvsError(
            f"pair {at} of {labels.folder} begins at rows {labels.starts[at].tolist()} and has {labels.length} steps, "
            f"past the end of {dataset.name!r} with {len(dataset.trajectories.observations)} steps: are these the "
            f"labels of {labels.name}?"
        )
    count, other = int(found.crossing.sum()), other_rows(rows)
    ends = f"{count} of {len(labels)} pairs of {labels.folder} cross the end of an episode of {dataset.name!r}"
    if count and crossing != "drop":
        raise PrefenvsError(
            f"{ends}: leave them out (--crossing drop), or check their rows with `prefenvs labels report`"
        )
    if miscounted(found.crossing.mean(), place(labels, dataset, other).crossing.mean()):
        raise PrefenvsError(
            f"{ends} if rows count {rows} steps, and far fewer if they count {other} ones: read them so "
            f"(`prefenvs labels import --rows {other}`)"
        )
    if count == len(labels):
        raise PrefenvsError(f"{ends}, so that none is left: are these the labels of {labels.name}?")
    chosen = np.flatnonzero(~found.crossing)
    data = dataset.trajectories
    firsts, seconds = (data.cut(found.episodes[chosen, i], found.starts[chosen, i], labels.length) for i in (0, 1))
    rater = annotator or (f"{labels.layout}-script" if labels.scripted else labels.layout)
    oracle = "script" if labels.scripted else "human"
    skipped = labels.skipped
    return [
        Preference(
            Query((firsts[i], seconds[i])),
            None if skipped[row] else labels.probabilities[row],
            annotator=rater,
            oracle=oracle,
            time=labels.time,
        )
        for i, row in enumerate(chosen)
    ]
