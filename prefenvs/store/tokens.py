"""Tokens: what annotators and managers show to be let in, as hashes; and notes, settings of a store by name."""

from __future__ import annotations

import hashlib
import json
import secrets
import time as clock
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.store.database import reading, writing
from prefenvs.store.events import check_text
from prefenvs.store.rows import put
from prefenvs.store.schema import meta, tokens
from prefenvs.store.store import Store

NAME_LIMIT = 60


def issue_token(store: Store, annotator: str) -> str:
    """Make a token of 256 random bits for an annotator and return it; earlier ones stay valid."""
    name = check_annotator(annotator)
    token = secrets.token_urlsafe(32)
    with writing(store.engine) as connection:
        connection.execute(sa.insert(tokens).values(hash=_hash(token), annotator=name, created=clock.time()))
    return token


def issue_manager_token(store: Store, name: str) -> str:
    """Make a token for whoever manages the labelling and return it; that made before for the same name ends."""
    name, token = check_annotator(name), secrets.token_urlsafe(32)
    with writing(store.engine) as connection:
        managers = meta.c.key.startswith("manager:", autoescape=True)
        connection.execute(sa.delete(meta).where(managers, meta.c.value == name))
        put(connection, meta, {"key": f"manager:{_hash(token)}", "value": name})
    return token


def find_manager(store: Store, token: str) -> str | None:
    """Return the name of the manager whose token this is, None if it is nobody's."""
    with reading(store.engine) as connection:
        name = connection.scalar(sa.select(meta.c.value).where(meta.c.key == f"manager:{_hash(token)}"))
    return None if name is None else str(name)


def count_tokens(store: Store) -> dict[str, int]:
    """Return how many valid tokens each annotator has."""
    with reading(store.engine) as connection:
        select = sa.select(tokens.c.annotator, sa.func.count()).group_by(tokens.c.annotator)
        return {str(name): int(count) for name, count in connection.execute(select)}


def read_note(store: Store, name: str) -> dict[str, Any]:
    """Return the store's note of this name, empty if there is none."""
    with reading(store.engine) as connection:
        return _find_note(connection, name)


def write_note(store: Store, name: str, content: Mapping[str, Any]) -> None:
    """Leave a note in the store, in place of the last one of this name."""
    change_note(store, name, lambda _: content)


def change_note(store: Store, name: str, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Leave what `change` makes of the store's note of this name in its place; no other writer comes in between."""
    with writing(store.engine) as connection:
        content = dict(change(_find_note(connection, name)))
        put(connection, meta, {"key": f"note:{name}", "value": json.dumps(content, allow_nan=False)})


def find_annotator(store: Store, token: str) -> str | None:
    """Return whose token this is, None if it is nobody's.

    The look-up is by hash, so the time it takes says nothing about how much of a wrong token was right.
    """
    with reading(store.engine) as connection:
        name = connection.scalar(sa.select(tokens.c.annotator).where(tokens.c.hash == _hash(token)))
    return None if name is None else str(name)


def revoke_tokens(store: Store, annotator: str) -> int:
    """Make all tokens of an annotator invalid and return how many there were; the answers stay."""
    with writing(store.engine) as connection:
        return connection.execute(sa.delete(tokens).where(tokens.c.annotator == annotator)).rowcount


def check_annotator(name: str) -> str:
    """Return `name` if it can be an annotator's: 1 to 60 printable characters without space around them.

    Raises PrefenvsError for anything else.
    """
    check_text("annotator", name)
    if not name or len(name) > NAME_LIMIT or name != name.strip() or not name.isprintable():
        raise PrefenvsError(f"annotator {name!r} is no name: use 1 to {NAME_LIMIT} printable characters")
    return name


def _find_note(connection: sa.Connection, name: str) -> dict[str, Any]:
    found = connection.scalar(sa.select(meta.c.value).where(meta.c.key == f"note:{name}"))
    return {} if found is None else dict(json.loads(found))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
