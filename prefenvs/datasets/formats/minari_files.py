"""What Minari's files may hold before Minari opens them: nothing that is run, linked from elsewhere or too large."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gymnasium

from prefenvs.datasets.d4rl.hdf5 import column_bytes, open_hdf5, walk
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.internal.file_sizes import check_size


def check_folder(folder: Path) -> None:
    """Raise a PrefenvsError for a folder whose files Minari should not be given.

    Minari makes the environment that the metadata name where they tell no spaces, and an environment's entry point may
    be any function; it follows links, and takes what memory a file asks for.
    """
    metadata = read_metadata(folder)
    if not ("observation_space" in metadata and "action_space" in metadata):
        _check_environment(metadata, folder)
    if metadata.get("data_format") == "hdf5":
        _check_hdf5(folder / "main_data.hdf5")
    else:
        for path in sorted(folder.glob("*/*")):
            if path.suffix == ".parquet":
                _check_parquet(path)
            elif path.suffix in (".arrow", ".feather"):
                check_uncompressed(path, framed=True)


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return what metadata.json holds; raises PrefenvsError for a file that holds no JSON object."""
    path = folder / "metadata.json"
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PrefenvsError(f"{folder} is no Minari data set: metadata.json cannot be read ({error})") from error
    if not isinstance(metadata, dict):
        raise PrefenvsError(f"{folder} is no Minari data set: metadata.json holds no JSON object")
    return metadata


def _check_environment(metadata: dict[str, Any], folder: Path) -> None:
    """Admit no environment but one that is registered here, under the same entry point and without wrappers."""
    try:
        spec = json.loads(metadata["env_spec"])
        name, entry = spec["id"], spec["entry_point"]
        wrapped = bool(spec.get("additional_wrappers"))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise PrefenvsError(f"{folder} tells neither its spaces nor its environment in metadata.json") from None
    known = gymnasium.registry.get(name) if isinstance(name, str) else None
    if known is None or known.entry_point != entry or wrapped:
        raise PrefenvsError(
            f"{folder} tells no spaces, and its environment {name!r} is not one that is registered here as it is: "
            "write observation_space and action_space into metadata.json"
        )


def _check_hdf5(path: Path) -> None:
    """Check links and sizes; what is kept of all episodes counts together, infos by the episode they are read with."""
    if not path.is_file():
        return
    kept, largest, begun = 0, 0, ""
    episode = 0
    with open_hdf5(path) as file:
        for key, column in walk(file, path):
            group, _, rest = key.partition("/")
            if group != begun:
                begun, episode = group, 0
            size = column_bytes(column)
            episode += size
            largest = max(largest, episode)
            kept += 0 if rest.startswith("infos/") else size
    check_size(max(kept, largest), path)


def _check_parquet(path: Path) -> None:
    import pyarrow.parquet

    with failure_told(f"{path} is no Parquet file, or is damaged"):
        metadata = pyarrow.parquet.read_metadata(path)
    check_size(8 * metadata.num_rows * metadata.num_columns, path)


def check_uncompressed(path: Path, framed: bool = False) -> None:
    """Raise a PrefenvsError for an Arrow file whose batches are compressed, and so tell no size before they are read.

    framed: whether it is Arrow's file format, whose stream begins after a mark of 8 bytes.
    """
    import pyarrow

    compressed = False
    with failure_told(f"{path} is no Arrow file, or is damaged"), pyarrow.memory_map(str(path)) as source:
        source.seek(8 if framed else 0)
        while (message := _next_message(pyarrow, source)) is not None:
            compressed = compressed or _is_compressed(message)
    if compressed:
        raise PrefenvsError(f"{path} is compressed, which neither Minari nor imitation writes: save it again without")


def _next_message(pyarrow: Any, source: Any) -> bytes | None:
    """The metadata of the next message of an Arrow stream, None at its end."""
    try:
        return bytes(pyarrow.ipc.read_message(source).metadata)
    except EOFError:
        return None


def _is_compressed(message: bytes) -> bool:
    """Whether a message holds a batch of rows with the field `compression` (Arrow's Message.fbs)."""
    _, kind_at, header_at = (_field(message, struct.unpack_from("<I", message)[0], i) for i in range(3))
    if kind_at is None or header_at is None:
        return False
    kind, header = message[kind_at], header_at + struct.unpack_from("<I", message, header_at)[0]
    if kind == 2:
        # A dictionary's batch lies one level deeper.
        data_at = _field(message, header, 1)
        if data_at is None:
            return False
        header = data_at + struct.unpack_from("<I", message, data_at)[0]
    return kind in (2, 3) and _field(message, header, 3) is not None


def _field(message: bytes, table: int, number: int) -> int | None:
    """Where field `number` of a flatbuffer's table lies, None where it has its default."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", message, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", message, vtable + 4 + 2 * number)[0]
    return table + int(offset) if offset else None
