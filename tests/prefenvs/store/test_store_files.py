"""Stores in files: what is no store, damaged, full, or taken away while it is open."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.store import Store, StoreUnavailable

from .test_store import answer, make_queries


@pytest.mark.parametrize("change", ["removed", "moved", "replaced"])
def test_a_file_that_is_gone_takes_no_label(change: str, tmp_path: Path) -> None:
    """Until it is back: SQLite itself would take them, and nobody would ever see them."""
    path, away, queries = tmp_path / "labels.sqlite", tmp_path / "away.sqlite", make_queries(2)
    with Store(path) as store:
        store.add_preferences([answer(queries[0])])
        path.rename(away)
        if change == "removed":
            away.unlink()
        elif change == "replaced":
            path.touch()
        with pytest.raises(StoreUnavailable, match=r"labels.sqlite was removed, moved or replaced"):
            store.add_preferences([answer(queries[1])])
        if change != "removed":
            away.replace(path)
            store.add_preferences([answer(queries[1])])
    if change != "removed":
        with Store(path, create=False) as again:
            assert again.stats().labels == 2


@pytest.mark.parametrize("path", ["labels.sqlite", "sqlite:///{}/labels.sqlite"])
def test_a_store_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrefenvsError, match="there is no store at"):
        Store(path.format(tmp_path), create=False)
    assert not list(tmp_path.iterdir())
    with Store(path.format(tmp_path)) as store:
        store.add_queries(make_queries(1))
    with Store(Path("labels.sqlite"), create=False) as store:
        assert store.count_pending() == 1


def test_what_is_no_store_gets_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to have a header\n" * 40)
    (tmp_path / "empty").touch()
    for location, message in (
        (tmp_path / "text", "no SQLite database"),
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "where.sqlite", "does not exist; make it or correct the path"),
        ("", "is a file or a PostgreSQL URL"),
        (":memory:", "is a file or a PostgreSQL URL"),
        ("sqlite://", "is a file or a PostgreSQL URL"),
        ("mysql://localhost/labels", "SQLite or PostgreSQL, not in 'mysql'"),
        ("postgresql://user:secret@localhost:99999999/x", "invalid port"),
        ("postgresql://user:secret@127.0.0.1:1/x?connect_timeout=5", "127.0.0.1"),
    ):
        with pytest.raises(PrefenvsError, match=message) as caught:
            Store(location)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)
    with pytest.raises(PrefenvsError, match="no store has been made there"):
        Store(tmp_path / "empty", create=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text"]


def test_a_damaged_file_gets_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        store.add_queries(make_queries(200))
    data = bytearray(path.read_bytes())
    data[4096:] = bytes(len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(PrefenvsError, match="damaged"), Store(path) as store:
        store.pending_queries()


@pytest.mark.parametrize("refusal", ["read-only", "full"])
def test_a_write_that_fails_says_so_and_stores_nothing(tmp_path: Path, refusal: str) -> None:
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_queries(make_queries(1), run="r")
        with store.engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert raw is not None
            pages = raw.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
            limit = "query_only = ON" if refusal == "read-only" else f"max_page_count = {pages + 2}"
            raw.execute(f"PRAGMA {limit}")  # type: ignore[attr-defined]
        with pytest.raises(PrefenvsError, match=r"labels.sqlite: .*(readonly|disk is full)") as caught:
            store.add_queries(make_queries(100, seed=1), run="r")
        assert "\n" not in str(caught.value)
    with Store(tmp_path / "labels.sqlite") as store:
        assert store.count_pending("r") == 1
