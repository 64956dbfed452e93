"""The preference store: queries, segments and an append-only log of answers, on SQLite or PostgreSQL."""

from prefenvs.store.assignments import (
    MOST_SEGMENTS,
    RANKING,
    Assignment,
    AssignmentPlan,
    Assignments,
    Undo,
)
from prefenvs.store.calls import (
    Call,
    Spending,
    add_calls,
    answered_before,
    called_queries,
    find_replies,
    list_calls,
    storable,
    sum_calls,
)
from prefenvs.store.database import StoreUnavailable, is_store
from prefenvs.store.events import GOLD, TUTORIAL, Event
from prefenvs.store.exchange.exporting import export_store
from prefenvs.store.exchange.importing import Imported, import_store
from prefenvs.store.ratings import PARTNERS, pair_ratings, ratings_as_preferences
from prefenvs.store.recorded import Recorded
from prefenvs.store.schema import SCHEMA_VERSION
from prefenvs.store.store import Stats, Store
from prefenvs.store.tokens import (
    change_note,
    check_annotator,
    count_tokens,
    find_annotator,
    find_manager,
    issue_manager_token,
    issue_token,
    read_note,
    revoke_tokens,
    write_note,
)

__all__ = [
    "GOLD",
    "MOST_SEGMENTS",
    "PARTNERS",
    "RANKING",
    "SCHEMA_VERSION",
    "TUTORIAL",
    "Assignment",
    "AssignmentPlan",
    "Assignments",
    "Call",
    "Event",
    "Imported",
    "Recorded",
    "Spending",
    "Stats",
    "Store",
    "StoreUnavailable",
    "Undo",
    "add_calls",
    "answered_before",
    "called_queries",
    "change_note",
    "check_annotator",
    "count_tokens",
    "export_store",
    "find_annotator",
    "find_manager",
    "find_replies",
    "import_store",
    "is_store",
    "issue_manager_token",
    "issue_token",
    "list_calls",
    "pair_ratings",
    "ratings_as_preferences",
    "read_note",
    "revoke_tokens",
    "storable",
    "sum_calls",
    "write_note",
]
