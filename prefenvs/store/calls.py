"""Calls of models: every prompt and reply of a rater that is a model, kept for audit and so that none is paid twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from prefenvs.store import rows
from prefenvs.store.database import reading, writing
from prefenvs.store.events import UNSTORABLE
from prefenvs.store.schema import calls
from prefenvs.store.store import Store

UNDER_WAY = "under way"
"""How a call ends that was begun and of which nothing more is known, as its program was killed."""
IDENTICAL = "identical pictures"
"""How a query ends that needs no call, since both of its pictures are the same."""


@dataclass(frozen=True)
class Call:
    """One call of a model.

    key: hex SHA-256 of all that the reply depends on. query: id of the query it was about. prompt: the messages and
    settings as JSON, with pictures named by their segments' hashes. reply: the model's text, None where the call
    failed or is under way. finish: how the reply ended ("stop", "length", "refusal"), or why the call failed.
    tokens_in, tokens_out: as the server counted them; cost: in the currency of the prices given; seconds: how long it
    took; time: since the epoch. A call that failed or is under way has the tokens and the cost that it may be charged.
    """

    key: str
    run: str
    query: str
    model: str
    prompt: str
    reply: str | None
    finish: str
    tokens_in: int
    tokens_out: int
    cost: float
    seconds: float
    time: float


@dataclass(frozen=True)
class Spending:
    """What calls have used up: queries that at least one call was made for, tokens of both kinds, and money."""

    queries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


def storable(text: str) -> str:
    """Return a text as a store keeps it: NUL and lone surrogates become replacement characters."""
    return UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def add_calls(store: Store, items: Iterable[Call], ended: Iterable[Call] = ()) -> None:
    """Append calls, all or none; they are on the disk when this returns.

    ended: calls that were added as under way and are so no longer; their records are taken away at the same moment.
    """
    new = [asdict(call) for call in items]
    for row in new:
        for name in ("prompt", "reply", "finish"):
            row[name] = row[name] and storable(row[name])
    names = ("key", "run", "query", "time")
    match = [calls.c[name] == sa.bindparam(f"ended_{name}") for name in names]
    old = [{f"ended_{name}": getattr(call, name) for name in names} for call in ended]
    with writing(store.engine) as connection:
        for part in rows.chunks(old):
            connection.execute(sa.delete(calls).where(*match, calls.c.finish == UNDER_WAY), part)
        for part in rows.chunks(new):
            connection.execute(sa.insert(calls), part)


def find_replies(store: Store, keys: Iterable[str]) -> dict[str, Call]:
    """Return the first call with a reply for each of the keys; keys that never had one are left out."""
    found: dict[str, Call] = {}
    with reading(store.engine) as connection:
        for part in rows.chunks(list(keys)):
            where = calls.c.key.in_(part), calls.c.reply.is_not(None)
            for row in connection.execute(sa.select(calls).where(*where).order_by(calls.c.seq)).mappings():
                found.setdefault(row["key"], _call_of(row))
    return found


def list_calls(store: Store, run: str | None = None, query: str | None = None) -> list[Call]:
    """Return the calls made, failed ones included, oldest first; of one run or about one query only, if given."""
    select = sa.select(calls).order_by(calls.c.seq)
    if run is not None:
        select = select.where(calls.c.run == run)
    if query is not None:
        select = select.where(calls.c.query == query)
    with reading(store.engine) as connection:
        return [_call_of(row) for row in connection.execute(select).mappings()]


def answered_before(store: Store, model: str, settings: str) -> bool:
    """Tell whether the model has ever replied under these settings, by the end of the prompts that hold them."""
    replied = calls.c.reply.is_not(None) & (calls.c.tokens_in > 0)
    where = calls.c.model == model, replied, calls.c.prompt.endswith(settings, autoescape=True)
    with reading(store.engine) as connection:
        return connection.execute(sa.select(calls.c.seq).where(*where).limit(1)).first() is not None


def called_queries(store: Store, run: str) -> set[str]:
    """Return the ids of the queries of a run that at least one call was made for, whatever became of it."""
    with reading(store.engine) as connection:
        found = connection.execute(sa.select(calls.c.query).where(calls.c.run == run, _made()).distinct())
        return set(found.scalars())


def sum_calls(store: Store, run: str) -> Spending:
    """Add up what the calls of a run have used, those that failed or are under way included."""
    # As floats: a database's sum of integers fails where it overflows.
    columns = (sa.cast(calls.c[name], sa.Double) for name in ("tokens_in", "tokens_out", "cost"))
    sums = [sa.func.coalesce(sa.func.sum(column), 0) for column in columns]
    charged = sa.func.count(sa.case((_made(), calls.c.query)).distinct())
    with reading(store.engine) as connection:
        row = connection.execute(sa.select(charged, *sums).where(calls.c.run == run)).one()
    return Spending(int(row[0]), int(row[1]), int(row[2]), float(row[3]))


def _made() -> sa.ColumnElement[bool]:
    """Whether a record stands for a call: a server's count of 0 tokens does not tell."""
    return calls.c.finish != IDENTICAL


def _call_of(row: sa.RowMapping) -> Call:
    return Call(**{name: value for name, value in row.items() if name != "seq"})
