"""How clips lie in the window, and keys, focus and names for those who do not use a mouse, in headless Chromium."""

import pytest

from prefenvs.oracles.labelling import Form

from ..conftest import SHOWN

LEFT, RIGHT, TAB, ENTER, ESCAPE = "\ue012", "\ue014", "\ue004", "\ue007", "\ue00c"
RECTANGLES = "map(e => e.getBoundingClientRect()).map(b => [b.x, b.y, b.width])"
BOXES = f"return [...{SHOWN}.querySelectorAll('.picture')].{RECTANGLES}"
FOCUSED = "const e = document.activeElement; return e.dataset.answer ?? (e.id || e.tagName)"

FOLLOWING = "return document.getElementById('answers').nextElementSibling.id"


# Of each text on the page, how its colour stands out from what is behind it.
CONTRAST = r"""
const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const light = (color) => {
  const [r, g, b] = color.match(/[\d.]+/g).slice(0, 3).map(Number).map(linear);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  for (let e = node; e; e = e.parentElement) {
    const color = getComputedStyle(e).backgroundColor;
    if (!/, 0\)$/.test(color)) return color;
  }
  return "rgb(255, 255, 255)";
};
return [...document.querySelectorAll("h1, .about, button, label, #done")]
  .filter((e) => e.offsetWidth && e.ariaDisabled !== "true")
  .map((e) => [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x))
  .map(([high, low]) => (high + 0.05) / (low + 0.05));
"""


def send_key(page, key: str, code: str, **more) -> None:
    """Press a key as a keyboard of another layout does: what it types, and where it is."""
    event = {"key": key, "code": code} | more
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown"} | event)
    page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp"} | event)


@pytest.mark.parametrize(("width", "height", "least"), [(1366, 768, 600), (1366, 600, 440), (1920, 1080, 900)])
def test_clips_are_as_large_as_the_window_allows(store, serve, visit, make_queries, width, height, least):
    store.add_queries(make_queries(1))
    page = visit("about:blank")
    page.resize(width, height)
    page.driver.get(serve())
    page.clips()
    assert min(box[2] for box in page.run(BOXES)) >= least
    assert page.run("return document.documentElement.scrollHeight") <= height


def test_at_200_percent_nothing_covers_an_answer(store, serve, visit, make_queries):
    store.add_queries(make_queries(1))
    page = visit(serve(form=Form(strength=True, tags=("falls", "too slow"))))
    page.resize(683, 384)  # 1366 x 768
    page.clips()
    page.press("t")
    inside = "const box = (s) => document.querySelector(s).getBoundingClientRect();"
    bar, foot, wide = page.run(
        f"{inside} return [box('.bar').bottom, box('footer').top, document.documentElement.scrollWidth]"
    )
    assert bar <= foot
    assert wide <= 683
    assert min(box[2] for box in page.run(BOXES)) >= 120


def test_clips_are_stacked_in_portrait_and_named_so(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(2))
    page = visit(serve())
    page.resize(390, 844)
    page.clips()
    page.wait(lambda: "Upper is better" in page.text)
    upper, lower = page.run(BOXES)
    assert lower[1] > upper[1] + upper[2] - 1
    assert min(upper[2], lower[2]) > 240
    page.resize(844, 390)
    page.wait(lambda: "Left is better" in page.text)
    left, right = page.run(BOXES)
    assert (left[1], right[0] > left[0]) == (right[1], True)


def test_the_chosen_side_lights_up(store, serve, visit, make_queries):
    store.add_queries(make_queries(2))
    page = visit(serve())
    page.clips()
    chosen = page.run(BOXES)[1]
    page.run(
        "window.marks = [];"
        "const look = (node) => { if (node.className === 'flash') marks.push(node.getBoundingClientRect().x); };"
        "new MutationObserver(found => { for (const { addedNodes } of found) addedNodes.forEach(look); })"
        ".observe(document.getElementById('stage'), { childList: true })"
    )
    page.answer(RIGHT)
    assert page.wait(lambda: page.run("return window.marks")) == pytest.approx([chosen[0]], abs=1)


def test_a_long_clip_has_key_frames_that_lead_to_their_moment(store, serve, visit, make_queries):
    store.add_queries(make_queries(1, 100, 16))
    page = visit(serve())
    page.clips()
    drawn = (
        f"return [...{SHOWN}.querySelectorAll('.strip canvas')].map(c => "
        "c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0 && v < 255))"
    )
    page.wait(lambda: len(found := page.run(drawn)) == 12 and all(found))
    page.run(f"{SHOWN}.querySelectorAll('.strip button')[3].click()")
    positions = page.run(f"return [...{SHOWN}.querySelectorAll('video')].map(v => [v.currentTime, v.duration])")
    assert max(at / duration for at, duration in positions) > 0.5


def test_with_reduced_motion_clips_play_once(store, serve, visit, make_queries):
    store.add_queries(make_queries(1))
    page = visit("about:blank")
    reduced = {"features": [{"name": "prefers-reduced-motion", "value": "reduce"}]}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", reduced)
    try:
        page.driver.get(serve())
        page.clips()
        page.wait(lambda: page.run("return document.querySelector('#timeline').value") == "1000")
        page.press("r")
        page.wait(lambda: page.run("return document.querySelector('#timeline').value") != "1000")
        page.wait(lambda: page.run("return document.querySelector('#timeline').value") == "1000")
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_keys_of_other_layouts_count_by_their_place(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(3))
    page = visit(serve())
    first = page.clips()
    send_key(page, "&", "Digit1")  # the first digit of a French keyboard
    page.wait(lambda: page.run(f"return {SHOWN}?.querySelector('video').src.includes('{first[0]}')") is False)
    page.clips()
    send_key(page, "г", "KeyU")  # U of a Russian one
    assert page.clips() == first
    send_key(page, "p", "KeyR")  # a letter of its own that means nothing here: R of a Dvorak keyboard
    assert [event.kind for event in wait_for_events(2)] == ["comparison", "undo"]
    assert page.run("return document.querySelector('#undo').ariaDisabled") == "true"


def test_a_key_can_be_given_to_another_action(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(3))
    page = visit(serve())
    shown = page.clips()
    try:
        page.press("?")
        page.click("[data-change=right]")
        page.press("u")
        assert "is taken" in page.driver.find_element("id", "keys-text").text
        page.click("[data-change=right]")
        send_key(page, "PageDown", "PageDown")  # what a foot pedal or a presenter sends
        page.click("[data-change=replay]")
        page.press("y")
        page.click("[data-change=reason]")
        page.press("z")
        page.press(ESCAPE)
        page.driver.refresh()
        assert page.clips() == shown
        # Whatever names a key names the one that was chosen.
        assert "“Replay” (Y) tries again" in page.run(f"return {SHOWN}.querySelector('.failed').textContent")
        assert page.run("return document.getElementById('reason').getAttribute('aria-keyshortcuts')") == "Z"
        page.press(RIGHT)
        assert page.clips() == shown
        send_key(page, "PageDown", "PageDown")
        (event,) = wait_for_events(1)
        query = store.find_queries([event.query])[event.query]
        assert query.segments[event.probabilities.index(1.0)].hash == shown[1]
    finally:
        page.run("localStorage.removeItem('prefenvs/keys')")


def test_tab_follows_the_screen_and_focus_never_drops(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(2))
    page = visit(serve())
    for width, height, after in ((1366, 768, "more"), (360, 740, "undo")):
        page.resize(width, height)
        page.clips()
        page.wait(lambda after=after: page.run(FOLLOWING) == after)
        places = page.run(f"return [...document.querySelectorAll('.bar button')].{RECTANGLES}")
        assert places == sorted(places, key=lambda at: (round(at[1] / 20), at[0]))
    page.run("document.querySelector('[data-answer=\"1\"]').focus()")
    page.resize(1366, 768)  # as a phone that is turned: the answers come to lie otherwise
    page.wait(lambda: page.run(FOLLOWING) == "more")
    assert page.run(FOCUSED) == "1"
    page.answer(ENTER)
    page.clips()
    assert page.run(FOCUSED) == "1"
    page.press(ENTER)
    page.wait(lambda: "All done" in page.text)
    assert page.run(FOCUSED) == "message"
    # The last answer can be taken back by a finger too, once for a double tap, and the focus is not left on the button.
    tap = "document.getElementById('undo').dispatchEvent(new MouseEvent('click', { bubbles: true, detail: 1 }));"
    page.run(tap + tap)
    page.clips()
    assert page.run(FOCUSED) == "stage"
    page.click("#more")
    page.run("document.getElementById('reason').focus()")
    page.press(ENTER)
    assert page.run(FOCUSED) == "stage"
    assert [event.kind for event in wait_for_events(3)] == ["comparison", "comparison", "undo"]


def test_all_that_can_be_used_has_a_name(store, serve, visit, make_queries):
    """What a screen reader is told, by Chromium's own tree; no two controls of a group are called alike."""
    store.add_queries(make_queries(2, 100, 100))
    page = visit(serve())
    page.clips()
    page.press("t")
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    used = ("button", "slider", "textbox", "link", "group", "Video", "progressbar")
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    seen = [item for item in told if item[0] in used]
    assert {role for role, _ in seen} >= {"button", "textbox", "Video"}
    assert [role for role, name in seen if not name.strip()] == []
    page.answer(LEFT)
    assert page.run("return document.getElementById('announce').textContent") == "Left is better. Next question."
    assert page.run("return document.querySelectorAll('[role=status], [role=alert]').length") >= 3
    # Outlines show where the focus is, and texts stand out: 4.5 to 1 as WCAG 2 asks.
    assert min(page.run(CONTRAST)) >= 4.5
