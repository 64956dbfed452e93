"""How fast the preference store writes and reads, against the plain way: one ORM object, pickle and commit per row.

    python -m benchmarks.data.store [--queries 20000] [--repeats 3]

Both write to SQLite files in the same folder with the same durability (write-ahead log, synchronous=FULL) and the same
segments: 64 steps of HalfCheetah's 17 observations and 6 actions, with true rewards. Runs are interleaved; figures are
medians.
"""

from __future__ import annotations

import pickle
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sqlalchemy as sa
import tyro
from sqlalchemy import orm

from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import Store, export_store, import_store


class Base(orm.DeclarativeBase):
    """Tables of the plain way."""


class SegmentRow(Base):
    """A pickled segment."""

    __tablename__ = "segments"
    hash: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    data: orm.Mapped[bytes]


class QueryRow(Base):
    """A pair of segments."""

    __tablename__ = "queries"
    id: orm.Mapped[str] = orm.mapped_column(primary_key=True)
    first: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("segments.hash"))
    second: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("segments.hash"))


class LabelRow(Base):
    """An answer."""

    __tablename__ = "labels"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    query: orm.Mapped[str] = orm.mapped_column(sa.ForeignKey("queries.id"))
    probabilities: orm.Mapped[bytes]


class PlainStore:
    """What one writes first: an object per row, committed when it is added, and pickles for the arrays."""

    def __init__(self, path: Path) -> None:
        self.engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self.engine, "connect", _make_durable)
        Base.metadata.create_all(self.engine)
        self.session = orm.Session(self.engine)

    def add_queries(self, queries: Sequence[Query]) -> None:
        """Add each segment and query, and commit."""
        for query in queries:
            for segment in query.segments:
                self.session.merge(SegmentRow(hash=segment.hash, data=pickle.dumps(segment)))
                self.session.commit()
            first, second = query.segments
            self.session.merge(QueryRow(id=query.id, first=first.hash, second=second.hash))
            self.session.commit()

    def add_preferences(self, preferences: Sequence[Preference]) -> None:
        """Add each answer, and commit."""
        for preference in preferences:
            self.session.add(LabelRow(query=preference.query.id, probabilities=pickle.dumps(preference.probabilities)))
            self.session.commit()

    def preferences(self) -> list[Preference]:
        """Read each answer, its query and its segments."""
        found = []
        for label in self.session.scalars(sa.select(LabelRow)):
            query = self.session.get_one(QueryRow, label.query)
            pieces = [self.session.get_one(SegmentRow, key) for key in (query.first, query.second)]
            segments = tuple(pickle.loads(piece.data) for piece in pieces)
            found.append(Preference(Query(segments), pickle.loads(label.probabilities)))
        return found

    def close(self) -> None:
        """Close the connection."""
        self.session.close()
        self.engine.dispose()


def _make_durable(connection: object, record: object) -> None:
    for setting in ("journal_mode = WAL", "synchronous = FULL"):
        connection.execute(f"PRAGMA {setting}")  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Options:
    """Measure the preference store."""

    queries: int = 20_000
    """Queries in the bulk measurements; the plain way gets a twentieth of them."""
    single: int = 300
    """Labels stored one by one."""
    repeats: int = 3
    """Interleaved repetitions."""
    folder: Path | None = None
    """Where to make the files; by default the system's folder for temporary files."""


def make_queries(count: int, seed: int) -> list[Query]:
    rng = np.random.default_rng(seed)
    shape = (2 * count, 64)
    observations, actions = rng.random((*shape, 17), np.float32), rng.random((*shape, 6), np.float32)
    return make_pairs(SegmentBatch(observations, actions, rng.random(shape), task="HalfCheetah-v5"))


def rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


def answers(queries: Sequence[Query]) -> list[Preference]:
    return [Preference(query, np.array([1.0, 0.0]), oracle="benchmark") for query in queries]


def measure_store(folder: Path, options: Options, seed: int) -> dict[str, float]:
    queries, count = make_queries(options.queries, seed), options.queries
    found = {}
    with Store(folder / f"store{seed}.sqlite") as store, Store(folder / f"copy{seed}.sqlite") as copy:
        found["segments written/s"] = rate(2 * count, lambda: store.add_queries(queries, run="r"))
        bulk = answers(queries[options.single :])
        found["labels durable/s, in one batch"] = rate(len(bulk), lambda: store.add_preferences(bulk, run="r"))
        single = answers(queries[: options.single])

        def one_by_one() -> None:
            for answer in single:
                store.add_preferences([answer], run="r")

        found["labels durable/s, one by one"] = rate(len(single), one_by_one)
        found["segments read/s, as preferences"] = 2 * rate(count, lambda: store.preferences(run="r"))
        found["queries checked for an answer/s"] = rate(count, lambda: store.count_pending("r"))
        found["segments exported/s"] = rate(2 * count, lambda: export_store(store, folder / f"out{seed}"))
        found["segments imported/s"] = rate(2 * count, lambda: import_store(copy, folder / f"out{seed}"))
    return found


def measure_plain(folder: Path, options: Options, seed: int) -> dict[str, float]:
    count = max(options.queries // 20, options.single)
    queries, store, found = make_queries(count, seed), PlainStore(folder / f"plain{seed}.sqlite"), {}
    found["segments written/s"] = rate(2 * count, lambda: store.add_queries(queries))
    labels = rate(count, lambda: store.add_preferences(answers(queries)))
    found["labels durable/s, in one batch"] = found["labels durable/s, one by one"] = labels
    store.close()
    again = PlainStore(folder / f"plain{seed}.sqlite")
    found["segments read/s, as preferences"] = 2 * rate(count, again.preferences)
    again.close()
    return found


def main(options: Options) -> None:
    runs: dict[str, list[dict[str, float]]] = {"prefenvs": [], "plain": []}
    for seed in range(options.repeats):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            runs["plain"].append(measure_plain(Path(name), options, seed))
            runs["prefenvs"].append(measure_store(Path(name), options, seed))
    print(f"Python {platform.python_version()}, SQLAlchemy {sa.__version__}, {options.queries} queries, "
          f"median of {options.repeats}")  # fmt: skip
    print(f"{'':34}{'prefenvs':>10}{'plain':>10}{'ratio':>8}")
    for name in runs["prefenvs"][0]:
        ours, plain = (
            statistics.median(run[name] for run in group) if name in group[0] else None
            for group in (runs["prefenvs"], runs["plain"])
        )
        assert ours is not None
        compared = f"{plain:>10,.0f}{ours / plain:>7.1f}x" if plain else ""
        print(f"{name:34}{ours:>10,.0f}{compared}")


if __name__ == "__main__":
    main(tyro.cli(Options))
