"""The server over real HTTP, on a real SQLite file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from prefenvs.oracles import labelling
from prefenvs.oracles.labelling.answers import SHORTEST_LOOK
from prefenvs.preferences import Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import AssignmentPlan, Store, issue_manager_token, issue_token
from prefenvs.videos import decode


def make_queries(count: int, size: int = 2) -> list[Query]:
    """Questions without simulator states, whose clips are curves: quick to draw."""
    rng = np.random.default_rng(0)
    batch = SegmentBatch(rng.random((size * count, 8, 17)), rng.random((size * count, 8, 6)), task="HalfCheetah-v5")
    if size == 2:
        return make_pairs(batch)
    return [Query(tuple(batch[size * i + j] for j in range(size))) for i in range(count)]


def serve(
    store: Store, folder: Path, open_to: str | None = "ann", plan: AssignmentPlan | None = None
) -> AbstractContextManager[str]:
    return labelling.serve(store, folder, annotator=open_to, plan=plan or AssignmentPlan(repeats=0), size=64)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


class Page:
    """What the page's script does: a session, questions, answers with an outbox."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.http = httpx.Client(base_url=url, follow_redirects=True, timeout=20)
        if token is not None:
            assert self.http.get("/", params={"token": token}).status_code == 200
        self.session = self.http.get("/api/session").json()

    def next(self, count: int = 5, holding: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/api/next", params={"count": count, "holding": holding}).json()[
            "questions"
        ]
        return found

    def post(self, *answers: dict[str, Any], **headers: str) -> httpx.Response:
        return self.http.post("/api/answers", json={"answers": answers}, headers=self.csrf | headers)

    @property
    def csrf(self) -> dict[str, str]:
        return {"X-CSRF": self.session["csrf"]}


def answer(question: dict[str, Any], choice: int | str | None = 0, **about: Any) -> dict[str, Any]:
    known = {"uuid": str(uuid.uuid4()), "question": question["id"], "choice": choice, "rating": None, "undo": None}
    return known | {"reason": "", "seconds": 2.5, "replays": 1, "time": time.time()} | about


def test_answers_become_preferences_as_they_were_shown(store: Store, tmp_path: Path) -> None:
    queries = {query.id: query for query in make_queries(4)}
    store.add_queries(queries.values(), run="a")
    with serve(store, tmp_path / "clips") as url:
        page = Page(url)
        assert page.session["task"] == "HalfCheetah-v5"
        questions = page.next(4)
        choices = [0, 1, "equal", "skip"]
        posted = [answer(q, c, reason="<b>&") for q, c in zip(questions, choices, strict=True)]
        assert page.post(*posted).json() == {"accepted": [item["uuid"] for item in posted], "rejected": []}
        for question, choice, found in zip(questions, choices, store.preferences(run="a"), strict=True):
            query = queries[question["query"]]
            shown = [clip["hash"] for clip in question["clips"]]
            assert found.shown is not None
            assert [query.segments[index].hash for index in found.shown] == shown
            assert (found.annotator, found.oracle, found.seconds) == ("ann", "human", 2.5)
            if isinstance(choice, int):
                assert found.best is not None
                assert query.segments[found.best].hash == shown[choice]
            else:
                assert found.skipped == (choice == "skip")
        assert {event.reason for event in store.events_after()} == {"<b>&"}
        status = page.http.get("/api/status").json()
        assert (status["done"], status["budget"], status["pending"], status["mine"]["done"]) == (4, 4, 0, 4)
        assert page.http.get("/api/next").json() == {"questions": [], "waiting": False, "closed": [], "problem": ""}


def test_clip_is_an_mp4_with_the_frames_that_were_announced(store: Store, tmp_path: Path) -> None:
    store.add_queries(make_queries(1))
    with serve(store, tmp_path / "clips") as url:
        page = Page(url)
        clip = page.next(1)[0]["clips"][0]
        full = page.http.get(clip["url"])
        assert full.headers["content-type"] == "video/mp4"
        assert "immutable" in full.headers["cache-control"]
        (tmp_path / "x.mp4").write_bytes(full.content)
        frames, fps = decode(tmp_path / "x.mp4")
        assert (len(frames), fps) == (clip["frames"], clip["fps"])
        assert frames.shape[1:3] == (clip["height"], clip["width"])
        part = page.http.get(clip["url"], headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, full.content[10:20])
        for name in ("0" * 64 + ".mp4", "..%2f..%2flabels.sqlite", clip["hash"], clip["hash"].upper() + ".mp4"):
            assert page.http.get(f"/clips/look/{name}").status_code == 404


def test_same_uuid_twice_undo_and_wrong_answers(store: Store, tmp_path: Path) -> None:
    store.add_queries(make_queries(3))
    with serve(store, tmp_path / "clips") as url:
        page = Page(url)
        first, second, _ = page.next(3)
        good = answer(first, 1)
        undo = answer(first, None, undo=good["uuid"])
        # In one batch, as after a while offline: an answer, its undo, and a better one; then all of it again.
        better = answer(first, 0)
        for _ in range(2):
            assert len(page.post(good, undo, better).json()["accepted"]) == 3
        assert [event.kind for event in store.events_after()] == ["comparison", "undo", "comparison"]
        wrong = [
            answer(second, 2),
            answer(second, None),
            answer(second, True),
            answer(second, 0, rating=6),
            answer(second, 0, seconds=float(-1)),
            answer(second, 0, reason="x" * 2001),
            answer(second, 0, more=1),
            answer({"id": str(uuid.uuid4())}, 0),
            answer(second, None, undo=str(uuid.uuid4())),
        ]
        fine = answer(second, "skip", reason="half\ud800\x00")
        reply = page.http.post(
            "/api/answers",
            content=json.dumps({"answers": [*wrong, fine]}),
            headers=page.csrf | {"Content-Type": "application/json"},
        ).json()
        assert reply["accepted"] == [fine["uuid"]]
        assert {item["uuid"] for item in reply["rejected"]} == {item["uuid"] for item in wrong}
        assert store.stats().labels == 2


def test_undone_question_is_next(store: Store, tmp_path: Path) -> None:
    store.add_queries(make_queries(4))
    with serve(store, tmp_path / "clips") as url:
        page = Page(url)
        first, second = page.next(2)
        given = answer(first)
        page.post(given)
        page.post(answer(first, None, undo=given["uuid"]))
        again = page.next(1, holding=second["id"])[0]
        assert (again["id"], again["clips"]) == (first["id"], first["clips"])


def test_best_of_four_and_ratings(store: Store, tmp_path: Path) -> None:
    [query] = make_queries(1, size=4)
    store.add_queries([query])
    with serve(store, tmp_path / "clips") as url:
        page = Page(url)
        [question] = page.next(5)
        assert (question["kind"], len(question["clips"])) == ("best", 4)
        assert page.post(answer(question, 2)).json()["rejected"] == []
        [found] = store.preferences()
        assert found.best is not None
        assert query.segments[found.best].hash == question["clips"][2]["hash"]
    with serve(store, tmp_path / "clips", plan=AssignmentPlan(kind="rating", repeats=0)) as url:
        page = Page(url)
        first, second, third, _ = page.next(5)
        assert (first["kind"], len(first["clips"])) == ("rating", 1)
        reply = page.post(answer(first, None, rating=4), answer(second, "skip"), answer(third, 0)).json()
        assert (len(reply["accepted"]), len(reply["rejected"])) == (2, 1)
        ratings = [event for event in store.events_after() if event.kind == "rating"]
        assert [event.extra["rating"] for event in ratings] == [4, None]
        assert ratings[0].segment == first["clips"][0]["hash"]


def test_two_annotators_agree_on_what_overlaps(store: Store, tmp_path: Path) -> None:
    store.add_queries(make_queries(6))
    tokens = [issue_token(store, name) for name in ("ann", "<i>bob</i>")]
    with serve(store, tmp_path / "clips", None, AssignmentPlan(overlap=1.0, repeats=0)) as url:
        for token in tokens:
            page = Page(url, token)
            questions = page.next(10)
            assert len(questions) == 6
            best = [min(range(2), key=lambda i, q=q: q["clips"][i]["hash"]) for q in questions]  # type: ignore[misc]
            page.post(*(answer(q, c, seconds=0.32) for q, c in zip(questions, best, strict=True)))
            assert page.http.get("/report").status_code == page.http.get("/api/report").status_code == 403
        page = Page(url, issue_manager_token(store, "lab"))
        report = page.http.get("/api/report").json()
        assert (report["alpha"], report["shared"], report["percent"]) == (pytest.approx(1.0), 6, 1.0)
        assert all(person["too_fast"] == 1.0 and person["flags"] for person in report["annotators"])
        html = page.http.get("/report").text
        assert "&lt;i&gt;bob" in html
        assert "<i>" not in html


def start(path: Path, port: int = 0) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "prefenvs", "label", "--store", str(path), "--port", str(port), "--repeats", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("label at "):
            return process, line.split()[-1]
    raise AssertionError(f"the server ended with {process.wait()}")


def test_killed_server_loses_nothing_and_stops_cleanly(tmp_path: Path) -> None:
    """kill -9 while answers pour in; the page resends what was not accepted to the next server."""
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        store.add_queries(make_queries(12))
    process, url = start(path)
    page = Page(url)
    questions = page.next(20) + page.next(20, "")
    questions = list({question["id"]: question for question in questions}.values())
    outbox = [answer(question, i % 2) for i, question in enumerate(questions)]
    accepted: set[str] = set()
    with contextlib.suppress(httpx.HTTPError):
        while True:
            for item in outbox:
                accepted.update(page.post(item).json()["accepted"])
                if len(accepted) == 3:
                    threading.Timer(0.05, process.kill).start()
    process.wait()
    assert accepted
    with Store(path) as store:
        assert accepted <= {event.id for event in store.events_after()}
    process, url = start(path)
    try:
        again = Page(url)
        again.http.cookies = page.http.cookies
        again.session = again.http.get("/api/session").json()
        assert again.session["csrf"] == page.session["csrf"]
        # The server refuses more answers than somebody can have looked at since the questions were handed out.
        time.sleep(12 * SHORTEST_LOOK)
        assert set(again.post(*outbox).json()["accepted"]) == {item["uuid"] for item in outbox}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    with Store(path) as store:
        assert store.stats().labels == store.stats().events == len(outbox)
