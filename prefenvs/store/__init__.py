"""The preference store: queries, segments and an append-only log of answers, on SQLite or PostgreSQL."""

from prefenvs.store.events import Event
from prefenvs.store.exporting import export_store
from prefenvs.store.importing import Imported, import_store
from prefenvs.store.recorded import Recorded
from prefenvs.store.schema import SCHEMA_VERSION
from prefenvs.store.store import Stats, Store

__all__ = ["SCHEMA_VERSION", "Event", "Imported", "Recorded", "Stats", "Store", "export_store", "import_store"]
