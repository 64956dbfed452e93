"""Saved agents and checkpoints: tensors and JSON, written complete or not at all, read without running anything."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from prefenvs.envs.states import Snapshot
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_npz, check_zip
from prefenvs.segments import Array

BIT_GENERATORS = {
    kind.__name__: kind
    for kind in (np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64)
}
CONTAINERS = {kind.__name__: kind for kind in (list, tuple, set, frozenset)}


@contextmanager
def damage_told(path: str | Path, way_out: str, always: bool = False) -> Iterator[None]:
    """Turn any error from reading `path` within the block into a PrefenvsError; `way_out` says what to do.

    always: say so after a PrefenvsError from inside the block too, which is raised as it is otherwise.
    """
    try:
        yield
    except PrefenvsError as error:
        if not always:
            raise
        raise PrefenvsError(f"{error}: {way_out}") from error
    except FileNotFoundError:
        raise PrefenvsError(f"{path} is missing: {way_out}") from None
    except PermissionError as error:
        raise PrefenvsError(f"{path} may not be read: {way_out}") from error
    # What unpacking and copying raise of damaged bytes has no common class.
    except Exception as error:
        raise PrefenvsError(
            f"{path} is damaged, or of another version ({type(error).__name__}: {_one_line(error)}): {way_out}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def find_saved(path: str | Path) -> Path:
    """Return the file that a saved agent is in: `path`, with ".zip" where that is left out, or a run folder's newest.

    Raises PrefenvsError for a folder without one.
    """
    path = Path(path)
    if path.is_dir():
        inside = (path / "checkpoint" / "model.zip", path / "model.zip")
        found = next((one for one in inside if one.is_file()), None)
        if found is None:
            raise PrefenvsError(
                f"{path} is a folder without a saved agent: name one that `prefenvs train` wrote, once it has a "
                "checkpoint, or the file that `save` wrote"
            )
        return found
    return path if path.suffix or path.exists() else path.with_suffix(".zip")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path to write to; the file takes the place of `path` when it is complete.

    Raises PrefenvsError where it cannot be written; the former file is kept then.
    """
    new = path.with_name(path.name + ".new")
    with _removed_on_failure(new, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield new
        new.replace(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write to; it takes the place of `folder` when it is complete.

    Raises PrefenvsError where it cannot be written; the former folder is kept then. See `find_folder`.
    """
    new, old = _beside(folder, ".new"), _beside(folder, ".old")
    with _removed_on_failure(new, folder):
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def find_folder(folder: Path) -> Path:
    """Return `folder`, put back where the process that wrote its successor was killed between two renames."""
    old = _beside(folder, ".old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


@contextmanager
def _removed_on_failure(new: Path, place: Path) -> Iterator[None]:
    try:
        yield
    # Of a full disk, torch's own writer raises a RuntimeError.
    except BaseException as error:
        if new.is_dir():
            shutil.rmtree(new, ignore_errors=True)
            find_folder(place)
        else:
            new.unlink(missing_ok=True)
        if isinstance(error, OSError | RuntimeError):
            raise PrefenvsError(
                f"{place} could not be written ({_one_line(error)}), and what was there before is kept: make room on "
                "the disk, or allow writing there, and save again"
            ) from error
        raise


def read_config(kind: type[Any], values: dict[str, Any]) -> Any:
    """Make a configuration, a dataclass, from plain values; a field that an older file lacks gets its default."""
    hints, default, made = typing.get_type_hints(kind), kind(), {}
    for field in dataclasses.fields(kind):
        like = getattr(default, field.name)
        value = values.get(field.name, like)
        hint = hints[field.name]
        nested = next((part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)), None)
        if isinstance(nested, type) and isinstance(value, dict):
            value = read_config(nested, value)
        made[field.name] = tuple(value) if isinstance(like, tuple) else value
    return kind(**made)


@contextmanager
def saved_state(path: str | Path, form: str, writer: str, what: str = "reward model") -> Iterator[dict[str, Any]]:
    """Yield the state that a reward model's or a learner's `save` wrote to `path`, to make it anew within the block.

    form: what the state's "format" has to be; writer: the class. Raises PrefenvsError for a file that is damaged, of
    another kind, or not there, whether reading it or making the model shows that.
    """
    try:
        check_zip(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != form:
            raise KeyError("format")
        yield state
    except FileNotFoundError:
        raise PrefenvsError(f"there is no {what} at {path}") from None
    except PrefenvsError:
        raise
    except Exception as error:
        raise PrefenvsError(f"{path} is not a {what} written by {writer}.save ({type(error).__name__})") from error


def write_values(path: Path, value: Any) -> None:
    """Write numbers, text, arrays, random generators, `Snapshot`s and containers of them as one .npz file.

    Their structure is JSON, in the array "json"; what is one object in several places stays one. Raises PrefenvsError
    for anything else.
    """
    packer = _Packer()
    text = json.dumps(packer.pack(value), allow_nan=False)
    arrays: dict[str, Any] = {str(i): array for i, array in enumerate(packer.arrays)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, json=np.frombuffer(text.encode(), np.uint8), **arrays)


def read_values(path: Path) -> Any:
    """Read what `write_values` wrote; raises one of many errors for anything else, see `damage_told`."""
    check_npz(path)
    with np.load(path, allow_pickle=False) as file:
        return _Unpacker(file).unpack(json.loads(file["json"].tobytes()))


class _Packer:
    """Turns values into JSON and a list of arrays, which the JSON names by their numbers."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        # By identity; the objects are held so that no other one gets the identity meanwhile.
        self._seen: dict[int, tuple[int, Any]] = {}

    def pack(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if id(value) in self._seen:
            return {"same": self._seen[id(value)][0]}
        self._seen[id(value)] = len(self._seen), value
        kind = type(value)
        if kind.__name__ in CONTAINERS and kind is CONTAINERS[kind.__name__]:
            return {kind.__name__: [self.pack(item) for item in value]}
        if kind is dict:
            return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
        if kind is bytes:
            return {"bytes": value.hex()}
        if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
            self.arrays.append(np.asarray(value))
            return {"array" if isinstance(value, np.ndarray) else "scalar": str(len(self.arrays) - 1)}
        if kind is np.random.Generator:
            seed = getattr(value.bit_generator.seed_seq, "state", None)
            return {"generator": [self.pack(value.bit_generator.state), self.pack(seed)]}
        if kind is np.random.RandomState:
            return {"random_state": self.pack(value.get_state(legacy=False))}
        if kind is Snapshot:
            return {"snapshot": self.pack(vars(value))}
        raise PrefenvsError(f"a value of type {kind.__module__}.{kind.__qualname__} is neither number nor array")


class _Unpacker:
    """Turns what `_Packer` made back into values."""

    def __init__(self, arrays: Any) -> None:
        self.arrays = arrays
        self._seen: list[Any] = []

    def unpack(self, packed: Any) -> Any:
        if not isinstance(packed, dict):
            return packed
        ((kind, content),) = packed.items()
        if kind == "float":
            return float(content)
        if kind == "same":
            return self._seen[content]
        number = len(self._seen)
        self._seen.append(None)
        self._seen[number] = self._make(kind, content)
        return self._seen[number]

    def _make(self, kind: str, content: Any) -> Any:
        if kind in CONTAINERS:
            return CONTAINERS[kind](self.unpack(item) for item in content)
        if kind == "dict":
            return {self.unpack(key): self.unpack(item) for key, item in content}
        if kind == "bytes":
            return bytes.fromhex(content)
        if kind in ("array", "scalar"):
            array = self.arrays[content]
            return array if kind == "array" else array[()]
        if kind == "generator":
            state, seed = (self.unpack(part) for part in content)
            bits = BIT_GENERATORS[state["bit_generator"]](None if seed is None else np.random.SeedSequence(**seed))
            bits.state = state
            return np.random.Generator(bits)
        if kind == "random_state":
            random = np.random.RandomState(np.random.MT19937(0))
            random.set_state(self.unpack(content))
            return random
        if kind == "snapshot":
            return Snapshot(**self.unpack(content))
        raise ValueError(f"a value of kind {kind!r}")


def own_memory(state: Any) -> Any:
    """Return a state in which no tensor is part of a larger one: a file would hold the weights of all seeds else."""

    def detach(leaf: Any) -> Any:
        shared = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.numel() * leaf.element_size()
        return leaf.detach().clone() if shared else leaf

    return tree_map(detach, state)
