"""What the labelling server says when its database is in trouble, another store is meant, or an answer cannot count."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.oracles.labelling import Access, Clips, Form, create_app, serve
from prefenvs.oracles.labelling.answers import Pace, Refused, import_answers
from prefenvs.oracles.labelling.server import Desk
from prefenvs.store import AssignmentPlan, Event, Store, StoreUnavailable, issue_token

from .test_server import answer, make_queries

HOST = "http://127.0.0.1:8765"
READING = ["/api/session", "/api/next?count=2", "/api/status", "/api/report", "/report", "/clips/a-clip"]


def address(client: TestClient, path: str) -> str:
    """The path, or that of a clip as this server's pages have it."""
    desk: Desk = client.app.state.desk  # type: ignore[attr-defined]
    return path.replace("/clips/a-clip", desk.clips.url("0" * 64))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        opened.add_queries(make_queries(6))
        yield opened


@pytest.fixture
def clips(store: Store, tmp_path: Path) -> Iterator[Clips]:
    with Clips(store, tmp_path / "clips", size=64) as made:
        yield made


@pytest.fixture
def client(store: Store, clips: Clips) -> TestClient:
    return TestClient(create_app(store, Access(store, "ann"), clips, AssignmentPlan(repeats=0)), base_url=HOST)


def next_questions(client: TestClient, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/next", params={"count": count}).json()["questions"]
    return found


def post(client: TestClient, *answers: dict[str, Any], **headers: str) -> Any:
    csrf = client.get("/api/session").json()["csrf"]
    return client.post("/api/answers", json={"answers": answers}, headers={"X-CSRF": csrf} | headers)


def break_store(store: Store, error: Exception) -> None:
    """From now on, the database answers every transaction by this error."""

    def fail(connection: sa.Connection) -> None:
        raise error

    sa.event.listen(store.engine, "begin", fail)


ERRORS = [
    sa.exc.OperationalError("INSERT", {}, Exception("database or disk is full")),
    sa.exc.OperationalError(
        "SELECT", {}, Exception('connection to server at "db.example" port 5432, user "zaphod" failed')
    ),
    sa.exc.DatabaseError("SELECT", {}, Exception("database disk image is malformed")),
    sa.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached"),
    sa.exc.DisconnectionError("server closed the connection unexpectedly"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.args[0]).split(")")[-1].strip()[:30])
def test_trouble_is_503_without_particulars_and_the_log_has_them(
    store: Store, client: TestClient, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    item = answer(next_questions(client, 1)[0])
    csrf = {"X-CSRF": client.get("/api/session").json()["csrf"]}
    break_store(store, error)
    replies = [client.get(address(client, path)) for path in READING]
    replies.append(client.post("/api/answers", json={"answers": [item]}, headers=csrf))
    for reply in replies:
        assert (reply.status_code, set(reply.json())) == (503, {"error"}), reply.url
        for secret in (
            str(store.engine.url.database),
            "labels.sqlite",
            "db.example",
            "5432",
            "zaphod",
            "INSERT",
            "SELECT",
        ):
            assert secret not in reply.text
    assert "labels.sqlite" in caplog.text
    # Once a minute, not once a request.
    assert len([record for record in caplog.records if record.name == "prefenvs.labelling"]) == 1


def test_a_link_that_is_opened_in_trouble_is_not_taken_for_a_wrong_one(store: Store, clips: Clips) -> None:
    token = issue_token(store, "ann")
    access = Access(store)
    client = TestClient(create_app(store, access, clips), base_url=HOST)
    break_store(store, ERRORS[0])
    for _ in range(30):
        reply = client.get(f"/?token={token}", headers={"Accept": "text/html"})
        assert reply.status_code == 503
        assert "tries again by itself" in reply.text
        assert int(reply.headers["refresh"]) > 0
    assert client.get("/api/session", cookies={access.cookie: token}).status_code == 503


def test_a_failure_of_the_server_itself_says_nothing_but_that(store: Store, clips: Clips) -> None:
    app = create_app(store, Access(store, "ann"), clips)
    app.state.desk.status.read = lambda annotator: 1 / 0
    reply = TestClient(app, base_url=HOST, raise_server_exceptions=False).get("/api/status")
    assert reply.status_code == 500
    assert "failed" in reply.json()["error"]


def test_a_clip_that_cannot_be_made_names_no_path(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failed: Future[Path] = Future()
    failed.set_exception(PrefenvsError("cannot write /secret/clips: no space left"))
    monkeypatch.setattr(Clips, "path", lambda clips, key, look: failed)
    reply = client.get(address(client, "/clips/a-clip"))
    assert reply.status_code == 404
    assert "secret" not in reply.text
    assert "/secret/clips" in caplog.text


def test_looking_ahead_goes_on_while_people_come(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    desk: Desk = client.app.state.desk  # type: ignore[attr-defined]
    desk.seen |= {"ann": time.time(), "bob": time.time()}

    def another() -> float:
        desk.seen[str(uuid.uuid4())] = time.time()
        return time.time()

    monkeypatch.setattr("prefenvs.oracles.labelling.server.clock", SimpleNamespace(time=another))
    desk.look_ahead()
    assert len(desk.seen) > 2, "somebody came meanwhile"


def test_clips_for_a_screen_of_any_size(client: TestClient) -> None:
    for pixels in ("0", "-1", "9" * 400):
        assert client.get(f"/api/next?pixels={pixels}").status_code == 200


@pytest.mark.parametrize("form", [{"tags": "falls"}, {"show": "rate"}, {"show": ("speed",)}])
def test_a_form_offers_what_there_is(form: dict[str, Any]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(form))):
        Form(**form)


@pytest.mark.parametrize("options", [{"port": 65_536}, {"size": 0}])
def test_serving_says_what_it_cannot_do(store: Store, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(options))), serve(store, tmp_path / "clips", **options):
        pass


@pytest.mark.parametrize("path", READING)
def test_a_request_meant_for_another_store_is_409(client: TestClient, store: Store, path: str) -> None:
    path = address(client, path)
    assert client.get(path, headers={"X-Store": "0badf00d"}).status_code == 409
    assert client.get(path, headers={"X-Store": store.identity}).status_code != 409


def test_answers_meant_for_another_store_are_neither_taken_nor_rejected(client: TestClient, store: Store) -> None:
    item = answer(next_questions(client, 1)[0])
    assert post(client, item, **{"X-Store": "0badf00d"}).status_code == 409
    assert not store.events_after()
    assert post(client, item, **{"X-Store": store.identity}).json()["accepted"] == [item["uuid"]]


def test_one_answer_that_the_database_refuses_does_not_keep_the_others_out(
    client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that one answer holds: it is named, and the others are on the disk."""
    questions = next_questions(client, 3)
    items = [answer(question, reason=reason) for question, reason in zip(questions, ("a", "bad", "c"), strict=True)]
    record = client.app.state.desk.assignments.record  # type: ignore[attr-defined]

    def refuse(annotator: str, events: Any) -> Any:
        if any(event.reason == "bad" for event in events):
            raise PrefenvsError("the store /secret/labels: value out of range")
        return record(annotator, events)

    monkeypatch.setattr(client.app.state.desk.assignments, "record", refuse)  # type: ignore[attr-defined]
    reply = post(client, *items)
    assert reply.json()["accepted"] == [items[0]["uuid"], items[2]["uuid"]]
    assert [refused["uuid"] for refused in reply.json()["rejected"]] == [items[1]["uuid"]]
    assert "secret" not in reply.text
    assert len(store.events_after()) == 2


CHANGES: list[dict[str, Any]] = [
    {"choice": 1},
    {"choice": "equal"},
    {"choice": "skip"},
    {"reason": "other"},
    {"seconds": 9.0},
    {"replays": 3},
    {"choice": None, "undo": str(uuid.UUID(int=1))},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_same_id_with_other_content_is_refused(client: TestClient, store: Store, change: dict[str, Any]) -> None:
    first, second = next_questions(client, 2)
    item = answer(first)
    post(client, item)
    # Sent again, with a clock that was put right in between: the same answer.
    assert post(client, item | {"time": time.time() + 5}).json() == {"accepted": [item["uuid"]], "rejected": []}
    for other in (item | change, answer(second, uuid=item["uuid"])):
        reply = post(client, other).json()
        assert (reply["accepted"], len(reply["rejected"])) == ([], 1)
    assert len(store.events_after()) == 1


def test_the_same_id_undoes_one_answer_only(client: TestClient, store: Store) -> None:
    first, second = next_questions(client, 2)
    items = [answer(first), answer(second)]
    undo = answer(first, None, undo=items[0]["uuid"])
    assert len(post(client, *items, undo, undo).json()["rejected"]) == 0
    for other in (undo | {"undo": items[1]["uuid"]}, answer(second, uuid=undo["uuid"])):
        assert len(post(client, other).json()["rejected"]) == 1
    assert [event.kind for event in store.events_after()] == ["comparison", "comparison", "undo"]


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_one_answer_per_person_and_question(store: Store, clips: Clips, kind: Any) -> None:
    """Given anew after its lease, a question is the same one; another person's late answer is a further opinion."""
    plan = AssignmentPlan(kind=kind, repeats=0, lease=0.3)
    tokens = {name: issue_token(store, name) for name in ("ann", "bob")}
    app = create_app(store, Access(store), clips, plan)
    pages = {name: TestClient(app, base_url=HOST) for name in tokens}
    for name, token in tokens.items():
        pages[name].get("/", params={"token": token})
    about: dict[str, Any] = {"choice": None, "rating": 4} if kind == "rating" else {"choice": 0}
    count = 12 if kind == "rating" else 6
    first = next_questions(pages["ann"], count)
    time.sleep(0.4)
    again = next_questions(pages["ann"], count)
    subjects = [{question["clips"][0]["hash"] for question in found} for found in (first, again)]
    if kind == "rating":
        assert subjects[0] == subjects[1]
    assert {question["id"] for question in first}.isdisjoint(question["id"] for question in again)
    time.sleep(0.4)
    late = next_questions(pages["bob"], count)
    assert len(post(pages["ann"], *(answer(q, **about) for q in first)).json()["accepted"]) == count
    twice = post(pages["ann"], *(answer(q, **about) for q in again)).json()
    assert (twice["accepted"], len(twice["rejected"])) == ([], count)
    assert all("already" in refused["reason"] for refused in twice["rejected"])
    held = ",".join(question["id"] for question in again)
    assert len(pages["ann"].get("/api/next", params={"count": 0, "holding": held}).json()["closed"]) == count
    assert len(post(pages["bob"], *(answer(q, **about) for q in late)).json()["accepted"]) == count
    status = pages["ann"].get("/api/status").json()
    assert (status["done"], status["budget"], status["mine"]["done"]) == (count, count, count)


def test_a_question_that_was_answered_by_another_after_its_lease_is_closed(store: Store, clips: Clips) -> None:
    app = create_app(store, Access(store, "ann"), clips, AssignmentPlan(repeats=0, lease=0.3))
    ann, assignments = TestClient(app, base_url=HOST), app.state.desk.assignments
    first, second = next_questions(ann, 2)
    time.sleep(0.4)
    [given, *_] = assignments.lease("bob", 1)
    assert given.query == first["query"]
    holding = {"count": 0, "holding": f"{first['id']},{second['id']}"}
    assert ann.get("/api/next", params=holding).json()["closed"] == []
    event = Event("skip", given.query, run=given.run, annotator="bob", oracle="human", extra={"assignment": given.id})
    assert assignments.record("bob", [event]) == {}
    assert ann.get("/api/next", params=holding).json()["closed"] == [first["id"]]


@pytest.mark.parametrize("choice", [0, "equal", "skip"])
def test_an_answer_to_what_was_not_seen_does_not_count(client: TestClient, store: Store, choice: int | str) -> None:
    [question] = next_questions(client, 1)
    for seconds in (0.0, 0.1, 0.29):
        reply = post(client, answer(question, choice, seconds=seconds)).json()
        assert "too short to be seen" in reply["rejected"][0]["reason"]
    assert not store.events_after()
    assert post(client, answer(question, choice, seconds=0.3)).json()["rejected"] == []


def test_writing_into_a_store_in_trouble_is_told_from_bad_input(store: Store) -> None:
    with pytest.raises(PrefenvsError) as caught:
        store.undo(str(uuid.uuid4()))
    assert not isinstance(caught.value, StoreUnavailable)
    break_store(store, ERRORS[0])
    for use in (store.stats, store.events_after, lambda: store.add_queries(make_queries(1))):
        with pytest.raises(StoreUnavailable, match=r"labels.sqlite: .*full"):
            use()


def test_the_server_measures_by_its_own_clock(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a page says: 20 s with a question that was handed out this moment, or three of them at once."""
    monkeypatch.setattr(Pace, "least", 20.0)
    passed, desk = [0.0], client.app.state.desk  # type: ignore[attr-defined]
    monkeypatch.setattr(desk.assignments, "now", lambda: time.time() + passed[0])
    monkeypatch.setattr(
        "prefenvs.oracles.labelling.answers.clock",
        SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0], time=time.time),
    )
    questions = next_questions(client, 4)
    items = [answer(question, seconds=20.0) for question in questions]
    reply = post(client, items[0]).json()
    assert reply["accepted"] == []
    assert "s before this answer" in reply["rejected"][0]["reason"]
    passed[0] += 21.0
    # Only one of them can have been looked at by now.
    reply = post(client, items[0], items[0], items[1], items[2]).json()
    assert set(reply["accepted"]) == {items[0]["uuid"]}
    assert {item["uuid"] for item in reply["rejected"]} == {items[1]["uuid"], items[2]["uuid"]}
    # One that is sent again, because the reply was lost, is no new one.
    assert post(client, items[0]).json() == {"accepted": [items[0]["uuid"]], "rejected": []}
    passed[0] += 61.0
    # What was collected while the server could not be reached comes at once.
    assert len(post(client, *items[1:]).json()["accepted"]) == 3


def test_what_the_store_could_not_take_is_measured_when_it_comes_again(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page sends answers again and again while the disk is full; none of them is too soon for that."""
    monkeypatch.setattr(Pace, "least", 20.0)
    desk = client.app.state.desk  # type: ignore[attr-defined]
    items = [answer(question, seconds=20.0) for question in next_questions(client, 2)]
    monkeypatch.setattr(desk.assignments, "now", lambda: time.time() + 45.0)
    with monkeypatch.context() as patch:
        patch.setattr(desk.assignments, "record", lambda *_: break_off())
        for _ in range(3):
            assert post(client, *items).status_code == 503
    assert len(post(client, *items).json()["accepted"]) == 2


def break_off() -> None:
    raise StoreUnavailable("the store labels.sqlite: database or disk is full")


def test_a_clock_that_is_set_back_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "least", 0.1)
    pace = Pace()
    pace.check("ann", -3600.0)
    with pytest.raises(Refused, match="before this answer"):
        pace.check("ann", 0.0)
    pace.check("ben", 5.0)


def exported(store: Store, folder: Path, *contents: Any, about: dict[str, str] | None = None) -> Path:
    """What the page's "Export" saves, in the order of the browser's storage, which is none."""
    kept = [
        {"store": store.identity, "annotator": "ann", "state": "answer", "content": content} for content in contents
    ]
    path = folder / "prefenvs-answers.json"
    path.write_text(
        json.dumps({"format": "prefenvs.answers", "answers": [item | (about or {}) for item in kept][::-1]})
    )
    return path


def test_what_the_page_exported_can_be_imported(
    store: Store, client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = next_questions(client, 3)
    good = answer(first, 1, reason="it hops")
    undone, undo, better = answer(second, 0), answer(second, None), answer(second, "equal")
    undo |= {"undo": undone["uuid"], "seconds": 0.0}
    unseen = answer(third, 0, seconds=0.1)
    contents = [{"order": i, "answer": item} for i, item in enumerate((good, undone, undo, better, unseen))]
    path = exported(store, tmp_path, *contents, "unreadable{")
    taken, reasons = import_answers(store, path)
    assert taken == 4
    assert sorted(reason.split(":")[0] for reason in reasons) == [f"answer {unseen['uuid']}", "entry 0"]
    found = store.preferences()
    assert [(item.annotator, item.reason) for item in store.events_after()][:1] == [("ann", "it hops")]
    assert [item.query.id for item in found] == [first["query"], second["query"]]
    assert found[1].best is None
    before = store.events_after()
    main(["store", "import", str(store.engine.url.database), str(path)])
    assert "4 answers are in the store, 0 of them new; 2 not taken" in capsys.readouterr().out
    assert store.events_after() == before
    _, reasons = import_answers(
        store, exported(store, tmp_path, {"order": 1, "answer": good}, about={"store": "another"})
    )
    assert reasons == [f"answer {good['uuid']}: it belongs to another store"]
    _, reasons = import_answers(
        store, exported(store, tmp_path, {"order": 1, "answer": good}, about={"annotator": "eve"})
    )
    assert "never given" in reasons[0]
    # One entry that makes no sense does not keep the others out.
    path = exported(store, tmp_path, {"order": 1, "answer": good}, {"order": 10**400, "answer": good})
    entries = json.loads(path.read_text())
    entries["answers"].append(entries["answers"][0] | {"annotator": "\ud800"})
    path.write_text(json.dumps(entries))
    taken, reasons = import_answers(store, path)
    assert (taken, [reason[:8] for reason in reasons]) == (1, ["entry 0:", "entry 2:"])


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"answers": []}', '{"format": "prefenvs.answers", "answers": 3}', "[" * 9999]
)
def test_what_is_no_export_of_the_page_is_one_line(store: Store, tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(PrefenvsError, match=r"a\.json") as error:
        import_answers(store, path)
    assert "\n" not in str(error.value)
    with pytest.raises(PrefenvsError, match="cannot be read"):
        import_answers(store, tmp_path / "none.json")
