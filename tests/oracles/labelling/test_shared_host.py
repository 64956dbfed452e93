"""Several stores and people at one host: cookies, stale tabs, malformed headers, and clips of another look."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from prefenvs.oracles.labelling import Access, Clips, create_app, serve
from prefenvs.oracles.labelling.access import WRONG_TOKENS
from prefenvs.preferences import Query, make_pairs
from prefenvs.segments import Segment, SegmentBatch
from prefenvs.store import Store, issue_token


def make_queries(count: int) -> list[Query]:
    """Questions without simulator states, whose clips are curves: quick to draw."""
    rng = np.random.default_rng(0)
    return make_pairs(
        SegmentBatch(rng.random((2 * count, 8, 17)), rng.random((2 * count, 8, 6)), task="HalfCheetah-v5")
    )


def test_stale_tabs_lock_nobody_out(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store, serve(store, tmp_path / "clips", annotator=None, size=64) as url:
        token = issue_token(store, "ann")
        cookie = Access(store).cookie
        stale = [httpx.get(f"{url}/api/session", cookies={cookie: "old"}).status_code for _ in range(3 * WRONG_TOKENS)]
        assert stale == [401] * len(stale)
        assert httpx.get(url, params={"token": "another"}).status_code == 401
        guesses = [httpx.get(url, params={"token": f"guess{i}"}).status_code for i in range(WRONG_TOKENS)]
        assert guesses[-1] == 429
        assert httpx.get(f"{url}/api/session", cookies={cookie: token}).json()["annotator"] == "ann"
        assert httpx.get(url, params={"token": token}).status_code == 303


@pytest.mark.parametrize("open_to", [None, "eve"], ids=["both by token", "one open"])
def test_two_stores_on_one_host_leave_each_other_signed_in(tmp_path: Path, open_to: str | None) -> None:
    with (
        Store(tmp_path / "a.sqlite") as first,
        Store(tmp_path / "b.sqlite") as second,
        serve(first, tmp_path / "a", annotator=None, size=64) as one,
        serve(second, tmp_path / "b", annotator=open_to, size=64) as other,
        httpx.Client(follow_redirects=True) as browser,  # shares cookies between the ports of a host, as browsers do
    ):
        browser.get(one, params={"token": issue_token(first, "ann")})
        browser.get(other, params={"token": issue_token(second, "bob")})
        assert browser.get(f"{one}/api/session").json()["annotator"] == "ann"
        assert browser.get(f"{other}/api/session").json()["annotator"] == (open_to or "bob")
        assert browser.get(f"{one}/api/session").json()["annotator"] == "ann"


def ask(url: str, lines: list[bytes]) -> bytes:
    """Send a request byte by byte as given, and return the reply's first line."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"Connection: close", b"", b""]))
        return connection.makefile("rb").readline()


@pytest.fixture(scope="module")
def open_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one page for requests that have nothing to do with each other."""
    folder = tmp_path_factory.mktemp("page")
    with Store(folder / "a.sqlite") as store, serve(store, folder / "clips", annotator="ann", size=64) as url:
        yield url


@pytest.mark.parametrize(
    "header",
    [
        *(b"Origin: http://[", b"Origin: http://[::1", b"Origin: http://\xbd[]", b"Host: [::1", b"Host: ]", b"Host: "),
        *(b"Content-Length: " + b"9" * 5000, b"Content-Length: -1", b"Cookie: prefenvs=\x80; =;;", b"X-CSRF: \xff"),
        *(b"Content-Type: \xff", b"Range: bytes=9-1", b"Accept: \xff\xfe", b"Sec-Fetch-Site: \xff"),
    ],
)
@pytest.mark.parametrize("request_line", [b"POST /api/answers HTTP/1.1", b"GET /?token=%ff%00 HTTP/1.1"])
def test_malformed_headers_are_no_error_of_the_server(open_page: str, header: bytes, request_line: bytes) -> None:
    host = [] if header.startswith(b"Host") else [f"Host: {urlsplit(open_page).netloc}".encode()]
    status = int(ask(open_page, [request_line, *host, header]).split()[1])
    assert status < 500


def test_a_browser_that_has_a_clip_gets_it_anew_in_another_look(tmp_path: Path) -> None:
    found = []
    with Store(tmp_path / "a.sqlite") as store:
        store.add_queries(make_queries(1))
        for size, quality in ((64, False), (96, False), (96, True)):
            app = create_app(store, Access(store, "ann"), Clips(store, tmp_path / "clips", size, quality))
            with TestClient(app, base_url="http://127.0.0.1:8765") as client:
                clip = client.get("/api/next").json()["questions"][0]["clips"][0]
                assert (clip["width"], client.get(clip["url"]).status_code) == (size, 200)
                found.append(clip["url"])
                # An address of before the restart leads to the present one, and is not kept.
                if size != 64:
                    name = re.sub(r"[0-9a-f]{64}\.mp4", "", found[0]) + clip["url"].rsplit("/", 1)[1]
                    old = client.get(name, follow_redirects=False)
                    assert (old.headers["location"], old.headers["cache-control"]) == (clip["url"], "no-store")
    assert len({url.rsplit("/", 1)[0] for url in found}) == 3


def test_questions_of_a_task_that_is_not_found_say_so(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        known = make_queries(2)
        store.add_queries(
            [
                Query(tuple(Segment(s.observations, s.actions, task="no_such_module:TASK") for s in known[0].segments)),
                known[1],
            ]
        )
        app = create_app(store, Access(store, "ann"), Clips(store, tmp_path / "clips", 64))
        with TestClient(app, base_url="http://127.0.0.1:8765") as client:
            assert client.get("/api/session").status_code == 200
            reply = client.get("/api/next").json()
        assert [question["task"] for question in reply["questions"]] == ["HalfCheetah-v5"]
        assert "no_such_module" in reply["problem"]
        assert "PYTHONPATH" in reply["problem"]
