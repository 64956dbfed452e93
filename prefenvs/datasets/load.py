"""A data set by its name or path, whatever its format."""

from __future__ import annotations

import re
from pathlib import Path

from prefenvs.datasets.d4rl.entries import d4rl_entries, load_d4rl, read_d4rl
from prefenvs.datasets.formats.imitation import imitation_action_space, read_imitation
from prefenvs.datasets.formats.minari import read_minari
from prefenvs.datasets.formats.npz import read_npz
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.recorded.bags import TABLE as TOPICS
from prefenvs.datasets.recorded.bags import read_bags
from prefenvs.datasets.recorded.lerobot import is_lerobot, read_lerobot
from prefenvs.datasets.recorded.robomimic import is_robomimic, read_robomimic
from prefenvs.datasets.recorded.videos import TABLE, read_videos
from prefenvs.datasets.sizes import check_actions, check_fit
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.internal.file_sizes import size_limit
from prefenvs.tasks import find_task

FORMS = (
    "a D4RL name (d4rl/halfcheetah-medium-v2) or .hdf5 file, a Minari name (minari/mujoco/hopper/medium-v0) or folder, "
    "a LeRobot folder, a robomimic .hdf5 file, a folder of videos with an episodes.csv, a folder of ROS bags with a "
    "bags.toml, or a folder of imitation's trajectories or of .npz files, or one such file"
)


def load_dataset(
    name_or_path: str | Path, task: str | None = None, *, max_gib: float | None = None, skip_damaged: bool = False
) -> OfflineDataset:
    """Load a data set by name or path.

    name_or_path: a D4RL name (`d4rl/halfcheetah-medium-v2`) or .hdf5 file, a Minari name (`minari/...`) or folder, or
    a folder of imitation's trajectories or of .npz files, or one such file; of recordings, a LeRobot
    folder, a robomimic .hdf5 file (FILE.hdf5#MASK for a subset), a folder of videos with an episodes.csv or of ROS bags
    with a bags.toml. task: id of the task it was made in, where the data do not tell it, or the sentence of one of a
    recording's tasks.
    skip_damaged: leave damaged episodes of recordings out. max_gib: memory that the data may take, by what the files
    say of their sizes (default 4 GiB), see `prefenvs.internal.file_sizes`. Raises PrefenvsError for anything else.
    """
    with size_limit(max_gib):
        dataset = _load(str(name_or_path), Path(name_or_path), task, skip_damaged)
    check_fit(dataset.trajectories, dataset.name)
    if dataset.action_space is not None:
        check_actions(dataset.trajectories.actions, dataset.action_space, dataset.name)
    return dataset


def _load(name: str, path: Path, task: str | None, skip_damaged: bool) -> OfflineDataset:
    if path.is_dir() and is_lerobot(path):
        return read_lerobot(path, task, skip_damaged)
    if path.is_dir() and (path / TABLE).is_file():
        return read_videos(path, task, skip_damaged)
    if path.is_dir() and (path / TOPICS).is_file():
        return read_bags(path, task, skip_damaged)
    file, _, mask = name.rpartition("#") if "#" in name and not path.exists() else (name, "", "")
    if Path(file).is_file() and Path(file).suffix in (".hdf5", ".h5") and is_robomimic(Path(file)):
        return read_robomimic(file, task, mask or None, skip_damaged=skip_damaged)
    if path.is_dir() and (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        trajectories = read_imitation(path, find_task(task).id if task else "")
        return OfflineDataset(name, trajectories, action_space=imitation_action_space(path, trajectories))
    if path.is_dir() and any((path / file).is_file() for file in ("metadata.json", "data/metadata.json")):
        return read_minari(path, task)
    if (path.is_dir() and any(path.glob("*.npz"))) or (path.is_file() and path.suffix == ".npz"):
        return read_npz(path, task)
    if path.is_file() or path.suffix in (".hdf5", ".h5"):
        return read_d4rl(path, task)
    if path.exists():
        raise PrefenvsError(f"the folder {path} holds no data set: name {FORMS}")
    if name.startswith("minari/"):
        return read_minari(name, task)
    if name.startswith("d4rl/") or name in d4rl_entries():
        return load_d4rl(name, task)
    near = near_matches(name, [f"d4rl/{known}" for known in d4rl_entries()])
    raise PrefenvsError(f"there is no data set {name!r}: name {FORMS}.{near or _download(name)}")


def _download(name: str) -> str:
    """Return a sentence about where a data set lies whose name, OWNER/NAME, is none of a path here."""
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) or Path(name).parent.exists():
        return ""
    command = f"hf download {name} --repo-type dataset --local-dir {Path(name).name}"
    return f" One of Hugging Face is downloaded first, and its folder named: {command}"
