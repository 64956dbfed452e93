"""Opening a store's database, and the two kinds of transaction: one that reads, one that writes durably."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefenvs.errors import PrefenvsError, install_command
from prefenvs.store.schema import FORMAT, SCHEMA_VERSION, meta, tables

BUSY_SECONDS = 60.0


class StoreUnavailable(PrefenvsError):
    """The database cannot do its work now: it is stopped, full, locked or damaged. Nothing is wrong with the request.

    The message is for whoever runs the store: it names the path or the server.
    """


# Any number will do as long as every writer uses the same one.
_WRITER_LOCK = 0x70726566
_INHERITED: list[Any] = []


def is_store(location: str | os.PathLike[str]) -> bool:
    """Return whether this names a store, not some other file: a URL, or a path that ends in .sqlite or .db."""
    text = os.fspath(location)
    return "://" in text or Path(text).suffix in (".sqlite", ".db")


def parse_location(location: str | os.PathLike[str]) -> sa.URL:
    """Return the database URL for a file path, `sqlite:///path` or `postgresql://...`.

    Raises PrefenvsError for another database, and text that is no location.
    """
    text = os.fspath(location)
    if "://" not in text:
        path = Path(text).expanduser()
        if not text or text == ":memory:":
            raise PrefenvsError(
                f"a store is a file or a PostgreSQL URL, got {text!r}: give a path such as labels.sqlite"
            )
        return sa.URL.create("sqlite", database=str(path.absolute()))
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        raise PrefenvsError(
            f"{text.split('://')[0]}://... is not a database URL; write postgresql://user@host/name"
        ) from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise PrefenvsError(f"a store lives in SQLite or PostgreSQL, not in {url.drivername!r}")
    return parse_location(url.database or "")


def open_engine(url: sa.URL, create: bool) -> sa.Engine:
    """Return an engine for a store of this version; a store that does not exist is made if `create` is set.

    Raises PrefenvsError for a store that cannot be opened.
    """
    if url.drivername == "sqlite":
        _check_path(Path(str(url.database)), create)
        engine = sa.create_engine(url)
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "connect", lambda _, record: record.info.update(file=_file_of(url)))
        sa.event.listen(engine, "begin", _begin_sqlite)
    else:
        try:
            engine = sa.create_engine(url, pool_pre_ping=True)
        except ModuleNotFoundError:
            raise PrefenvsError(f"PostgreSQL needs psycopg: {install_command('postgres')}") from None
        sa.event.listen(engine, "begin", _begin_postgres)
    sa.event.listen(engine, "connect", _note_process)
    sa.event.listen(engine, "checkout", _refuse_inherited)
    try:
        _prepare(engine, create)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that sees one moment of the store and hinders no writer."""
    with _described(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that is on the disk when the block ends, and leaves nothing behind when it fails.

    Writers take turns on both databases. That is what makes the numbers of the log rise in the order of commits, so
    that a reader which remembers the last number it saw misses nothing.
    """
    with _described(engine), engine.connect() as connection:
        connection = connection.execution_options(store_writes=True)
        with connection.begin():
            yield connection


@contextmanager
def claimed(engine: sa.Engine, what: str) -> Iterator[None]:
    """Keep other processes from doing the same in this store meanwhile; a claim ends with its process.

    Raises PrefenvsError where another process holds it.
    """
    digest = hashlib.sha256(what.encode()).digest()
    taken = f"another process has {what} in {describe(engine.url)} under way: wait until it has ended, or stop it"
    if engine.dialect.name == "postgresql":
        key = int.from_bytes(digest[:8], "big", signed=True)
        with _described(engine), engine.connect() as connection:
            session = connection.execution_options(isolation_level="AUTOCOMMIT")
            if not session.scalar(sa.select(sa.func.pg_try_advisory_lock(key))):
                raise PrefenvsError(taken)
            try:
                yield
            finally:
                # The server ends the claim with the session, which the pool would keep.
                connection.invalidate()
        return
    path = Path(str(engine.url.database))
    path = path.with_name(f".{path.name}-{digest.hex()[:8]}.lock")
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file since it was opened; then this lock keeps nobody away.
            held = os.path.samestat(os.fstat(lock.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:
            raise PrefenvsError(taken)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def bytes_on_disk(connection: sa.Connection) -> int:
    """Size of the database: of a SQLite file with its write-ahead log, or of all that is in a PostgreSQL database."""
    if connection.dialect.name == "postgresql":
        return int(connection.scalar(sa.select(sa.func.pg_database_size(sa.func.current_database()))) or 0)
    files = (Path(f"{connection.engine.url.database}{suffix}") for suffix in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def _check_path(path: Path, create: bool) -> None:
    if path.is_dir():
        raise PrefenvsError(f"the store {path} is a folder; give the path of a file in it")
    if not path.parent.is_dir():
        raise PrefenvsError(
            f"the folder {path.parent} of the store {path.name} does not exist; make it or correct the path"
        )
    if not create and not path.exists():
        raise PrefenvsError(f"there is no store at {path}")


def _configure_sqlite(connection: Any, record: Any) -> None:
    # Transactions are begun by `_begin_sqlite`, not by the driver.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    # With a write-ahead log, NORMAL survives a killed process but not a power cut: the newest commits may still be in
    # the system's memory. FULL waits for the disk at each commit; fullfsync is what macOS calls that.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that turns from reading to writing half-way fails at once if another writer came first, whatever
    # the timeout; so a writer takes the lock, and waits for it, at the beginning.
    writes = connection.get_execution_options().get("store_writes")
    # SQLite would go on writing into a file that is gone, and nobody would find there what it has taken.
    if writes and connection.info["file"] != _file_of(connection.engine.url):
        raise StoreUnavailable(
            f"{describe(connection.engine.url)} was removed, moved or replaced while it was open: put the file back, "
            "or start anew with the one that is there now; nothing of this batch was stored"
        )
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _file_of(url: sa.URL) -> tuple[int, int] | None:
    """What tells the file at a path from any other; None if there is none."""
    try:
        found = os.stat(str(url.database))
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _begin_postgres(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("store_writes"):
        connection.exec_driver_sql(
            f"SELECT set_config('synchronous_commit', 'on', true), set_config('lock_timeout', "
            f"'{int(BUSY_SECONDS * 1000)}', true), pg_advisory_xact_lock({_WRITER_LOCK})"
        )


def _note_process(connection: Any, record: Any) -> None:
    record.info["process"] = os.getpid()


def _refuse_inherited(connection: Any, record: Any, proxy: Any) -> None:
    if record.info["process"] != os.getpid():
        # A connection must not be used, nor even closed, on the far side of a fork: keep it, open another one.
        _INHERITED.append(connection)
        record.dbapi_connection = proxy.dbapi_connection = None
        raise sa.exc.DisconnectionError("opened by another process")


def _prepare(engine: sa.Engine, create: bool) -> None:
    with reading(engine) as connection:
        present = _tables_of_store(connection, engine)
    if present >= set(tables.tables):
        return
    if not present and not create:
        raise PrefenvsError(f"{describe(engine.url)} is empty: no store has been made there")
    if not present and engine.dialect.name == "sqlite":
        with _described(engine):
            _use_write_ahead_log(engine)
    with writing(engine) as connection:
        # Another process may have been faster.
        present = _tables_of_store(connection, engine)
        if not present >= set(tables.tables):
            tables.create_all(connection)
        if not present:
            about = {"format": FORMAT, "schema_version": str(SCHEMA_VERSION), "created": repr(clock.time())}
            connection.execute(sa.insert(meta), [{"key": key, "value": value} for key, value in about.items()])
            return
        # The store comes from a time when this version had fewer tables and indexes; what it holds stays as it is.
        for index in (index for table in tables.sorted_tables for index in table.indexes):
            connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def _tables_of_store(connection: sa.Connection, engine: sa.Engine) -> set[str]:
    """Return the tables of a store of this version, none for an empty database; anything else is an error."""
    present = set(sa.inspect(connection).get_table_names())
    if not present:
        return set()
    rows = connection.execute(sa.select(meta.c.key, meta.c.value)).all() if "meta" in present else []
    about = {row.key: row.value for row in rows}
    if about.get("format") != FORMAT:
        raise PrefenvsError(f"{describe(engine.url)} is a database, but no preference store: choose another path")
    version = str(about.get("schema_version"))
    if version.isdecimal() and int(version) > SCHEMA_VERSION:
        raise PrefenvsError(
            f"{describe(engine.url)} was written by a newer prefenvs: it has schema version {version}, this prefenvs "
            f"reads version {SCHEMA_VERSION}; install a newer one, or `prefenvs store export` it with that one"
        )
    if version != str(SCHEMA_VERSION):
        raise PrefenvsError(
            f"{describe(engine.url)} has schema version {version}, this prefenvs reads version {SCHEMA_VERSION}: "
            "export it with the prefenvs that wrote it (`prefenvs store export`), then import that into a new store"
        )
    return present


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Let readers and a writer work at the same time; the file remembers it."""
    deadline = clock.monotonic() + BUSY_SECONDS
    raw = engine.raw_connection()
    try:
        while True:
            try:
                raw.cursor().execute("PRAGMA journal_mode = WAL")
                return
            except Exception as error:
                # This one statement ignores the busy timeout when several processes make the file at once.
                if "locked" not in str(error) or clock.monotonic() > deadline:
                    raise
                clock.sleep(0.01)
    finally:
        raw.close()


def describe(url: sa.URL) -> str:
    """The store in words, for messages: its path, or its URL without the password."""
    return f"the store {url.database if url.drivername == 'sqlite' else url.render_as_string(hide_password=True)}"


_HINTS = {
    "not a database": "this file is no SQLite database; choose another path",
    "malformed": "the file is damaged; restore it from a copy or an export",
    "is locked": "another process has kept it locked for too long",
    "lock timeout": "another process has kept it locked for too long",
    "disk is full": "the disk is full; nothing of this batch was stored",
    "readonly": "the file or its folder may not be written",
    "unable to open": "the file or its folder may not be read and written",
}


@contextmanager
def _described(engine: sa.Engine) -> Iterator[None]:
    """Turn the database's errors into one line that names the store."""
    try:
        yield
    except (sa.exc.DBAPIError, sa.exc.DisconnectionError, sa.exc.TimeoutError, sqlite3.Error) as error:
        cause = " ".join(str(getattr(error, "orig", error)).split())
        hint = next((hint for sign, hint in _HINTS.items() if sign in cause), "")
        # What the data itself did to the database is the writer's; all else is the database's, and may pass.
        refused = isinstance(error, sa.exc.IntegrityError | sa.exc.DataError)
        kind = PrefenvsError if refused else StoreUnavailable
        raise kind(f"{describe(engine.url)}: {cause}{f' ({hint})' if hint else ''}") from error
    except UnicodeEncodeError as error:
        raise PrefenvsError(f"{error.object!r} holds half a surrogate pair, which no database stores") from None
