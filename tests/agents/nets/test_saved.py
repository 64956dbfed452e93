"""Values that go into a file of numbers and JSON and come back, and files that are there completely or not at all."""

from __future__ import annotations

import collections
import errno
import math
import pickle
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from prefenvs.agents.nets.saved import find_folder, new_file, new_folder, read_config, read_values, write_values
from prefenvs.envs.states import Snapshot
from prefenvs.errors import PrefenvsError

BIT_GENERATORS = (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)


def there_and_back(tmp_path: Path, value: Any) -> Any:
    write_values(tmp_path / "values.npz", value)
    return read_values(tmp_path / "values.npz")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        2**130,
        -0.1,
        math.inf,
        "text",
        b"\x00\xff",
        [1, [2.5, None]],
        (1, (2,)),
        {1, 2},
        frozenset({"a"}),
        {1: "a", (2, 3): {"same": 0, "list": []}},
    ],
)
def test_plain_values_come_back(tmp_path: Path, value: Any) -> None:
    found = there_and_back(tmp_path, value)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int8, np.bool_, np.uint64])
def test_arrays_and_scalars_keep_type_and_shape(tmp_path: Path, kind: Any) -> None:
    arrays = [np.ones((2, 3), kind), np.zeros((0, 4), kind), np.array(1, kind), kind(1)]
    for found, array in zip(there_and_back(tmp_path, arrays), arrays, strict=True):
        assert (type(found), found.dtype, found.shape) == (type(array), array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)
    assert math.isnan(there_and_back(tmp_path, math.nan))


@pytest.mark.parametrize("bits", BIT_GENERATORS)
def test_a_generator_goes_on_drawing_and_spawning(tmp_path: Path, bits: Any) -> None:
    rng = np.random.Generator(bits(3))
    rng.random(5), rng.spawn(2), rng.integers(5, dtype=np.uint32)
    found = there_and_back(tmp_path, rng)
    assert found.random(3).tolist() == rng.random(3).tolist()
    assert found.spawn(1)[0].random() == rng.spawn(1)[0].random()


def test_a_random_state_goes_on(tmp_path: Path) -> None:
    old = np.random.RandomState(3)
    old.normal(size=3)
    found = there_and_back(tmp_path, old)
    assert found.normal(size=3).tolist() == old.normal(size=3).tolist()


def test_what_is_one_object_stays_one(tmp_path: Path) -> None:
    rng, row, array = np.random.default_rng(0), [1], np.zeros(2)
    found = there_and_back(tmp_path, {"rng": rng, "also": rng, "rows": [row, row, [1]], "arrays": (array, array)})
    assert found["rng"] is found["also"]
    assert found["rows"][0] is found["rows"][1]
    assert found["rows"][0] is not found["rows"][2]
    assert found["arrays"][0] is found["arrays"][1]


def test_a_snapshot_comes_back(tmp_path: Path) -> None:
    snapshot = Snapshot(np.arange(3.0), None, {"xpos": np.ones((2, 3))}, [{"rng": np.random.default_rng(1)}])
    found = there_and_back(tmp_path, [snapshot])[0]
    assert isinstance(found, Snapshot)
    np.testing.assert_array_equal(found.derived["xpos"], snapshot.derived["xpos"])
    assert found.variables[0]["rng"].random() == snapshot.variables[0]["rng"].random()


class Pair(NamedTuple):
    """A tuple with names."""

    first: int


@pytest.mark.parametrize("value", [object(), Pair(1), collections.OrderedDict(), np.array([object()]), len, Path])
def test_anything_else_is_refused_by_its_type(tmp_path: Path, value: Any) -> None:
    with pytest.raises(PrefenvsError, match="neither number nor array"):
        write_values(tmp_path / "values.npz", {"a": [value]})


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "values.npz", json=np.array([len]))
    with pytest.raises(ValueError, match="pickle"):
        read_values(tmp_path / "values.npz")


def test_a_kind_that_nobody_writes_is_refused(tmp_path: Path) -> None:
    text = b'{"eval": "1 + 1"}'
    np.savez(tmp_path / "values.npz", json=np.frombuffer(text, np.uint8))
    with pytest.raises(ValueError, match="eval"):
        read_values(tmp_path / "values.npz")


FAILURES = [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]


def fail_to_write(place: AbstractContextManager[Path], name: str, failure: BaseException) -> None:
    with place as new:
        (new / name).write_text("half")
        raise failure


@pytest.mark.parametrize("failure", FAILURES)
def test_a_full_disk_keeps_the_former_file(tmp_path: Path, failure: Exception) -> None:
    (tmp_path / "file").write_text("former")
    with pytest.raises(PrefenvsError, match="could not be written") as error:
        fail_to_write(new_file(tmp_path / "file"), "", failure)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "former"


@pytest.mark.parametrize("failure", [*FAILURES, KeyboardInterrupt()])
def test_a_folder_is_replaced_completely_or_not_at_all(tmp_path: Path, failure: BaseException) -> None:
    folder = tmp_path / "folder"
    with new_folder(folder) as new:
        (new / "a").write_text("former")
    with pytest.raises((PrefenvsError, KeyboardInterrupt)):
        fail_to_write(new_folder(folder), "a", failure)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "a").read_text() == "former"
    with new_folder(folder) as new:
        (new / "b").write_text("next")
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["folder", "folder/b"]


def test_the_former_folder_survives_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "folder", Path.rename
    with new_folder(folder) as new:
        (new / "a").write_text("former")

    def fail(path: Path, target: Path) -> Path:
        if path.name == "folder.new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(PrefenvsError, match="No space left"), new_folder(folder):
        pass
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["folder", "folder/a"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (tmp_path / "folder.old").mkdir()
    (tmp_path / "folder.old" / "a").write_text("former")
    with pytest.raises(PrefenvsError), new_folder(folder):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (find_folder(folder) / "a").read_text() == "former"


@dataclass(frozen=True)
class Inner:
    """Settings within settings."""

    widths: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    """Settings, one of which may be there or not."""

    rate: float = 0.5
    inner: Inner = field(default_factory=Inner)
    perhaps: Inner | None = None


def test_a_configuration_comes_back_from_plain_values() -> None:
    values = {"rate": 1.5, "inner": {"widths": [3]}, "perhaps": {"widths": [4, 5]}}
    assert read_config(Outer, values) == Outer(1.5, Inner((3,)), Inner((4, 5)))
    assert read_config(Outer, {}) == Outer()


def test_an_old_pickle_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "values.npz").write_bytes(pickle.dumps([1]))
    with pytest.raises(Exception, match="zip"):
        read_values(tmp_path / "values.npz")
