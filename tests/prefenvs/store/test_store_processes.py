"""Several processes at one store, and processes that are killed while they write."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.store import Event, Store, database, rows

WRITER = """
import sys
import numpy as np
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import Store

location, name, count, batch, steps = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
rng = np.random.default_rng(abs(hash(name)))
store = Store(location)
print("open", flush=True)
sys.stdin.readline()
for number in range(count):
    def segment():
        return Segment(rng.random((steps, 17)), rng.random((steps, 6)), rng.random(steps), task="t")
    queries = [Query((segment(), segment())) for _ in range(batch)]
    if number % 2:
        store.add_queries(queries, run=name)
    answers = [Preference(query, np.array([1.0, 0.0]), name, f"batch {number}") for query in queries]
    store.add_preferences(answers, run=name)
    print(number, flush=True)
"""


def start_writer(location: str, name: str, count: int, batch: int, steps: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WRITER, location, name, str(count), str(batch), str(steps)]
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_write_at_once_and_a_reader_misses_nothing(location: str) -> None:
    # They also race to make the store, which is not there when they start.
    writers = [start_writer(location, f"writer {number}", count=40, batch=2, steps=20) for number in range(3)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n", writer.communicate()[1]
    for writer in writers:
        let_go(writer)
    seen, cursor = [], 0
    with Store(location, create=False) as store:
        running = True
        while running:
            running = any(writer.poll() is None for writer in writers)
            new = store.events_after(cursor)
            seen += new
            cursor = new[-1].seq if new and new[-1].seq else cursor
        for writer in writers:
            output, errors = writer.communicate()
            assert (writer.returncode, errors) == (0, "")
            assert output.split() == [str(number) for number in range(40)]
        assert seen == store.events_after()
        assert len(seen) == len(store.preferences()) == 3 * 40 * 2
        for name in ("writer 0", "writer 1", "writer 2"):
            assert [event.oracle for event in seen if event.run == name] == [f"batch {n // 2}" for n in range(80)]


@pytest.mark.parametrize("batch", [1, 50])
def test_a_label_that_was_acknowledged_survives_kill_9(location: str, batch: int) -> None:
    moments = random.Random(batch)
    acknowledged: dict[str, int] = {}
    for attempt in range(4):
        name = f"attempt {attempt}"
        writer = start_writer(location, name, count=100_000, batch=batch, steps=60)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        let_go(writer)
        timer = threading.Timer(moments.uniform(0.05, 0.4), writer.send_signal, [signal.SIGKILL])
        timer.start()
        acknowledged[name] = len(writer.stdout.readlines())
        assert writer.wait() == -signal.SIGKILL, writer.communicate()[1]
        with Store(location, create=False) as store:
            check_consistent(store)
            for run, count in acknowledged.items():
                batches = [found.oracle for found in store.preferences(run=run)]
                # A batch may have been stored in the moment before its acknowledgement; none is there in part.
                stored = len(batches) // batch
                assert stored in (count, count + 1)
                assert batches == [f"batch {number}" for number in range(stored) for _ in range(batch)]
    assert sum(acknowledged.values()) > 0


def check_consistent(store: Store) -> None:
    if store.engine.dialect.name == "sqlite":
        with store.engine.connect() as connection:
            assert connection.scalar(sa.text("PRAGMA integrity_check")) == "ok"
            assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []


def test_every_connection_waits_for_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "labels.sqlite") as store, store.engine.connect() as one, store.engine.connect() as other:
        for connection in (one, other):
            settings = {name: connection.scalar(sa.text(f"PRAGMA {name}")) for name in ("synchronous", "journal_mode")}
            assert settings == {"synchronous": 2, "journal_mode": "wal"}


def test_numbers_rise_in_the_order_of_commits(location: str) -> None:
    early, late = Event("model_call", oracle="early"), Event("model_call", oracle="late")
    with Store(location) as store, Store(location) as other:
        thread = threading.Thread(target=other.add_events, args=([late],))
        with database.writing(store.engine) as connection:
            rows.add_events(connection, [early])
            thread.start()
            thread.join(0.3)
            # Were `late` committed now, a reader would pass over the number of `early` and never come back.
            assert thread.is_alive()
            assert other.events_after() == []
        thread.join()
        assert other.events_after() == [early, late]


def test_a_reader_does_not_wait_for_a_writer(location: str) -> None:
    with Store(location) as store, database.writing(store.engine):
        assert store.stats().events == 0


def test_a_writer_that_waits_in_vain_says_why(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.2)
    with Store(location) as store, Store(location) as other, database.writing(store.engine):
        begun = time.monotonic()
        with pytest.raises(PrefenvsError, match="another process has kept it locked"), database.writing(other.engine):
            pass
        assert time.monotonic() - begun >= 0.2


def test_a_claim_is_one_s_at_a_time(location: str) -> None:
    with Store(location) as one, Store(location) as other:
        with one.claim("a rating of run 'a'"):
            with pytest.raises(PrefenvsError, match="another process has a rating of run 'a' in the store"):
                other.claim("a rating of run 'a'").__enter__()
            with other.claim("a rating of run 'b'"):
                pass
        with other.claim("a rating of run 'a'"):
            pass


def test_a_lock_on_a_file_that_is_removed_meanwhile_is_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a third process, which makes the file anew, would claim the same."""
    own = database.fcntl.flock

    def late(file: IO[str], how: int) -> None:
        Path(file.name).unlink()
        own(file, how)

    with Store(tmp_path / "labels.sqlite") as store:
        monkeypatch.setattr(database.fcntl, "flock", late)
        with pytest.raises(PrefenvsError, match="another process has a rating"):
            store.claim("a rating").__enter__()
