"""A place for a store on each database; PostgreSQL is a private server, or the one of PREFENVS_TEST_POSTGRES."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa


def _run_server(folder: Path) -> Iterator[str]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(binaries[-1]) if binaries else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed, and PREFENVS_TEST_POSTGRES names no server")
    pg_ctl = str(Path(initdb).with_name("pg_ctl"))
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        # The server refuses to run as root.
        try:
            shutil.chown(folder, "postgres", "postgres")
        except LookupError:
            pytest.skip("PostgreSQL does not run as root, and there is no account `postgres` to run it")
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}

    def run(*command: str) -> None:
        with (folder / "log").open("a") as log:
            subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=log, timeout=120, **account)  # type: ignore[call-overload]

    data = str(folder / "data")
    run(initdb, "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")
    # A socket in this folder and no port: nothing else can meet it.
    run(pg_ctl, "-D", data, "-w", "-l", "server.log", "-o", f"-c listen_addresses='' -c fsync=off -k {folder}", "start")
    try:
        yield f"postgresql://postgres@/postgres?host={folder}"
    finally:
        run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'prefenvs[postgres]'")
    given = os.environ.get("PREFENVS_TEST_POSTGRES")
    if given:
        yield given
        return
    # Short, since the path of a socket may have no more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        yield from _run_server(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def schema(postgres: str) -> Iterator[str]:
    """URL of an empty schema of its own."""
    name = f"test_{uuid.uuid4().hex}"
    server = sa.make_url(postgres).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {name}"))
    url = server.update_query_dict({"options": f"-csearch_path={name}"}).set(drivername="postgresql")
    yield url.render_as_string(hide_password=False)
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {name} CASCADE"))
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be made."""
    return str(tmp_path / "labels.sqlite") if request.param == "sqlite" else request.getfixturevalue("schema")
