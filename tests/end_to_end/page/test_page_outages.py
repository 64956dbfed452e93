"""The labelling page when things go wrong: reload, killed server, no network, wrong token, several people at once."""

import signal
from collections import Counter

from prefenvs.store import issue_token

from ..conftest import Page, wait_until_loaded

LEFT, RIGHT = "\ue012", "\ue014"


def leave(page):
    """Close the page for good: what a browser keeps of it in the background must not send anything either."""
    page.run("window.fetch = () => Promise.reject(new TypeError('gone'))")
    page.driver.get("data:,")


def test_reload_in_the_middle_loses_and_repeats_nothing(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(5))
    page = visit(serve())
    first = [page.answer(LEFT), page.answer(LEFT)]
    page.driver.refresh()
    # What was answered before the reload can still be undone after it.
    page.clips()
    page.press("u")
    assert page.clips() == first[1]
    rest = [page.answer(RIGHT) for _ in range(4)]
    page.wait(lambda: "All done" in page.text)
    assert len({*first, *rest}) == 5
    assert Counter(event.kind for event in wait_for_events(7)) == {"comparison": 6, "undo": 1}
    assert store.stats().labels == 5


def test_a_killed_server_loses_and_doubles_no_label(store, serve_apart, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(10))
    process, url = serve_apart()
    page = visit(url)
    shown = [page.answer(LEFT)]
    wait_for_events(1)
    wait_until_loaded(page, 12)
    # One answer is on its way while the server dies, more are given while it is dead.
    shown.append(page.answer(RIGHT))
    process.send_signal(signal.SIGKILL)
    process.wait()
    shown += [page.answer(LEFT), page.answer(RIGHT), page.answer(LEFT)]
    page.wait(lambda: "Not connected" in page.banner)
    assert page.unsent >= 3
    assert "kept in this browser" in page.banner
    serve_apart(int(url.rstrip("/").rsplit(":", 1)[1]))
    page.wait(lambda: page.unsent == 0)
    page.wait(lambda: page.banner == "")
    shown += [page.answer(LEFT) for _ in range(5)]
    page.wait(lambda: "All done" in page.text)
    assert len(set(shown)) == 10
    events = wait_for_events(10)
    assert len(events) == store.stats().labels == len({event.query for event in events}) == 10


def test_answers_given_offline_arrive_later_once_each(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(8))
    page = visit(serve())
    wait_until_loaded(page, 12)
    page.offline(True)
    try:
        for _ in range(3):
            page.answer(LEFT)
        page.wait(lambda: "Not connected" in page.banner and "3 answers" in page.banner)
        assert not store.events_after()
        # The tab is closed before the network is back; a later visit finds what it left.
        leave(page)
    finally:
        page.offline(False)
    assert not store.events_after()
    page.driver.get(page.url)
    wait_for_events(3)
    page.wait(lambda: page.unsent == 0 and page.banner == "")
    for _ in range(5):
        page.answer(RIGHT)
    page.wait(lambda: "All done" in page.text)
    events = wait_for_events(8)
    assert len(events) == len({event.query for event in events}) == 8


def test_an_answer_whose_acknowledgement_was_lost_is_stored_once(store, serve, visit, make_queries, wait_for_events):
    """The server has the answer, the page does not know and sends it again."""
    store.add_queries(make_queries(3))
    page = visit(serve())
    page.clips()
    page.run(
        "window.realFetch = fetch; window.fetch = async (...call) => { const got = await window.realFetch(...call);"
        " if (call[0] === '/api/answers') throw new TypeError('lost'); return got; }"
    )
    page.answer(LEFT)
    wait_for_events(1)
    page.wait(lambda: "Not connected" in page.banner)
    assert page.unsent == 1
    page.run("window.fetch = window.realFetch")
    page.wait(lambda: page.unsent == 0)
    assert len(store.events_after()) == 1


def test_two_people_answer_different_questions(store, serve, visit, make_browser, make_queries, wait_for_events):
    store.add_queries(make_queries(24))
    url = serve(open_to=None)
    ann = visit(f"{url}?token={issue_token(store, 'ann')}")
    bob = Page(make_browser(), f"{url}?token={issue_token(store, 'bob')}")
    shown = []
    for _ in range(7):
        shown += [ann.answer(LEFT), bob.answer(RIGHT)]
    assert len(set(shown)) == 14
    assert "token" not in ann.driver.current_url
    events = wait_for_events(14)
    assert Counter(event.annotator for event in events) == {"ann": 7, "bob": 7}
    assert len({event.query for event in events}) == 14


def test_a_wrong_token_is_told_and_nothing_is_shown(store, serve, visit, make_queries):
    store.add_queries(make_queries(2))
    url = serve(open_to=None)
    page = visit(f"{url}?token=wrong")
    page.wait(lambda: "not signed in" in page.banner)
    assert page.run("return document.querySelectorAll('video').length") == 0
    page.driver.get(f"{url}?token={issue_token(store, 'ann')}")
    page.answer(LEFT)
    assert page.banner == ""


def test_somebody_else_s_unsent_answers_are_not_sent_as_one_s_own(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(12))
    url = serve(open_to=None)
    tokens = {name: issue_token(store, name) for name in ("ann", "bob")}
    page = visit(f"{url}?token={tokens['ann']}")
    wait_until_loaded(page, 12)
    page.offline(True)
    try:
        page.answer(LEFT)
        leave(page)
    finally:
        page.offline(False)
    page.driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    page.driver.get(url)
    page.wait(lambda: "not signed in" in page.banner and "1 answer of another store or person" in page.text)
    page.driver.get(f"{url}?token={tokens['bob']}")
    page.answer(RIGHT)
    assert [event.annotator for event in wait_for_events(1)] == ["bob"]
    page.driver.get(f"{url}?token={tokens['ann']}")
    assert sorted(event.annotator for event in wait_for_events(2)) == ["ann", "bob"]
