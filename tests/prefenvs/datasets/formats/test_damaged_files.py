"""Hundreds of damaged files for every loader: each is read, or refused in one line, and nothing else is ever raised.

Damage is drawn from fixed seeds: a file is cut off, bytes are overwritten, a block is zeroed, doubled or taken out, a
value of a JSON document or an array becomes nonsense.
"""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import PPO

from prefenvs.agents import BC
from prefenvs.agents.offline.bc import BCConfig
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.datasets import load_dataset, write_imitation, write_minari, write_npz
from prefenvs.datasets.collecting import count_episodes
from prefenvs.datasets.labels.files import read_labels
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sources import load_sb3
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, make_pairs
from prefenvs.store import Store, export_store, import_store
from prefenvs.trajectories import Trajectories

h5py = pytest.importorskip("h5py")
pytest.importorskip("minari")
pytest.importorskip("datasets")

NONSENSE: tuple[Any, ...] = (None, -1, 10**30, 1e308, float("nan"), "x", "", [], [[]], {}, True, "\ud800")
ARRAYS: tuple[Any, ...] = (
    np.array(3.0), np.zeros((0, 3)), np.zeros((8, 0)), np.full((8, 3), np.nan), np.full(8, 1e300), np.zeros(8, complex),
    np.array(["a"] * 8), np.zeros((8, 2, 2)), np.full(8, -1), np.full(8, 0.5), np.zeros(8, "M8[s]"), np.zeros(8, "V4"),
)  # fmt: skip


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Damage a file as disks, downloads and editors do."""
    kind, at = rng.integers(6), int(rng.integers(len(data)))
    size = int(rng.integers(1, 64))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(size) + data[at + size :]
    if kind == 2:
        return data[:at] + data[at + size :]
    if kind == 3:
        return data[: at + size] + data[at:]
    if kind == 4:
        return b"\xef\xbb\xbf" + data
    changed = bytearray(data)
    for place in rng.integers(len(data), size=int(rng.integers(1, 9))):
        changed[place] = rng.integers(256)
    return bytes(changed)


def spoil_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Put nonsense in the place of one value, at any depth."""
    document = json.loads(data)
    if rng.random() < 0.1:
        return b"[" * 100_000 + b"]" * 100_000
    node, holder, key = document, None, None
    while isinstance(node, dict | list) and len(node) and (holder is None or rng.random() < 0.7):
        keys = list(node) if isinstance(node, dict) else range(len(node))
        holder, key = node, keys[int(rng.integers(len(keys)))]
        node = node[key]
    value = NONSENSE[int(rng.integers(len(NONSENSE)))]
    if holder is None:
        return json.dumps(value).encode()
    holder[key] = value
    return json.dumps(document).encode()


def spoil_npz(path: Path, rng: np.random.Generator) -> None:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    names = sorted(arrays)
    arrays[names[int(rng.integers(len(names)))]] = ARRAYS[int(rng.integers(len(ARRAYS)))]
    np.savez(path, **arrays)


def spoil_hdf5(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "a") as file:
        names: list[str] = []
        file.visit(names.append)
        name = names[int(rng.integers(len(names)))]
        parent, _, last = name.rpartition("/")
        group = file[parent or "/"]
        del group[last]
        kind = int(rng.integers(7))
        if kind == 1:
            group[last] = h5py.SoftLink("/nowhere")
        elif kind == 2:
            group[last] = h5py.ExternalLink("other.hdf5", "/x")
        elif kind == 3:
            group[last] = file["/"]
        elif kind == 4:
            group.create_group(last)
        elif kind > 4:
            array = ARRAYS[int(rng.integers(9))]
            group[last] = array.astype("S1") if array.dtype.kind == "U" else array


SPOIL = {".npz": spoil_npz, ".hdf5": spoil_hdf5}


def make_data() -> OfflineDataset:
    rng = np.random.default_rng(0)
    data = Trajectories(
        rng.standard_normal((8, 3)).astype(np.float32),
        rng.uniform(-1, 1, (8, 2)).astype(np.float32),
        np.array([4, 8]),
        rng.standard_normal(8),
        rng.standard_normal((8, 5)),
        rng.standard_normal((2, 4)),
        np.array([True, False]),
        final_observations=rng.standard_normal((2, 3)).astype(np.float32),
    )
    return OfflineDataset("made", data, reference_scores=(0.0, 1.0), policies=np.array(["a", "b"]))


def write_hdf5(folder: Path) -> None:
    data = make_data().trajectories
    with h5py.File(folder / "made.hdf5", "w") as file:
        file.create_dataset("observations", data=data.observations, chunks=(4, 3), compression="gzip")
        file["actions"], file["rewards"], file["next_observations"] = data.actions, data.true_rewards, data.observations
        file["terminals"], file["timeouts"] = np.arange(8) == 3, (np.arange(8) % 4 == 3).astype(np.float32)
        file["infos/qpos"], file["infos/qvel"] = data.states, data.states


def write_label_files(folder: Path) -> None:
    rows = np.arange(4, dtype=np.int64)
    for name, values in (("label_human", [0, 1, 0.5, -1]), ("indices_num4", rows), ("indices_2_num4", rows + 1)):
        (folder / name).write_bytes(pickle.dumps(values, protocol=int(name == "indices_num4") + 2))


def write_export(folder: Path) -> None:
    segments = make_data().trajectories.sample(4, 2, np.random.default_rng(0))
    answers = [Preference(query, np.array([1.0, 0.0]), annotator="ada") for query in make_pairs(segments)]
    with Store(folder.parent / "made.sqlite") as store:
        store.add_preferences(answers, run="made")
        export_store(store, folder / "export")


def read_export(folder: Path) -> None:
    location = folder.parent / "read.sqlite"
    location.unlink(missing_ok=True)
    with Store(location) as store:
        import_store(store, folder / "export")


def write_sb3(folder: Path) -> None:
    PPO("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=8, batch_size=8, device="cpu").save(folder / "model.zip")


def write_learner(folder: Path) -> None:
    BC(make_data(), config=BCConfig(hidden=(4,)), device="cpu").save(folder / "model.zip")


def write_reward(folder: Path) -> None:
    RewardEnsemble(3, 2, RewardConfig(members=1, width=4), device="cpu").save(folder / "model.pt")


@dataclass(frozen=True)
class Loader:
    """A kind of file: how to write a sound one into a folder, how to read it, and how many damaged ones to try."""

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    count: int
    only: str = "*"


LOADERS = {
    "hdf5": Loader(write_hdf5, lambda folder: load_dataset(folder / "made.hdf5"), 100),
    "npz": Loader(lambda folder: write_npz(make_data(), folder), load_dataset, 70),
    "npz-count": Loader(
        lambda folder: [write_npz(make_data(), folder), (folder / "episodes.npz").rename(folder / "episodes-0.npz")],
        count_episodes,
        20,
        "*.npz",
    ),
    "minari": Loader(
        lambda folder: write_minari(make_data(), folder / "made-v0"), lambda f: load_dataset(f / "made-v0"), 90
    ),
    "imitation": Loader(lambda folder: write_imitation(make_data().trajectories, folder), load_dataset, 60),
    "labels": Loader(write_label_files, read_labels, 60),
    "export": Loader(write_export, read_export, 60),
    "sb3": Loader(write_sb3, lambda folder: load_sb3(folder / "model.zip"), 15),
    "learner": Loader(write_learner, lambda folder: BC.load(folder / "model.zip", device="cpu"), 40),
    "reward": Loader(write_reward, lambda folder: RewardEnsemble.load(folder / "model.pt", device="cpu"), 25),
}


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_files_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    loader = LOADERS[name]
    sound, damaged = tmp_path / "sound", tmp_path / "damaged"
    sound.mkdir()
    loader.write(sound)
    shutil.copytree(sound, damaged)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader.read(damaged)
        files = sorted(
            path.relative_to(sound) for path in sound.rglob(loader.only) if path.is_file() and path.stat().st_size
        )
        refused = 0
        for seed in range(loader.count):
            rng = np.random.default_rng([seed, len(name)])
            file = files[seed % len(files)]
            shutil.rmtree(damaged)
            shutil.copytree(sound, damaged)
            path = damaged / file
            if path.suffix in SPOIL and rng.random() < 0.4:
                SPOIL[path.suffix](path, rng)
            elif path.suffix == ".json" and rng.random() < 0.6:
                path.write_bytes(spoil_json(path.read_bytes(), rng))
            else:
                path.write_bytes(cut(path.read_bytes(), rng))
            raised = None
            try:
                loader.read(damaged)
            except Exception as error:
                raised = error
            refused += raised is not None
            assert raised is None or isinstance(raised, PrefenvsError), f"seed {seed}, {file}: {raised!r}"
            assert "\n" not in str(raised), f"seed {seed}, {file}: {raised}"
    assert refused > loader.count // 4, "the damage is hardly seen"


def test_there_are_at_least_300() -> None:
    assert sum(loader.count for loader in LOADERS.values()) >= 300
