"""Running the server for others: health, a log for machines, a reverse proxy before it, pages for what goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from prefenvs.cli import main
from prefenvs.oracles.labelling import Access, Clips, create_app
from prefenvs.oracles.labelling.access import WRONG_TOKENS
from prefenvs.oracles.labelling.trouble import ACCESS_LOG, JsonLines, log_as_json
from prefenvs.store import Store, issue_token

HTML = {"Accept": "text/html"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


@pytest.fixture
def client(store: Store, tmp_path: Path) -> TestClient:
    app = create_app(store, Access(store), Clips(store, tmp_path / "clips"))
    return TestClient(app, base_url="http://labels.example", raise_server_exceptions=False)


def test_health_needs_no_token_and_notices_a_store_that_is_gone(client: TestClient, store: Store) -> None:
    assert (client.get("/health").status_code, client.get("/health").json()) == (200, {"status": "ok"})
    store.engine.dispose()
    Path(str(store.engine.url.database)).write_bytes(b"no database" * 1000)
    reply = client.get("/health")
    assert (reply.status_code, "labels.sqlite" in reply.text) == (503, False)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [("/manager", 401, "Not signed in"), ("/nowhere", 404, "Not found"), ("/manager", 403, "Not for you")],
)
def test_a_person_gets_a_page_and_a_program_a_line(
    client: TestClient, store: Store, path: str, status: int, says: str
) -> None:
    if status == 403:
        client.get("/", params={"token": issue_token(store, "ann")})
    page, line = client.get(path, headers=HTML), client.get(path)
    assert (page.status_code, line.status_code) == (status, status)
    assert says in page.text
    assert "stylesheet" in page.text
    assert set(line.json()) == {"error"}


def test_too_many_wrong_links_and_trouble_have_pages_too(client: TestClient, store: Store) -> None:
    for number in range(WRONG_TOKENS + 1):
        reply = client.get("/", params={"token": f"wrong{number}"}, headers=HTML)
    assert (reply.status_code, "Too many wrong links" in reply.text) == (429, True)
    client.app.state.desk.access.enter = lambda *_: 1 / 0  # type: ignore[attr-defined]
    reply = client.get("/", headers=HTML)
    assert (reply.status_code, "in trouble" in reply.text, "ZeroDivision" in reply.text) == (500, True, False)


def test_behind_a_proxy_people_are_told_apart_and_cookies_kept_to_tls(store: Store, tmp_path: Path) -> None:
    app = create_app(store, Access(store), Clips(store, tmp_path / "clips"))
    behind = TestClient(
        ProxyHeadersMiddleware(app, trusted_hosts=["10.0.0.1"]),
        base_url="http://labels.example",
        client=("10.0.0.1", 5),
    )

    def visit(address: str, token: str, client: TestClient = behind) -> int:
        headers = {"X-Forwarded-For": address, "X-Forwarded-Proto": "https"}
        return client.get("/", params={"token": token}, headers=headers, follow_redirects=False).status_code

    assert [visit("203.0.113.5", f"wrong{i}") for i in range(WRONG_TOKENS + 1)][-1] == 429
    assert visit("203.0.113.6", "wrong") == 401
    headers = {"X-Forwarded-For": "203.0.113.6", "X-Forwarded-Proto": "https"}
    reply = behind.get("/", params={"token": issue_token(store, "ann")}, headers=headers, follow_redirects=False)
    assert "Secure" in reply.headers["set-cookie"]
    # Whoever is no proxy may say what they like.
    other = TestClient(ProxyHeadersMiddleware(app, trusted_hosts=["10.0.0.1"]), client=("192.0.2.9", 5))
    replies = [visit(f"203.0.113.{i}", f"bad{i}", other) for i in range(WRONG_TOKENS + 1)]
    assert replies[-1] == 429


def test_the_log_is_one_json_object_a_line_and_holds_no_token(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=ACCESS_LOG):
        client.get("/", params={"token": "very-secret"})
    (record,) = [record for record in caplog.records if record.name == ACCESS_LOG]
    line = json.loads(JsonLines().format(record))
    assert (line["method"], line["path"], line["status"], line["level"]) == ("GET", "/", 401, "info")
    assert "very-secret" not in json.dumps(line)


def test_the_command_line_says_what_a_proxy_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["label", "--store", str(tmp_path / "a.sqlite"), "--proxy", "127.0.0.1"])
    assert "--annotators" in capsys.readouterr().err
    before = {name: logging.getLogger(name) for name in ("prefenvs", "uvicorn")}
    kept = {name: (list(logger.handlers), logger.propagate, logger.level) for name, logger in before.items()}
    try:
        log_as_json()
        assert isinstance(logging.getLogger("prefenvs").handlers[0].formatter, JsonLines)
    finally:
        for name, (handlers, propagate, level) in kept.items():
            before[name].handlers, before[name].propagate = handlers, propagate
            before[name].setLevel(level)
