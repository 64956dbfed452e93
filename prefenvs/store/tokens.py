"""Tokens: what an annotator shows to be let in; the store keeps their hashes only."""

from __future__ import annotations

import hashlib
import secrets
import time as clock

import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.store.database import reading, writing
from prefenvs.store.events import check_text
from prefenvs.store.schema import tokens
from prefenvs.store.store import Store

NAME_LIMIT = 60


def issue_token(store: Store, annotator: str) -> str:
    """Make a token of 256 random bits for an annotator and return it; earlier ones stay valid."""
    name = check_annotator(annotator)
    token = secrets.token_urlsafe(32)
    with writing(store.engine) as connection:
        connection.execute(sa.insert(tokens).values(hash=_hash(token), annotator=name, created=clock.time()))
    return token


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


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
