"""Layouts, nonsense, links and sizes in files of others: what is read, and what is refused before it does harm."""

from __future__ import annotations

import base64
import json
import pickle
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from prefenvs.agents import BC
from prefenvs.datasets import load_dataset, read_labels, read_minari, write_minari
from prefenvs.datasets.formats.pickles import read_array_pickle
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.datasets.sizes import check_actions
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import size_limit
from prefenvs.store.events import Event
from prefenvs.trajectories import Trajectories

h5py = pytest.importorskip("h5py")
STEPS = 6


def sound(**changes):
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.standard_normal((STEPS, 3)),
        "actions": rng.uniform(-1, 1, (STEPS, 1)),
        "rewards": rng.standard_normal(STEPS),
        "terminals": np.arange(STEPS) == 2,
        "timeouts": np.arange(STEPS) == 5,
    }
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def save(folder: Path, form: str, **changes) -> Path:
    arrays = sound(**changes)
    if form == "npz":
        folder.mkdir(exist_ok=True)
        np.savez(folder / "a.npz", **arrays)
        return folder
    path = folder.with_suffix(".hdf5")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array.astype("S3") if array.dtype.kind == "U" else array
    return path


def refused(path: Path, message: str) -> None:
    with pytest.raises(PrefenvsError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


NONSENSE = {
    "flags of text": ({"terminals": np.array(["no"] * STEPS)}, "terminals"),
    "flags that are NaN": ({"terminals": np.full(STEPS, np.nan)}, "terminals .* hold nan in row 0; a flag is 0 or 1"),
    "flags of 7": ({"timeouts": np.full(STEPS, 7)}, "timeouts .* hold 7"),
    "complex observations": ({"observations": np.ones((STEPS, 3), complex)}, "observations .* type complex128"),
    "rewards in a matrix": ({"rewards": np.zeros((STEPS, 2))}, r"rewards .* shape \(6, 2\)"),
    "rewards in three axes": ({"rewards": np.zeros((STEPS, 1, 1))}, r"rewards .* shape \(6, 1, 1\)"),
    "no entries": ({"observations": np.zeros((STEPS, 0))}, r"shape \(6, 0\)"),
    "too large": ({"rewards": np.full(STEPS, 1e300)}, "true_rewards .* NaN or infinite"),
    "NaN": ({"observations": np.full((STEPS, 3), np.nan)}, "observations .* NaN or infinite"),
}


@pytest.mark.parametrize("form", ["npz", "hdf5"])
@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_refused(kind: str, form: str, tmp_path: Path) -> None:
    changes, message = NONSENSE[kind]
    rename = {"rewards": "(true_)?rewards", "true_rewards": "true_rewards"}
    for name, other in rename.items():
        message = message.replace(f"{name} .*", f"{other} .*") if message.startswith(name) else message
    if kind == "too large" and form == "hdf5":
        message = "true_rewards of data set"
    refused(save(tmp_path / "data", form, **changes), message)


@pytest.mark.parametrize("form", ["npz", "hdf5"])
def test_data_without_actions_are_read_and_teach_no_policy(form: str, tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path / "data", form, actions=np.zeros((STEPS, 0))))
    assert dataset.trajectories.actions.shape == (STEPS, 0)
    with pytest.raises(
        PrefenvsError, match="holds no actions, of which a policy learns: `prefenvs actions` infers them"
    ):
        BC(dataset)


@pytest.mark.parametrize("form", ["npz", "hdf5"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_flags_of_any_number_type_are_read(dtype, form: str, tmp_path: Path) -> None:
    flags = {name: sound()[name].astype(dtype) for name in ("terminals", "timeouts")}
    data = load_dataset(save(tmp_path / "data", form, **flags)).trajectories
    assert (data.ends.tolist(), data.terminated.tolist()) == ([3, 6], [True, False])


@pytest.mark.parametrize("ends", [[2.5, 6.0], [[3, 6]], ["3", "6"], [np.nan, 6.0], [3.0, 1e300], [True, True]])
def test_ends_are_whole_numbers(ends, tmp_path: Path) -> None:
    refused(save(tmp_path / "data", "npz", ends=np.array(ends), terminals=None, timeouts=None), "ends")
    save(tmp_path / "data", "npz", ends=np.array([3.0, 6.0]), terminals=None, timeouts=None)
    assert load_dataset(tmp_path / "data").trajectories.ends.tolist() == [3, 6]


def test_actions_far_outside_of_their_space_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "data", "npz", actions=np.full((STEPS, 1), 200.0))
    with pytest.raises(PrefenvsError, match=r"actions .* from 200 to 200 in entry 0, but their space from -2 to 2"):
        load_dataset(path, "Pendulum-v1")
    with pytest.raises(PrefenvsError, match="no choices of Discrete"):
        check_actions(np.array([[0.5, 0.5]]), spaces.Discrete(2), "x")
    check_actions(np.full((2, 1), 12.0), spaces.Box(-1, 1, (1,)), "a scripted policy asks for more than it gets")
    check_actions(np.full((2, 1), 1e6), spaces.Box(-np.inf, np.inf, (1,)), "without bounds")


def link(kind: str, file, folder: Path) -> None:
    del file["observations"]
    secret = folder / "secret"
    secret.write_bytes(np.arange(STEPS * 3, dtype=np.float64).tobytes())
    with h5py.File(folder / "other.hdf5", "w") as other:
        other["x"] = np.zeros((STEPS, 3))
    if kind == "external storage":
        file.create_dataset("observations", (STEPS, 3), np.float64, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    elif kind == "external link":
        file["observations"] = h5py.ExternalLink(str(folder / "other.hdf5"), "/x")
    elif kind == "virtual":
        layout = h5py.VirtualLayout((STEPS, 3), np.float64)
        layout[:] = h5py.VirtualSource(str(folder / "other.hdf5"), "x", (STEPS, 3))
        file.create_virtual_dataset("observations", layout)
    elif kind == "dangling":
        file["observations"] = h5py.SoftLink("/nowhere")
    elif kind == "cyclic":
        file["observations"] = h5py.SoftLink("/observations")
    elif kind == "cyclic group":
        file["observations"] = file["/"]
    elif kind == "group":
        file.create_group("observations")


LINKS = {
    "external storage": "stored in other files",
    "virtual": "stored in other files",
    "external link": "is a link to .*other.hdf5, which is not followed",
    "dangling": "is a link to /nowhere",
    "cyclic": "is a link to /observations",
    "cyclic group": "is a group|occurs more than once",
    "group": "is a group, not an array",
}


@pytest.mark.parametrize("kind", LINKS)
def test_hdf5_shows_only_what_it_holds_itself(kind: str, tmp_path: Path) -> None:
    path = save(tmp_path / "data", "hdf5")
    with h5py.File(path, "a") as file:
        link(kind, file, tmp_path)
    refused(path, LINKS[kind])


@pytest.mark.parametrize("kind", LINKS)
def test_so_does_minari(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("minari")
    folder = write_minari(made(), tmp_path / "made-v0")
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        link(kind, file["episode_0"], tmp_path)
    refused(folder, LINKS[kind] if kind != "group" else "is no Minari data set")


def made(**changes) -> OfflineDataset:
    arrays = sound()
    fields = {
        "observations": arrays["observations"].astype(np.float32),
        "actions": arrays["actions"].astype(np.float32),
        "ends": np.array([3, 6]),
        "true_rewards": arrays["rewards"],
        "terminated": np.array([True, False]),
        "final_observations": np.zeros((2, 3), np.float32),
    }
    return OfflineDataset("made", Trajectories(**(fields | changes)))


def state_of(kind: str, steps: int) -> object:
    rng = np.random.default_rng(0)
    if kind == "dictionary":
        return {"qpos": rng.random((steps, 1)), "qvel": rng.random((steps, 1))}
    if kind == "NaN":
        return np.full((steps, 3), np.nan)
    if kind == "one axis":
        return np.zeros(steps)
    return rng.random((steps, 9))


@pytest.mark.parametrize("kind", ["dictionary", "NaN", "one axis", "another size"])
def test_other_layouts_of_simulator_states_are_left_out_with_a_warning(kind: str, tmp_path, monkeypatch) -> None:
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffers = [
        EpisodeBuffer(
            observations=np.zeros((4, 3), np.float32),
            actions=np.zeros((3, 1), np.float32),
            rewards=np.zeros(3),
            terminations=np.array([False, False, i == 1]),
            truncations=np.array([False, False, i == 0]),
            infos={"state": state_of(kind, 4)},
        )
        for i in range(2)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        box = spaces.Box(-9, 9, (3,)), spaces.Box(-2, 2, (1,))
        minari.create_dataset_from_buffers("made/other-v0", buffers, observation_space=box[0], action_space=box[1])
    with pytest.warns(UserWarning, match="read without simulator states"):
        dataset = load_dataset("minari/made/other-v0", "Pendulum-v1")
    assert dataset.trajectories.states is None
    assert dataset.trajectories.terminated.tolist() == [False, True]


def test_minari_never_makes_an_environment_that_only_the_file_knows(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    folder = write_minari(made(), tmp_path / "made-v0")
    path = folder / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    spec = {"id": "Pendulum-v1", "entry_point": "os:mkdir", "kwargs": {"path": str(tmp_path / "run")}}
    del metadata["observation_space"], metadata["action_space"]
    path.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    refused(folder, "is not one that is registered here")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", [b"\xff\xfe{}", b"{", b"[" * 100_000, b"3"])
def test_broken_json_is_told(text: bytes, tmp_path: Path) -> None:
    folder = save(tmp_path / "data", "npz")
    (folder / "dataset.json").write_bytes(text)
    refused(folder, "dataset.json is damaged")
    (folder / "dataset.json").write_bytes(b"\xef\xbb\xbf" + b'{"task": "Pendulum-v1"}')
    assert load_dataset(folder).task == "Pendulum-v1"


def write_bomb(kind: str, folder: Path) -> Path:
    rows = 400_000_000
    if kind == "hdf5":
        with h5py.File(folder / "bomb.hdf5", "w") as file:
            for name, shape in (("observations", (rows, 9)), ("actions", (rows, 3))):
                file.create_dataset(name, shape, np.float32, chunks=(1000, shape[1]))
            for name in ("rewards", "terminals", "timeouts"):
                file.create_dataset(name, (rows,), np.float32, chunks=(1000,))
        return folder / "bomb.hdf5"
    if kind == "minari":
        pytest.importorskip("minari")
        made_here = write_minari(made(), folder / "bomb-v0")
        with h5py.File(made_here / "data" / "main_data.hdf5", "a") as file:
            file["episode_0"].create_dataset("infos/x", (rows, 9), np.float32, chunks=(1000, 9))
        return made_here
    (folder / "bomb").mkdir()
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, 9)}
    with zipfile.ZipFile(folder / "bomb" / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("observations", "actions", "ends"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(member, header)
    return folder / "bomb"


@pytest.mark.parametrize("kind", ["hdf5", "npz", "minari"])
def test_sizes_are_checked_before_memory_is_taken(kind: str, tmp_path: Path) -> None:
    path = write_bomb(kind, tmp_path)
    tracemalloc.start()
    try:
        refused(path, r"asks for \d+(\.\d+)? GiB of memory, over the limit of 4 GiB.*--max-gib")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path) -> None:
    path = save(tmp_path / "data", "hdf5")
    with pytest.raises(PrefenvsError, match="over the limit of 1e-08 GiB"):
        load_dataset(path, max_gib=1e-8)
    with size_limit(1e-8):
        assert len(load_dataset(path, max_gib=1.0)) == 2
    with pytest.raises(PrefenvsError, match="more than 0 GiB"):
        load_dataset(path, max_gib=float("nan"))


def test_the_environment_can_raise_and_lower_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what no flag is about: checkpoints, replay, reward models."""
    path = save(tmp_path / "data", "hdf5")
    monkeypatch.setenv("PREFENVS_MAX_GIB", "1e-8")
    with pytest.raises(PrefenvsError, match=r"over the limit of 1e-08 GiB.*PREFENVS_MAX_GIB"):
        load_dataset(path)
    assert len(load_dataset(path, max_gib=1.0)) == 2
    for wrong in ("lots", "0", "nan"):
        monkeypatch.setenv("PREFENVS_MAX_GIB", wrong)
        with pytest.raises(PrefenvsError, match=f"PREFENVS_MAX_GIB={wrong}"):
            load_dataset(path)


def test_a_pickle_cannot_ask_for_memory_by_a_number(tmp_path: Path) -> None:
    path = tmp_path / "memo.pkl"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    with pytest.raises(PrefenvsError, match="a memo of"):
        read_array_pickle(path)


@pytest.mark.parametrize("tie", [-1, 0.5])
def test_both_ways_to_write_a_tie_are_ties(tie: float, tmp_path: Path) -> None:
    rows = np.arange(3)
    for name, values in (("label_human", [0, 1, tie]), ("indices_num3", rows), ("indices_2_num3", rows)):
        (tmp_path / name).write_bytes(pickle.dumps(values))
    labels = read_labels(tmp_path)
    assert labels.tied.tolist() == [False, False, True]
    assert labels.probabilities.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]


@pytest.mark.parametrize("field", ["time", "seconds"])
@pytest.mark.parametrize("value", [1e300, -1.0])
def test_times_are_dates(field: str, value: float) -> None:
    with pytest.raises(PrefenvsError, match=rf"event {field} must be a number of seconds from 0"):
        Event(kind="skip", query="q", **({"time": 1.0} | {field: value}))


DISCRETE = {
    "Discrete": (spaces.Discrete(3, start=-1), np.array([-1, 1, 1]), np.eye(3)[[0, 2, 2]]),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), np.array([[1, 0], [0, 2], [1, 1]]), None),
    "MultiBinary": (spaces.MultiBinary(2), np.array([[1, 0], [0, 1], [1, 1]]), np.array([[1, 0], [0, 1], [1, 1]])),
    "matrix": (spaces.Box(-1, 1, (2, 2)), np.full((3, 2, 2), 0.5), np.full((3, 4), 0.5)),
}


@pytest.mark.parametrize("kind", DISCRETE)
def test_samples_of_any_space_become_vectors(kind: str) -> None:
    from prefenvs.datasets.formats.spaces import flatten

    space, values, expected = DISCRETE[kind]
    if expected is None:
        expected = np.stack([spaces.flatten(space, value) for value in values])
    np.testing.assert_array_equal(flatten(values, space, "actions"), expected)
    if kind.endswith("Discrete"):
        with pytest.raises(PrefenvsError, match=r"outside the \d discrete values"):
            flatten(values + 9, space, "actions")
    with pytest.raises(PrefenvsError, match="only vectors"):
        flatten(np.zeros((3, 8, 8, 3)), spaces.Box(0, 255, (8, 8, 3)), "pictures")


def test_read_minari_is_one_line_where_a_value_is_outside(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    one_hot = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    folder = write_minari(made(actions=one_hot), tmp_path / "made-v0", discrete=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/actions"][0] = -1
    with pytest.raises(PrefenvsError, match="hold -1, outside the 3 discrete values 0 to 2"):
        read_minari(folder)


def encoded(flag: object) -> str:
    """An info as jsonpickle writes it where the flag is NumPy's."""
    code, content = ("b1", bytes([bool(flag)])) if isinstance(flag, np.bool_) else ("i8", np.int64(flag).tobytes())
    number = {"py/tuple": [{"py/reduce": [{"py/type": "numpy.dtype"}, {"py/tuple": [code, False, True]}]},
                           {"py/b64": base64.b64encode(content).decode()}]}  # fmt: skip
    return json.dumps(
        {"TimeLimit.truncated": {"py/reduce": [{"py/function": "numpy._core.multiarray.scalar"}, number]}}
    )


def write_infos(path: Path, lengths: list[int], infos: list[str], terminal: bool = True) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = {
        "obs": [np.zeros((n + 1, 4), np.float32) for n in lengths],
        "acts": [np.arange(n) % 2 for n in lengths],
        "infos": [["{}"] * (n - 1) + [info] for n, info in zip(lengths, infos, strict=True)],
        "terminal": [terminal] * len(lengths),
    }
    datasets.Dataset.from_dict(rows).save_to_disk(str(path))
    return path


@pytest.mark.parametrize("write", [json.dumps, encoded], ids=["plain", "numpy"])
@pytest.mark.parametrize("kind", [bool, int, np.bool_, np.int64])
def test_flags_in_infos_of_imitation_are_read_whatever_their_type(write, kind, tmp_path: Path) -> None:
    flags = [kind(True), kind(False)]
    if write is encoded:
        infos = [encoded(np.bool_(flag) if kind in (bool, np.bool_) else int(flag)) for flag in flags]
    else:
        infos = [json.dumps({"TimeLimit.truncated": flag.item() if hasattr(flag, "item") else flag}) for flag in flags]
    dataset = load_dataset(write_infos(tmp_path / "data", [3, 3], infos))
    assert dataset.trajectories.terminated.tolist() == [False, True]


def test_a_finished_episode_below_the_horizon_was_terminated(tmp_path: Path) -> None:
    path = write_infos(tmp_path / "data", [12, 24, 500], ["{}"] * 3)
    dataset = load_dataset(path, "CartPole-v1")
    assert dataset.trajectories.terminated.tolist() == [True, True, False]
    terminals = dataset.transitions().terminals
    assert np.flatnonzero(terminals).tolist() == [11, 35]
    unknown = load_dataset(path)
    assert unknown.trajectories.terminated is None
    with pytest.warns(UserWarning, match="does not tell which episodes the task ended"):
        unknown.transitions()
    cut_off = write_infos(tmp_path / "cut", [12], ["{}"], terminal=False)
    assert load_dataset(cut_off).trajectories.terminated.tolist() == [False]
