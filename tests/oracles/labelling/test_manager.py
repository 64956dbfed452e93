"""Whoever manages the labelling: a role of its own, discarding and restoring, pausing, overlap, links, figures kept."""

from __future__ import annotations

import io
import json
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from prefenvs.oracles import HumanOracle
from prefenvs.oracles.labelling import Access, Clips, Form, create_app
from prefenvs.oracles.labelling.clips import LOOKS, note_size
from prefenvs.oracles.labelling.manager import Controls, act, discard_answers, read_controls, restore_answers
from prefenvs.preferences import Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import AssignmentPlan, Event, Store, issue_manager_token, issue_token, read_note

HOST = "http://labels.example"
MANAGED = ["/manager", "/report", "/judging", "/api/judging", "/api/report", "/api/manager", "/api/export"]


def make_queries(count: int) -> list[Query]:
    rng = np.random.default_rng(0)
    return make_pairs(
        SegmentBatch(rng.random((2 * count, 8, 17)), rng.random((2 * count, 8, 6)), task="HalfCheetah-v5")
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        opened.add_queries(make_queries(8), run="r")
        yield opened


class Person:
    """One browser with a token, which does what the page's script does."""

    def __init__(self, app: Any, token: str) -> None:
        self.http = TestClient(app, base_url=HOST)
        self.entered = self.http.get("/", params={"token": token}, follow_redirects=False)
        self.session = self.http.get("/api/session").json()

    def next(self, count: int = 3) -> dict[str, Any]:
        return self.http.get("/api/next", params={"count": count}).json()  # type: ignore[no-any-return]

    def post(self, path: str, body: Any) -> Any:
        return self.http.post(path, json=body, headers={"X-CSRF": self.session.get("csrf", "")})

    def label(self, count: int = 3) -> None:
        given = [
            {"uuid": str(uuid.uuid4()), "question": q["id"], "choice": 0, "seconds": 2.0, "time": time.time()}
            for q in self.next(count)["questions"]
        ]
        assert len(self.post("/api/answers", {"answers": given}).json()["accepted"]) == count


@pytest.fixture
def app(store: Store, tmp_path: Path) -> Iterator[Any]:
    made = create_app(store, Access(store), Clips(store, tmp_path / "clips"), AssignmentPlan(repeats=0))
    with TestClient(made):
        yield made


@pytest.fixture
def ann(app: Any, store: Store) -> Person:
    return Person(app, issue_token(store, "ann"))


@pytest.fixture
def lab(app: Any, store: Store) -> Person:
    return Person(app, issue_manager_token(store, "lab"))


@pytest.mark.parametrize("path", MANAGED)
def test_annotators_are_kept_out_and_managers_let_in(ann: Person, lab: Person, path: str) -> None:
    assert ann.http.get(path).status_code == 403
    assert ann.post("/api/manager", {"pause": True}).status_code == 403
    assert lab.http.get(path).status_code == 200
    assert (lab.entered.headers["location"], ann.entered.headers["location"]) == ("/manager", "/")
    assert (lab.session["manager"], ann.session["manager"]) == (True, False)


def test_annotators_see_no_figures_unless_the_lab_shows_them(
    store: Store, tmp_path: Path, ann: Person, lab: Person
) -> None:
    store.report_learner("r", {"steps": 5.0, "held_out_accuracy": 0.9})
    ann.label()
    status = ann.http.get("/api/status").json()
    assert (status["labels_per_hour"], status["mine"]["repeat_consistency"], status["learner"]) == (0.0, None, None)
    assert (status["done"], status["mine"]["done"]) == (3, 3)
    form = Form(show=("rate", "model"))
    shown = create_app(store, Access(store), Clips(store, tmp_path / "clips"), AssignmentPlan(), form=form)
    with TestClient(shown):
        person = Person(shown, issue_token(store, "ann"))
        assert person.http.get("/api/status").json()["learner"]["steps"] == 5.0


def test_discarded_answers_are_taken_back_and_restored_as_they_were(store: Store, ann: Person, lab: Person) -> None:
    oracle = HumanOracle(store, "r")
    ann.label()
    handed_out = {answer.query.id: answer for answer in oracle.collect()}
    assert len(handed_out) == 3
    log = store.events_after()
    assert lab.post("/api/manager", {"discard": "ann"}).json() == {"discarded": 3}
    assert store.preferences() == []
    assert {(a.query.id, a.skipped) for a in oracle.collect()} == {(key, True) for key in handed_out}
    about = lab.http.get("/api/manager").json()
    (row,) = [person for person in about["people"] if person["name"] == "ann"]
    assert (row["labels"], row["discarded"], row["on"]) == (0, 3, True)
    assert lab.post("/api/manager", {"discard": "ann"}).json() == {"discarded": 0}
    assert lab.post("/api/manager", {"restore": "ann"}).json() == {"restored": 3}
    again = {answer.query.id: answer for answer in oracle.collect()}
    assert {key: a.probabilities.tolist() for key, a in again.items()} == {
        key: a.probabilities.tolist() for key, a in handed_out.items()
    }
    assert lab.post("/api/manager", {"restore": "ann"}).json() == {"restored": 0}
    # Nothing has left the log, and the same may be done again.
    assert store.events_after()[: len(log)] == log
    assert discard_answers(store, "ann", "lab") == 3
    assert restore_answers(store, "ann", "lab") == 3
    assert len(store.preferences()) == 3


def test_restoring_keeps_what_was_answered_anew_and_what_repeats_what(store: Store) -> None:
    query, other = store.pending_queries()[:2]
    about: dict[str, Any] = {"annotator": "ann", "run": "r", "oracle": "human"}
    first = Event("comparison", query.id, probabilities=(1.0, 0.0), **about)
    second = Event("comparison", other.id, probabilities=(1.0, 0.0), **about)
    repeat = Event("repeat", other.id, probabilities=(0.0, 1.0), extra={"repeats": second.id}, **about)
    store.add_events([first, second, repeat])
    assert discard_answers(store, "ann", "lab") == 3
    store.add_events([Event("comparison", query.id, probabilities=(0.0, 1.0), **about)])
    assert restore_answers(store, "ann", "lab") == 2
    found = {answer.query.id: answer.best for answer in store.preferences()}
    assert found == {query.id: 1, other.id: 0}
    last = [event for event in store.events_after() if event.kind == "repeat"][-1]
    assert store.find_events([last.extra["repeats"]])[last.extra["repeats"]].query == other.id


def test_the_moment_of_an_answer_is_discarded_and_restored_with_it(store: Store, ann: Person, lab: Person) -> None:
    (question,) = ann.next(1)["questions"]
    answer = {"uuid": str(uuid.uuid4()), "question": question["id"], "choice": 0, "seconds": 2.0, "moment": [0.1, 0.3]}
    for _ in range(2):
        assert ann.post("/api/answers", {"answers": [answer]}).json()["accepted"] == [answer["uuid"]]
    assert [len(answer.query.segments[0]) for answer in store.preferences()] == [8, 4]
    about = lab.http.get("/api/manager").json()
    assert (about["kinds"], about["people"][0]["labels"]) == ({"better": 1}, 1)
    assert ann.http.get("/api/status").json()["done"] == 1
    assert lab.post("/api/manager", {"discard": "ann"}).json() == {"discarded": 1}
    assert store.preferences() == []
    assert lab.post("/api/manager", {"restore": "ann"}).json() == {"restored": 1}
    whole, part = store.preferences()
    assert np.array_equal(part.query.segments[1].observations, whole.query.segments[1].observations[2:6])
    for moment, word in (([0.3, 0.1], "stretch"), ([5.0, 6.0], "stretch"), ([0.1], "moment"), ([0.1, "x"], "moment")):
        (question,) = ann.next(1)["questions"]
        bad = {"uuid": str(uuid.uuid4()), "question": question["id"], "choice": 1, "seconds": 2.0, "moment": moment}
        (refused,) = ann.post("/api/answers", {"answers": [bad]}).json()["rejected"]
        assert word in refused["reason"]


def test_what_was_discarded_and_restored_can_be_undone_by_whoever_gave_it(
    store: Store, ann: Person, lab: Person
) -> None:
    """The page knows an answer by the id that it gave it, whatever the lab has done since."""
    (question,) = ann.next(1)["questions"]

    def post(**about: Any) -> str:
        item = {"uuid": str(uuid.uuid4()), "question": question["id"], "seconds": 2.0, **about}
        for _ in range(2):
            assert ann.post("/api/answers", {"answers": [item]}).json() == {"accepted": [item["uuid"]], "rejected": []}
        return str(item["uuid"])

    first = post(choice=0, moment=[0.1, 0.3])
    for _ in range(2):
        assert lab.post("/api/manager", {"discard": "ann"}).json() == {"discarded": 1}
        assert lab.post("/api/manager", {"restore": "ann"}).json() == {"restored": 1}
    assert len(store.preferences()) == 2
    post(undo=first)
    assert store.preferences() == []
    assert ann.next(1)["questions"][0]["id"] == question["id"]
    post(choice=1)
    assert len(store.preferences()) == 1
    assert lab.post("/api/manager", {"restore": "ann"}).json() == {"restored": 0}


def test_somebody_who_gets_worse_is_seen_to(store: Store, lab: Person) -> None:
    queries = make_queries(30)
    store.add_queries(queries, run="gold")
    about = {"annotator": "ann", "oracle": "human", "run": "gold"}
    store.add_events(Event("gold", query.id, run="gold", probabilities=(1.0, 0.0)) for query in queries)
    right = [True] * 11 + [False, True, False] * 6 + [False]
    store.add_events(
        Event("comparison", query.id, probabilities=(1.0, 0.0) if well else (0.0, 1.0), **about)
        for query, well in zip(queries, right, strict=True)
    )
    (person,) = lab.http.get("/api/manager").json()["people"]
    assert person["tens"] == [1.0, 0.4, 0.3]
    assert person["signs"] == ["drift"]
    assert lab.http.get("/manager", headers={"Accept-Language": "fr"}).text.count("au fil du temps") >= 1


def test_a_pause_hands_out_nothing_and_keeps_what_is_sent(ann: Person, lab: Person, store: Store) -> None:
    (question,) = ann.next(1)["questions"]
    assert lab.post("/api/manager", {"pause": True}).status_code == 200
    assert (ann.next()["questions"], ann.next()["paused"]) == ([], True)
    late = {"uuid": str(uuid.uuid4()), "question": question["id"], "choice": 0, "seconds": 2.0, "time": time.time()}
    assert ann.post("/api/answers", {"answers": [late]}).json()["accepted"] == [late["uuid"]]
    lab.post("/api/manager", {"pause": False})
    assert len(ann.next(2)["questions"]) == 2
    assert len(store.preferences()) == 1


def test_two_managers_at_once_both_have_their_way(store: Store, tmp_path: Path) -> None:
    """Each at a server of their own; what their pages say of clips is kept too."""
    with Store(tmp_path / "labels.sqlite") as other:
        for turn in range(5):
            act(store, "lab", {"pause": False, "overlap": 0.0})
            meet = threading.Barrier(2)

            def press(at: Store, action: dict[str, Any], size: int, meet: threading.Barrier = meet) -> None:
                meet.wait()
                act(at, "lab", action)
                note_size(at, size)

            sizes = 100 + 2 * turn, 101 + 2 * turn
            presses = (store, {"pause": True}, sizes[0]), (other, {"overlap": 0.5}, sizes[1])
            threads = [threading.Thread(target=press, args=arguments) for arguments in presses]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert read_controls(store) == Controls(paused=True, overlap=0.5)
            assert {*sizes} <= {*read_note(store, LOOKS)["sizes"]}


def test_overlap_can_be_changed_while_people_label(app: Any, store: Store, ann: Person, lab: Person) -> None:
    ann.label(8)
    bob = Person(app, issue_token(store, "bob"))
    assert bob.next(8)["questions"] == []
    lab.post("/api/manager", {"overlap": 1.0})
    bob.label(8)
    about = lab.http.get("/api/manager").json()
    assert (about["agreement"]["shared"], about["controls"]["overlap"]) == (8, 1.0)
    assert about["kinds"] == {"better": 16}


def test_links_are_renewed_and_revoked_at_once(app: Any, store: Store, ann: Person, lab: Person) -> None:
    link = lab.post("/api/manager", {"renew": "ann"}).json()["link"]
    assert ann.http.get("/api/session").status_code == 401
    fresh = Person(app, link.partition("token=")[2])
    assert fresh.session["annotator"] == "ann"
    assert lab.post("/api/manager", {"revoke": "ann"}).json() == {"revoked": 1}
    assert fresh.http.get("/api/session").status_code == 401


ODD: list[Any] = [[], {"overlap": 2}, {"overlap": "many"}, {"delete": "ann"}, {"renew": " "}, {"revoke": "\ud800"}]


@pytest.mark.parametrize("body", ODD)
def test_malformed_actions_get_one_line(lab: Person, body: Any) -> None:
    headers = {"X-CSRF": lab.session["csrf"], "Content-Type": "application/json"}
    reply = lab.http.post("/api/manager", content=json.dumps(body), headers=headers)
    assert (reply.status_code, "\n" in reply.json()["error"]) == (400, False)
    assert lab.http.post("/api/manager", json={"pause": True}).status_code == 403


def test_an_export_is_a_store(lab: Person, ann: Person) -> None:
    ann.label()
    reply = lab.http.get("/api/export")
    with zipfile.ZipFile(io.BytesIO(reply.content)) as found:
        assert len(found.read("labels.jsonl").splitlines()) == 3


def test_a_store_from_before_there_were_managers_opens_as_it_was(store: Store, tmp_path: Path, ann: Person) -> None:
    """Managers and what they set are rows of a table that has always been there, so nothing is migrated."""
    ann.label()
    before = store.events_after()
    with store.engine.connect() as connection:
        columns = {table: sa.inspect(connection).get_columns(table) for table in ("tokens", "meta", "events")}
    assert [column["name"] for column in columns["tokens"]] == ["hash", "annotator", "created"]
    assert [column["name"] for column in columns["meta"]] == ["key", "value"]
    issue_manager_token(store, "lab")
    with Store(tmp_path / "labels.sqlite") as again:
        assert again.events_after() == before
