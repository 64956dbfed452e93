"""Stores from before some of the tables: they open, keep all they hold, and get what is new."""

import numpy as np
import sqlalchemy as sa

from prefenvs.preferences import Preference, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import Store, issue_manager_token, issue_token, read_note, write_note


def test_a_store_without_the_newer_tables_opens_with_every_label(location: str) -> None:
    rng = np.random.default_rng(0)
    queries = make_pairs(SegmentBatch(rng.random((6, 4, 3)), rng.random((6, 4, 2)), task="Hopper-v5"))
    with Store(location) as store:
        store.add_queries(queries, run="r")
        store.add_preferences([Preference(query, np.array([1.0, 0.0]), "ann", "human") for query in queries], run="r")
        token = issue_token(store, "ann")
        log, identity = store.events_after(), store.identity
        with store.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE clips"))
    with Store(location) as again:
        assert (again.events_after(), again.identity) == (log, identity)
        assert "clips" in sa.inspect(again.engine).get_table_names()
        assert len(again.preferences(run="r")) == 3
        # What managers set needs no table that an old store lacks.
        assert read_note(again, "labelling") == {}
        write_note(again, "labelling", {"paused": True})
        write_note(again, "labelling", {"paused": False})
        issue_manager_token(again, "lab")
        assert read_note(again, "labelling") == {"paused": False}
    with Store(location) as last:
        assert last.events_after() == log
        assert token
