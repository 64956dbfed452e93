"""The tables of a preference store, the same on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

SCHEMA_VERSION = 1
FORMAT = "prefenvs.store"

tables = sa.MetaData()
_sequence = sa.BigInteger().with_variant(sqlite.INTEGER(), "sqlite")

meta = sa.Table(
    "meta",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# What raters may be shown, once per content hash. `data` is packed by prefenvs.store.packing.
segments = sa.Table(
    "segments",
    tables,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("episode", sa.BigInteger, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("steps", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

# Privileged, hence a table of its own: a server may refuse it to the learners' account.
true_rewards = sa.Table(
    "true_rewards",
    tables,
    sa.Column("segment", sa.ForeignKey("segments.hash"), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
)

queries = sa.Table(
    "queries",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

query_segments = sa.Table(
    "query_segments",
    tables,
    sa.Column("query", sa.ForeignKey("queries.id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("segment", sa.ForeignKey("segments.hash"), nullable=False),
)

# A run asks a query: the same question may be asked by many runs, each at most once.
requests = sa.Table(
    "requests",
    tables,
    sa.Column("seq", _sequence, primary_key=True),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("query", sa.ForeignKey("queries.id"), nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("priority", sa.Double, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.UniqueConstraint("run", "query"),
    # In the order in which questions are handed out, so that the search for the next one stops where it finds it.
    sa.Index("ix_requests_order", sa.text("priority DESC"), "seq"),
    sqlite_autoincrement=True,
)

# The log. `query`, `segment` and `target` are each optional, so that kinds to come (a rating of one segment, a call of
# a model) need no other columns; probabilities, shown and extra are JSON text.
events = sa.Table(
    "events",
    tables,
    sa.Column("seq", _sequence, primary_key=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("query", sa.ForeignKey("queries.id")),
    sa.Column("segment", sa.ForeignKey("segments.hash")),
    sa.Column("target", sa.ForeignKey("events.id"), index=True),
    sa.Column("probabilities", sa.Text),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("oracle", sa.Text, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double),
    sa.Column("shown", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("page", sa.Text, nullable=False),
    sa.Column("extra", sa.Text),
    # Of both columns, and none that begins with the run: without statistics, either database may look through all
    # answers of a run for each of its queries.
    sa.Index("ix_events_query_run", "query", "run"),
    sa.Index("ix_events_segment_run", "segment", "run"),
    sqlite_autoincrement=True,
)

# Who was given what to answer, and until when it is theirs alone. Unlike the log this may change, and an export leaves
# it out. One of `query` and `segment` is the subject; `answer` is the event that answered, None while it is open;
# `repeats` names the answer whose question this one asks again, to see whether the annotator repeats it.
assignments = sa.Table(
    "assignments",
    tables,
    sa.Column("seq", _sequence, primary_key=True),
    sa.Column("id", sa.String(36), nullable=False, unique=True),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("run", sa.Text, nullable=False),
    sa.Column("query", sa.ForeignKey("queries.id")),
    sa.Column("segment", sa.ForeignKey("segments.hash")),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Column("repeats", sa.ForeignKey("events.id")),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("answer", sa.ForeignKey("events.id")),
    sa.Index("ix_assignments_query", "query", "run"),
    sa.Index("ix_assignments_segment", "segment", "run"),
    sa.Index("ix_assignments_annotator", "annotator", "answer"),
    sqlite_autoincrement=True,
)

# What lets an annotator in, as a SHA-256, so that whoever reads the store cannot label in another's name.
tokens = sa.Table(
    "tokens",
    tables,
    sa.Column("hash", sa.String(64), primary_key=True),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

# What was put to models and what they said, one row per call, so that none is paid for twice. `key` is a hash of the
# prompt, the segments shown, the model and its settings; prompt is JSON text, in which pictures are named, not held.
# reply is None for a call that failed, whose tokens and cost are then what it may have been charged.
calls = sa.Table(
    "calls",
    tables,
    sa.Column("seq", _sequence, primary_key=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("query", sa.String(32), nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("reply", sa.Text),
    sa.Column("finish", sa.Text, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)

# Clips that other machines have rendered for this store's servers. All can be rendered again, and an export leaves them
# out. `look` names size and quality, see prefenvs.videos.Look.
clips = sa.Table(
    "clips",
    tables,
    sa.Column("look", sa.Text, primary_key=True),
    sa.Column("segment", sa.String(64), primary_key=True),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
)

_REFUSAL = "label events are append-only"


def _after_create(statement: str, dialect: str) -> None:
    # DDL fills in %-formats, so a literal percent sign is doubled.
    sa.event.listen(tables, "after_create", sa.DDL(statement.replace("%", "%%")).execute_if(dialect=dialect))  # type: ignore[no-untyped-call]


for _verb in ("UPDATE", "DELETE"):
    _after_create(
        f"CREATE TRIGGER IF NOT EXISTS events_refuse_{_verb.lower()} BEFORE {_verb} ON events "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
        "sqlite",
    )
_after_create(
    "CREATE OR REPLACE FUNCTION events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    "postgresql",
)
_after_create(
    "CREATE OR REPLACE TRIGGER events_refuse BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
    "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse()",
    "postgresql",
)
for _table in (segments, true_rewards, clips):
    # Floats hardly compress: without this the server tries, and spends most of the insertion on it.
    _after_create(f"ALTER TABLE {_table.name} ALTER COLUMN data SET STORAGE EXTERNAL", "postgresql")
