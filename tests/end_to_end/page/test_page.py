"""The labelling page under a person's hands, in headless Chromium: keys, buttons, kinds of questions, layout."""

import time
from collections import Counter
from concurrent.futures import Future

import pytest

from prefenvs.oracles import RatingOracle
from prefenvs.oracles.labelling import Clips

from ..conftest import POSITIONS, SHOWN

LEFT, UP, RIGHT, DOWN, ESCAPE, ENTER, BACKSPACE = "\ue012", "\ue013", "\ue014", "\ue015", "\ue00c", "\ue007", "\ue003"


def chosen(event, store):
    """Hash of the segment that an event prefers, "equal", or None for a skip."""
    if event.kind == "skip":
        return None
    query = store.find_queries([event.query])[event.query]
    if len(set(event.probabilities)) == 1:
        return "equal"
    return query.segments[event.probabilities.index(1.0)].hash


def test_a_page_opened_before_anything_is_asked_goes_on_by_itself(store, serve, visit, make_queries, wait_for_events):
    page = visit(serve())
    page.wait(lambda: "No question yet" in page.text)
    # It asks now and then; fifty pages that wait are no load.
    asked = "return performance.getEntriesByType('resource').filter(e => e.name.includes('/api/next')).length"
    before = page.run(asked)
    time.sleep(1)
    assert page.run(asked) - before <= 1
    store.add_queries(make_queries(1))
    page.answer(LEFT)
    page.wait(lambda: "All done" in page.text)
    assert "cheetah runs to the right" in page.text
    assert len(wait_for_events(1)) == 1


def test_four_keys_are_four_answers(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(6))
    page = visit(serve())
    page.wait(lambda: "cheetah runs to the right" in page.text)
    left, right = page.answer(LEFT), page.answer(RIGHT)
    page.answer(UP)
    page.answer(DOWN)
    events = wait_for_events(4)
    assert [chosen(event, store) for event in events] == [left[0], right[1], "equal", None]
    assert all(event.annotator == "ann" and 0 < event.seconds < 60 for event in events)
    page.wait(lambda: page.unsent == 0)
    page.wait(lambda: "4 of 6 labels" in page.text)


def test_buttons_do_what_keys_do(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(5))
    page = visit(serve())
    shown = []
    for answer in ("0", "1", "equal", "skip"):
        shown.append(page.clips())
        page.click(f"[data-answer='{answer}']")
        page.wait(lambda: page.clips() != shown[-1])
    page.click("[data-do=undo]")
    events = wait_for_events(5)
    assert [chosen(event, store) for event in events[:4]] == [shown[0][0], shown[1][1], "equal", None]
    assert events[4].target == events[3].id
    assert page.clips() == shown[3]


def test_undo_brings_the_question_back_and_the_new_answer_counts(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(4))
    page = visit(serve())
    first, second = page.answer(LEFT), page.answer(LEFT)
    page.press("u")
    assert page.clips() == second
    page.press(BACKSPACE)
    assert page.clips() == first
    page.answer(RIGHT)
    # What had been on show before the undo comes back, nothing is skipped.
    seen = [page.answer(LEFT) for _ in range(3)]
    assert second in seen
    events = wait_for_events(8)
    assert Counter(event.kind for event in events) == {"comparison": 6, "undo": 2}
    standing = {answer.query.id: answer for answer in store.preferences()}
    assert len(standing) == 4
    assert first[1] in {answer.query.segments[answer.best].hash for answer in standing.values()}
    page.wait(lambda: "All done" in page.text)


def test_the_next_questions_are_decoded_before_they_are_needed(store, serve, visit, make_queries):
    store.add_queries(make_queries(9))
    page = visit(serve())
    page.clips()
    hidden = "[...document.querySelectorAll('.clips:not(.shown) video')].map(v => v.readyState)"
    states = page.wait(lambda: len(found := page.run(f"return {hidden}")) == 10 and min(found) >= 2 and found)
    assert min(states) >= 2
    page.answer(LEFT)
    assert page.run(f"return [...{SHOWN}.querySelectorAll('video')].every(v => v.readyState >= 2)")


def test_answers_do_not_wait_behind_clips_that_are_still_being_made(
    store, serve, visit, make_queries, wait_for_events, monkeypatch
):
    """A browser opens few connections to one server, and a clip takes one until it is made."""
    store.add_queries(make_queries(6, 16, 16, 16, 16))
    made, path = set(), Clips.path

    def stall(clips, key, look):
        made.update([key] if len(made) < 4 else [])
        return path(clips, key, look) if key in made else Future()

    monkeypatch.setattr(Clips, "path", stall)
    page = visit(serve())
    shown = page.answer("2")
    assert set(shown) <= made
    assert chosen(wait_for_events(1)[0], store) == shown[1]
    page.wait(lambda: "1 of 6 labels" in page.text)
    assert page.banner == ""


def test_best_of_three(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(5, 16, 16, 16))
    page = visit(serve())
    third = page.answer("3")
    page.press(LEFT)  # there is no left of three
    first = page.answer("1")
    page.answer(UP)
    events = wait_for_events(3)
    assert [chosen(event, store) for event in events] == [third[2], first[0], "equal"]


def test_rating_one_clip(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(2))
    page = visit(serve(kind="rating"))
    segments = [page.answer(key)[0] for key in ("4", "1", DOWN)]
    events = wait_for_events(3)
    assert [(event.kind, event.segment, event.extra["rating"]) for event in events] == [
        ("rating", segment, rating) for segment, rating in zip(segments, (4, 1, None), strict=True)
    ]
    (learned,) = RatingOracle(store).collect()
    assert [segment.hash for segment in learned.query.segments] == segments[:2]
    assert (learned.probabilities.tolist(), learned.annotator) == ([1.0, 0.0], "ann")


def test_typing_a_reason_is_no_answer(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(3))
    page = visit(serve())
    shown = page.clips()
    page.press("n")
    for key in (*"12 us? <b>it falls</b>", LEFT, RIGHT, UP, DOWN):
        page.press(key)
    assert page.clips() == shown
    assert not store.events_after()
    page.press(ENTER)
    page.answer(LEFT)
    page.answer(RIGHT)
    reasons = [event.reason for event in wait_for_events(2)]
    assert reasons == ["12 us? <b>it falls</b>", ""]
    # What was written comes back with its question, long after the server has it.
    page.wait(lambda: page.unsent == 0)
    page.press("u")
    page.press("u")
    assert page.clips() == shown
    assert page.run("return document.getElementById('reason').value") == "12 us? <b>it falls</b>"


def test_a_key_held_down_is_one_answer_and_browser_shortcuts_are_none(
    store, serve, visit, make_queries, wait_for_events
):
    store.add_queries(make_queries(6))
    page = visit(serve())
    before = page.clips()
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', altKey: true, bubbles: true}))")
    assert page.clips() == before
    key = {"key": "ArrowLeft", "code": "ArrowLeft", "windowsVirtualKeyCode": 37}
    for repeat in (False, True, True, True):
        page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", "autoRepeat": repeat} | key)
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp"} | key)
    page.answer(RIGHT)
    assert len(wait_for_events(2)) == 2


def test_an_answer_while_the_clips_begin_anew_counts(store, serve, visit, make_queries, wait_for_events):
    """A video that seeks has no frame for a moment; whoever has seen it may answer all the same."""
    store.add_queries(make_queries(2))
    page = visit(serve())
    page.clips()
    page.run(
        f"for (const video of {SHOWN}.querySelectorAll('video'))"
        " Object.defineProperty(video, 'readyState', { get: () => 1 });"
        " document.body.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft', bubbles: true }));"
    )
    assert len(wait_for_events(1)) == 1


def test_help_lists_the_keys_and_takes_no_answers(store, serve, visit, make_queries):
    store.add_queries(make_queries(3))
    page = visit(serve())
    shown = page.clips()
    page.press("?")
    assert page.run("return document.getElementById('help').open")
    assert "cannot tell" in page.driver.find_element("id", "help").text
    page.press(LEFT)
    page.press(ESCAPE)
    page.wait(lambda: not page.run("return document.getElementById('help').open"))
    assert page.clips() == shown
    page.answer(LEFT)


def test_clips_run_on_one_clock_and_the_shorter_one_says_when_it_is_over(store, serve, visit, make_queries):
    store.add_queries(make_queries(2, 16, 48))
    page = visit(serve())
    page.clips()
    marks = f"[...{SHOWN}.querySelectorAll('.ended')].map(mark => !mark.hidden)"
    ended = page.wait(lambda: any(found := page.run(f"return {marks}")) and found)
    assert sorted(ended) == [False, True]
    # Paused, both stand on the same frame of the clock; the short one on its last.
    page.press(" ")
    page.press("r")
    page.press(" ")
    for _ in range(60):
        page.press(",")
    for _ in range(3):
        page.press(".")
    page.wait(lambda: len({round(at, 3) for at in page.run(POSITIONS)}) == 1)
    start = page.run(POSITIONS)
    page.press(".")
    page.wait(lambda: all(now > before for now, before in zip(page.run(POSITIONS), start, strict=True)))
    for _ in range(60):
        page.press(".")
    short = ended.index(True)
    page.wait(lambda: (at := page.run(POSITIONS))[short] < 0.9 * at[1 - short])
    assert page.run(f"return {marks}") == ended


def test_playing_clips_stay_together_at_every_speed_and_the_speed_is_remembered(store, serve, visit, make_queries):
    store.add_queries(make_queries(2, 48, 48))
    page = visit(serve())
    page.clips()
    faces = set()
    for _ in range(4):
        faces.add(page.run("return document.querySelector('#speed span').textContent"))
        page.press("r")
        apart = [abs(a - b) for a, b in (page.run(POSITIONS) for _ in range(20))]
        assert max(apart) < 0.25
        page.press("s")
    assert faces == {"0.25×", "0.5×", "1×", "2×"}
    page.press("s")
    page.driver.refresh()
    page.clips()
    assert page.run("return document.querySelector('#speed span').textContent") == "0.5×"
    page.wait(lambda: page.run(f"return {SHOWN}.querySelector('video').playbackRate") < 0.7)


@pytest.mark.parametrize(("size", "kind"), [(2, "comparison"), (4, "comparison"), (2, "rating")])
def test_a_phone_shows_everything_without_scrolling_sideways(store, serve, visit, make_queries, size, kind):
    store.add_queries(make_queries(3, *[16] * size))
    page = visit(serve(kind=kind))
    page.resize(360, 740)
    page.clips()
    page.click("#more")
    page.wait(lambda: page.run("return document.documentElement.scrollWidth") <= 360)
    boxes = page.run(
        "return [...document.querySelectorAll('main button, main video, #reason')].map(e => e.getBoundingClientRect())"
        ".filter(b => b.width).map(b => [b.left, b.right, b.top, b.bottom])"
    )
    assert all(left >= 0 and right <= 360 for left, right, _, _ in boxes)
    assert max(bottom for *_, bottom in boxes) <= 740
    buttons = page.run(
        "return [...document.querySelectorAll('main button')].map(b => [b.offsetWidth, b.offsetHeight, b.textContent])"
    )
    assert all(width >= 44 and height >= 44 for width, height, _ in buttons), buttons
    assert all(text.strip() for *_, text in buttons)


def test_a_clip_that_does_not_load_can_be_passed_over_but_not_judged(store, serve, visit, make_queries):
    store.add_queries(make_queries(1))
    page = visit("about:blank")
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*.mp4"]})
    page.driver.get(serve())
    page.wait(lambda: "does not load" in page.text)
    page.press(LEFT)
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    assert "does not load" in page.text
    page.press("r")
    page.clips()
    page.wait(lambda: "does not load" not in page.text)
    assert not store.events_after()
    page.answer(DOWN)


def test_a_break_is_proposed_after_long_work_and_can_be_waved_away(store, serve, visit, make_queries):
    store.add_queries(make_queries(20))
    page = visit("about:blank")
    clock = (
        "window.ahead = 0; const now = performance.now.bind(performance); performance.now = () => now() + window.ahead"
    )
    script = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": clock})
    try:
        page.driver.get(serve())
        hidden, minutes = "return document.getElementById('break').hidden", "return performance.now() / 60000"
        # By the page's own clock, which goes on while a busy machine is slow.
        opened = page.run(minutes)
        for _ in range(18):
            before = page.run(minutes)
            page.answer(LEFT)
            if not page.run(hidden):
                break
            assert before - opened < 25
            page.run("window.ahead += 1.5 * 60000")
        assert not page.run(hidden)
        assert page.run(minutes) >= 25
        page.click("#break-off")
        assert page.run(hidden)
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
