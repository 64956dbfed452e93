"""An import checks sizes before it allocates anything, and reads piece by piece."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import Store, export_store, import_store


@pytest.fixture
def export(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    batch = SegmentBatch(rng.random((8, 5, 3)), rng.random((8, 5, 2)), task="HalfCheetah-v5")
    with Store(tmp_path / "a.sqlite") as store:
        store.add_queries(make_pairs(batch), run="r")
        export_store(store, tmp_path / "export")
    return tmp_path / "export"


def pack(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path


def array_of(shape: str, dtype: str, content: bytes) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


def put_segments(folder: Path, observations: bytes) -> None:
    with zipfile.ZipFile(folder / "segments.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0/hash.npy", array_of("(1,)", "|S64", b"0" * 64))
        archive.writestr("0/observations.npy", observations)


def break_export(kind: str, folder: Path) -> None:
    zeros = bytes(100 * 2**20)
    if kind == "long line":
        (folder / "labels.jsonl").write_bytes(b'{"id": "' + zeros.replace(b"\0", b"x") + b'"}\n')
    elif kind == "deep line":
        (folder / "labels.jsonl").write_text("[" * 100_000 + "\n")
    elif kind == "large meta":
        (folder / "meta.json").write_bytes(b" " * len(zeros) + (folder / "meta.json").read_bytes())
    elif kind == "wide row":
        put_segments(folder, array_of("(1, 100, 131072)", "<f8", zeros))
    elif kind == "header says more":
        put_segments(folder, array_of("(1, 400000000, 17)", "<f8", b""))
    elif kind == "uneven rows":
        put_segments(folder, array_of("(1000000000000, 0)", "<f8", b""))


@pytest.mark.parametrize(
    "kind", ["long line", "deep line", "large meta", "wide row", "header says more", "uneven rows"]
)
def test_bombs_are_refused_in_one_line_and_little_memory(tmp_path: Path, export: Path, kind: str) -> None:
    break_export(kind, export)
    source = pack(export, tmp_path / "export.zip")
    assert source.stat().st_size < 2 * 2**20
    with Store(tmp_path / "b.sqlite") as store:
        tracemalloc.start()
        with pytest.raises(PrefenvsError, match="nothing was imported") as error:
            import_store(store, source)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert store.tasks() == []
    assert "\n" not in str(error.value)
    assert peak < 80 * 2**20


def test_the_limit_names_the_option_and_a_higher_one_lets_it_in(tmp_path: Path, export: Path) -> None:
    source = pack(export, tmp_path / "export.zip")
    size = sum(file.stat().st_size for file in export.iterdir())
    assert json.loads((export / "meta.json").read_text())["counts"]["segments"] == 8
    with Store(tmp_path / "b.sqlite") as store:
        with pytest.raises(PrefenvsError, match="--max-gib"):
            import_store(store, source, max_bytes=size - 1)
        assert import_store(store, source, max_bytes=size).segments == 8
