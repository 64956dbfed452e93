"""Who is let in, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.oracles.labelling import Access, Clips, create_app
from prefenvs.oracles.labelling.access import BODY_LIMIT, WRONG_TOKENS, Guard, check_binding
from prefenvs.store import Store, issue_token, revoke_tokens

HOST = "http://127.0.0.1:8765"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


@pytest.fixture
def open_page(store: Store, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(store, Access(store, "ann"), Clips(store, tmp_path / "clips"))
    with TestClient(app, base_url=HOST) as client:
        yield client


@pytest.fixture
def closed_page(store: Store, tmp_path: Path) -> Iterator[TestClient]:
    app = create_app(store, Access(store), Clips(store, tmp_path / "clips"))
    with TestClient(app, base_url="http://labels.example") as client:
        yield client


def test_a_token_becomes_a_cookie_and_leaves_the_address_bar(store: Store, closed_page: TestClient) -> None:
    token = issue_token(store, "ann")
    reply = closed_page.get("/", params={"token": token}, follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert closed_page.get("/api/session").json()["annotator"] == "ann"


@pytest.mark.parametrize(
    "path", ["/api/session", "/api/next", "/api/status", "/api/report", "/report", "/clips/look/x.mp4"]
)
def test_without_a_token_there_is_nothing(closed_page: TestClient, path: str) -> None:
    assert closed_page.get(path).status_code == 401
    assert "error" in closed_page.get(path, headers={"Cookie": "prefenvs_00000000=wrong"}).json()


def test_wrong_tokens_are_refused_and_soon_slowed_down(store: Store, closed_page: TestClient) -> None:
    replies = [closed_page.get("/", params={"token": f"wrong{i}"}).status_code for i in range(WRONG_TOKENS + 1)]
    assert replies == [401] * WRONG_TOKENS + [429]


def test_revoked_tokens_stop_working(store: Store, tmp_path: Path) -> None:
    token = issue_token(store, "ann")
    revoke_tokens(store, "ann")
    with TestClient(create_app(store, Access(store), Clips(store, tmp_path / "c")), base_url=HOST) as client:
        assert client.get("/", params={"token": token}).status_code == 401


def test_a_browser_with_a_wrong_token_sees_the_page_that_says_so(closed_page: TestClient) -> None:
    reply = closed_page.get("/", headers={"Accept": "text/html"})
    assert (reply.status_code, reply.headers["content-type"]) == (401, "text/html; charset=utf-8")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8765"])
def test_without_tokens_only_this_computers_names_are_served(open_page: TestClient, host: str) -> None:
    for path in ("/", "/api/session", "/?token=x"):
        assert open_page.get(path, headers={"Host": host}).status_code == 403
    assert open_page.get("/api/session", headers={"Host": "[::1]:8765"}).status_code == 200


def post(client: TestClient, content: str = '{"answers": []}', **headers: str) -> tuple[int, str]:
    csrf = client.get("/api/session").json()["csrf"]
    about = {"X-CSRF": csrf, "Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    reply = client.post("/api/answers", content=content, headers=about)
    return reply.status_code, reply.json().get("error", "")


def test_posts_come_from_the_servers_own_page(open_page: TestClient) -> None:
    assert post(open_page) == (200, "")
    assert post(open_page, Origin=HOST) == (200, "")
    assert post(open_page, Origin="http://evil.example")[0] == 403
    assert post(open_page, Origin="null")[0] == 403
    assert post(open_page, Sec_Fetch_Site="cross-site")[0] == 403
    assert post(open_page, X_CSRF="wrong")[0] == 403
    assert post(open_page, Content_Type="text/plain")[0] == 415


@pytest.mark.parametrize(
    "content",
    [
        *("", "x", "[]", "null", "{}", "[" * 9999, '\xff"', '{"answers": [], "more": 1}'),
        *('{"answers": 1}', '{"answers": [1]}', '{"answers": [{"uuid": "x"}]}'),
        '{"answers": [' + ",".join(["{}"] * 101) + "]}",
    ],
    ids=range(12),
)
def test_malformed_bodies_get_one_line(open_page: TestClient, content: str) -> None:
    status, error = post(open_page, content)
    assert status == 400
    assert error
    assert "\n" not in error


def test_long_bodies_are_cut_off_declared_or_not(open_page: TestClient) -> None:
    long = '{"answers": ["' + "x" * BODY_LIMIT + '"]}'
    assert post(open_page, long)[0] == 413
    csrf = open_page.get("/api/session").json()["csrf"]
    headers = {"X-CSRF": csrf, "Content-Type": "application/json"}
    reply = open_page.post("/api/answers", content=(piece.encode() for piece in (long, long)), headers=headers)
    assert reply.status_code == 413


@pytest.mark.parametrize("query", ["count=-1", "count=21", "count=x", "holding=" + ",".join(["x"] * 41)])
def test_malformed_questions_get_one_line(open_page: TestClient, query: str) -> None:
    reply = open_page.get(f"/api/next?{query}")
    assert (reply.status_code, set(reply.json())) == (400, {"error"})


@pytest.mark.parametrize("path", ["/", "/api/session", "/report", "/static/label.css", "/nowhere", "/clips/look/x.mp4"])
def test_every_response_carries_a_strict_policy(open_page: TestClient, path: str) -> None:
    headers = open_page.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_only_the_pages_own_files_are_static(open_page: TestClient) -> None:
    assert open_page.get("/static/scripts/label.js").headers["content-type"].startswith("text/javascript")
    for path in ("/static/", "/static/../server.py", "/static/%2e%2e%2fserver.py", "/static/..%2f..%2fhuman.py"):
        assert open_page.get(path).status_code == 404


def test_other_addresses_need_tokens() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_binding(host, with_tokens=False)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        check_binding(host, with_tokens=True)
        with pytest.raises(PrefenvsError, match="--annotators"):
            check_binding(host, with_tokens=False)


def test_a_busy_port_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as stopped:
            main(["label", "--store", str(tmp_path / "x.sqlite"), "--port", str(port)])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"port {port}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.sqlite").exists()


def test_a_request_that_the_servers_end_cuts_short_is_answered():
    """The page asks again later, and whoever stopped the server sees no traceback."""
    sent = []

    async def stop() -> None:
        async def wait_forever(scope, receive, send):
            await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/clips", "headers": []}
        request = asyncio.create_task(Guard(wait_forever)(scope, None, send))
        await asyncio.sleep(0)
        request.cancel()
        await request

    asyncio.run(stop())
    assert [message.get("status") for message in sent] == [503, None]
    assert json.loads(sent[1]["body"]) == {"error": "the server is being stopped"}
