"""The labelling page when its database is in trouble, or another store is served at its address."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from prefenvs.oracles.labelling.answers import import_answers
from prefenvs.store import Store

from ..conftest import wait_until_loaded

LEFT, RIGHT = "\ue012", "\ue014"
KEPT = "const kept = document.getElementById('kept'); return kept.hidden ? '' : kept.innerText"


class FullDisk:
    """A store on a small file system that fills up, and has room again."""

    def __init__(self, folder):
        self.folder = folder
        self.location = str(folder / "labels.sqlite")

    def begin(self):
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def end(self):
        (self.folder / "filler").unlink()


class StoppedPostgres:
    """A PostgreSQL server of its own that is stopped and started."""

    def __init__(self, folder, binaries):
        self.folder, self.binaries = folder, binaries
        self.location = f"postgresql://postgres@/postgres?host={folder}"
        self.account = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        self.run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")
        self.end()

    def run(self, program, *options):
        command = [str(self.binaries / program), "-D", str(self.folder / "data"), *options]
        with (self.folder / "log").open("a") as log:
            subprocess.run(command, cwd=self.folder, check=True, stdout=log, stderr=log, timeout=120, **self.account)

    def begin(self):
        self.run("pg_ctl", "-w", "-m", "fast", "stop")

    def end(self):
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        self.run("pg_ctl", "-w", "-l", "server.log", "-o", options, "start")


@pytest.fixture
def full_disk(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here, which takes root: {error}")
    try:
        yield FullDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def stopped_postgres():
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'prefenvs[postgres]'")
    found = [*sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")), shutil.which("initdb")]
    if found[0] is None:
        pytest.skip("PostgreSQL is not installed")
    # Short, since the path of a socket may have no more than 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    try:
        if os.geteuid() == 0:
            try:
                shutil.chown(folder, "postgres", "postgres")
            except LookupError:
                pytest.skip("PostgreSQL does not run as root, and there is no account `postgres` to run it")
        server = StoppedPostgres(folder, Path(found[-2 if len(found) > 1 else 0]).parent)
        yield server
        with contextlib.suppress(subprocess.CalledProcessError):
            server.run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("trouble", ["full_disk", "stopped_postgres"])
def test_trouble_of_the_database_costs_no_answer(request, trouble, serve_apart, visit, make_queries):
    trouble = request.getfixturevalue(trouble)
    with Store(trouble.location) as store:
        store.add_queries(make_queries(8))
    _, url = serve_apart(location=trouble.location)
    page = visit(url)
    page.answer(LEFT)
    page.wait(lambda: page.unsent == 0)
    wait_until_loaded(page, 12)
    trouble.begin()
    for key in (RIGHT, LEFT, RIGHT):
        page.answer(key)
    page.wait(lambda: "in trouble" in page.banner and "3 answers kept" in page.banner)
    # Neither what else the page asks, nor a reload, ends the trouble or takes an answer for a bad one.
    watched_until = time.monotonic() + 3
    while time.monotonic() < watched_until:
        assert page.banner
        assert page.run(KEPT) == ""
        for secret in (str(trouble.folder), trouble.folder.name, "sqlite", "postgres", "socket", url.split(":")[-1]):
            assert secret not in page.text
    assert page.unsent == 3
    page.driver.refresh()
    page.wait(lambda: "in trouble" in page.banner)
    assert page.unsent == 3
    trouble.end()
    page.wait(lambda: page.unsent == 0, 40)
    page.wait(lambda: page.banner == "")
    for _ in range(4):
        page.answer(LEFT)
    page.wait(lambda: "All done" in page.text)
    page.wait(lambda: page.unsent == 0)
    with Store(trouble.location, create=False) as store:
        events = store.events_after()
    assert len(events) == len({event.query for event in events}) == 8


def test_answers_wait_for_their_store_while_another_is_served_at_its_address(
    store, serve_apart, visit, make_queries, wait_for_events, tmp_path
):
    store.add_queries(make_queries(7))
    other = str(tmp_path / "other.sqlite")
    with Store(other) as second:
        second.add_queries(make_queries(3, 20, 20))
    process, url = serve_apart()
    port = int(url.rstrip("/").rsplit(":", 1)[1])
    page = visit(url)
    seen = set(page.answer(LEFT))
    wait_for_events(1)
    wait_until_loaded(page, 12)
    process.send_signal(signal.SIGKILL)
    process.wait()
    page.answer(LEFT)
    page.answer(RIGHT)
    page.wait(lambda: "2 answers kept" in page.banner)
    process, _ = serve_apart(port, other)
    page.wait(lambda: "2 answers of another store" in page.run(KEPT))
    # What is on show is the other store's, and only its own answers reach it.
    page.wait(lambda: "0 of 3 labels" in page.text)
    for _ in range(3):
        seen.update(page.answer(RIGHT))
    page.wait(lambda: "All done" in page.text and page.unsent == 2)
    with Store(other) as second:
        assert len(second.events_after()) == 3
        shown = {segment.hash for answer in second.preferences() for segment in answer.query.segments}
    assert shown <= seen
    assert len(store.events_after()) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    serve_apart(port)
    page.wait(lambda: page.unsent == 0)
    assert len({event.query for event in wait_for_events(3)}) == 3
    page.wait(lambda: page.run(KEPT) == "")


def test_a_second_window_gives_no_second_label(store, serve, visit, make_queries, wait_for_events, tmp_path):
    queries = make_queries(3)
    store.add_queries(queries)
    page = visit(serve())
    page.clips()
    wait_until_loaded(page, 6)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("window")
    try:
        page.driver.get(page.url)
        wait_until_loaded(page, 6)
        shown = page.clips()
        # This window hears nothing of what is answered in the other one.
        page.run(
            "window.realFetch = fetch; window.fetch = (url, ...more) => url.startsWith('/api/next')"
            " ? new Promise(() => {}) : window.realFetch(url, ...more)"
        )
        second = page.driver.current_window_handle
        page.driver.switch_to.window(first)
        for _ in range(3):
            page.answer(LEFT)
        page.wait(lambda: "All done" in page.text)
        wait_for_events(3)
        page.driver.switch_to.window(second)
        page.answer(RIGHT)
        page.wait(lambda: "answered this question already" in page.run(KEPT))
        page.wait(lambda: "3 of 3 labels" in page.text)
        assert len(store.events_after()) == 3
        assert page.unsent == 0
        # A reload brings the rejected answer back into view, and nothing that has its answer.
        page.driver.refresh()
        page.wait(lambda: "All done" in page.text)
        page.wait(lambda: "Right is better: you have answered this question already" in page.run(KEPT))
        export = export_answers(page, tmp_path)
        (kept,) = export["answers"]
        assert (kept["annotator"], kept["state"], kept["store"]) == ("ann", "refused", store.identity)
        assert kept["content"]["answer"]["choice"] == 1
        assert tuple(kept["content"]["about"]["clips"]) == shown
        # Once the answer in its way is taken back, it is worth sending again.
        taken = next(event for event in store.events_after() if event.query == kept["content"]["about"]["query"])
        store.undo(taken)
        page.click("#kept-send")
        page.wait(lambda: page.run(KEPT) == "")
        again = wait_for_events(5)[-1]
        assert (again.id, again.query) == (kept["content"]["answer"]["uuid"], taken.query)
        assert store.stats().labels == 3
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)


def export_answers(page, folder):
    """Press "Export" and return what the browser saves."""
    behaviour = {"behavior": "allow", "downloadPath": str(folder)}
    page.driver.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    page.click("#kept-export")
    file = folder / "prefenvs-answers.json"
    page.wait(file.exists)
    return json.loads(file.read_text())


def test_a_window_drops_what_was_answered_in_another(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(3))
    page = visit(serve())
    wait_until_loaded(page, 6)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("window")
    try:
        page.driver.get(page.url)
        for _ in range(3):
            page.answer(LEFT)
        wait_for_events(3)
    finally:
        page.driver.close()
        page.driver.switch_to.window(first)
    page.run("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait(lambda: "All done" in page.text)
    assert page.run(KEPT) == ""


def test_an_answer_that_something_on_the_way_refuses_stays_and_holds_up_no_other(
    store, serve, visit, make_queries, wait_for_events
):
    """A filter before the server may dislike the words of a reason, and answer 400 in its stead."""
    store.add_queries(make_queries(4))
    page = visit(serve())
    page.clips()
    page.run(
        "window.realFetch = fetch; window.fetch = (url, options) => options?.body?.includes('odd word')"
        " ? Promise.resolve(new Response('no', { status: 400 })) : window.realFetch(url, options)"
    )
    page.press("n")
    page.press("odd word")
    page.press("\ue007")
    for _ in range(4):
        page.answer(LEFT)
    assert len(wait_for_events(3)) == 3
    page.wait(lambda: "1 answer of yours cannot be sent" in page.run(KEPT))
    assert page.unsent == 1
    page.run("window.fetch = window.realFetch")
    assert {event.reason for event in wait_for_events(4)} == {"", "odd word"}
    page.wait(lambda: page.unsent == 0 and page.run(KEPT) == "")


def test_what_a_browser_without_storage_exports_can_be_imported(store, serve, visit, make_queries, tmp_path):
    store.add_queries(make_queries(2))
    page = visit(serve("lab/ann"))
    page.clips()
    page.run(
        "Storage.prototype.setItem = () => { throw new Error('full'); };"
        "window.realFetch = fetch; window.fetch = (url, options) => options?.method === 'POST'"
        " ? Promise.resolve(new Response('no', { status: 400 })) : window.realFetch(url, options)"
    )
    page.answer(LEFT)
    page.wait(lambda: "cannot be sent" in page.run(KEPT))
    (kept,) = export_answers(page, tmp_path)["answers"]
    assert kept["annotator"] == "lab/ann"
    assert import_answers(store, tmp_path / "prefenvs-answers.json") == (1, [])


PRESSES = {
    "a double press": "press('keydown'); press('keyup'); press('keydown'); press('keyup');",
    "a key held down": "press('keydown'); for (let i = 0; i < 40; i++) press('keydown', true);",
    "a key held down that does not say so": "press('keydown'); for (let i = 0; i < 40; i++) press('keydown');",
    "a double click": "for (let i = 0; i < 2; i++) document.querySelector('[data-answer=\"0\"]').click();",
    "two ways at once": "press('keydown'); press('keyup'); document.querySelector('[data-answer=skip]').click();",
}
PRESS = (
    "const press = (type, repeat = false) => document.body.dispatchEvent(new KeyboardEvent(type,"
    " { key: 'ArrowLeft', code: 'ArrowLeft', bubbles: true, repeat }));"
)


@pytest.mark.parametrize("presses", PRESSES.values(), ids=PRESSES)
def test_one_look_is_one_answer(store, serve, visit, make_queries, wait_for_events, presses):
    store.add_queries(make_queries(4))
    page = visit(serve())
    page.clips()
    wait_until_loaded(page, 8)
    page.run(PRESS + presses)
    page.clips()
    page.answer(RIGHT)
    page.wait(lambda: page.unsent == 0)
    events = wait_for_events(2)
    assert len(events) == 2
    assert min(event.seconds for event in events) >= 0.3


@pytest.mark.parametrize("key", ["ArrowLeft", "ArrowUp", "ArrowDown"])
def test_a_sprint_labels_nothing_that_was_not_seen(store, serve, visit, make_queries, wait_for_events, key):
    store.add_queries(make_queries(9))
    page = visit(serve())
    wait_until_loaded(page, 12)
    page.run(
        f"window.sprint = setInterval(() => {{ for (const type of ['keydown', 'keyup']) document.body.dispatchEvent("
        f"new KeyboardEvent(type, {{ key: '{key}', code: '{key}', bubbles: true }})); }}, 15)"
    )
    begun = time.monotonic()
    events = wait_for_events(3)
    page.run("clearInterval(window.sprint)")
    taken = time.monotonic() - begun
    page.wait(lambda: page.unsent == 0)
    events = store.events_after()
    assert min(event.seconds for event in events) >= 0.3
    assert len(events) <= taken / 0.3 + 2
