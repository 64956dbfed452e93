"""The preference store: queries, segments and an append-only log of answers, on SQLite or PostgreSQL."""

from prefenvs.store.assignments import MOST_SEGMENTS, Assignment, Assignments, Plan, Undo
from prefenvs.store.events import Event
from prefenvs.store.exporting import export_store
from prefenvs.store.importing import Imported, import_store
from prefenvs.store.recorded import Recorded
from prefenvs.store.schema import SCHEMA_VERSION
from prefenvs.store.store import Stats, Store
from prefenvs.store.tokens import check_annotator, find_annotator, issue_token, revoke_tokens

__all__ = [
    "MOST_SEGMENTS",
    "SCHEMA_VERSION",
    "Assignment",
    "Assignments",
    "Event",
    "Imported",
    "Plan",
    "Recorded",
    "Stats",
    "Store",
    "Undo",
    "check_annotator",
    "export_store",
    "find_annotator",
    "import_store",
    "issue_token",
    "revoke_tokens",
]
