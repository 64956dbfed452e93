"""What a lab asks for beside the choice, in headless Chromium: strength, reasons, ranked lists, practice, a manager."""

from concurrent.futures import Future

import pytest

from prefenvs.oracles import HumanOracle
from prefenvs.oracles.labelling import Clips, Form
from prefenvs.oracles.people.gold import list_gold, make_gold
from prefenvs.oracles.people.ranking import list_rankings
from prefenvs.store import issue_manager_token, issue_token

from ..conftest import SHOWN, Page

LEFT, RIGHT = "\ue012", "\ue014"


def press_with_shift(page, key: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    ActionChains(page.driver, duration=0).key_down(Keys.SHIFT).send_keys(key).key_up(Keys.SHIFT).perform()


def click_row(page, action: str) -> None:
    """Press a button of the table, which is made anew whenever what it says changes."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    def pressed() -> bool:
        try:
            page.click(f"[data-act='{action}']")
        except (NoSuchElementException, StaleElementReferenceException):
            return False
        return True

    page.wait(pressed)


def test_much_better_both_bad_and_reasons(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(5))
    page = visit(serve(form=Form(strength=True, tags=("falls", "too slow"))))
    before, first = page.question()
    page.press("7")
    press_with_shift(page, RIGHT)
    page.wait(lambda: page.run(f"return {SHOWN}") != before)
    page.answer(LEFT)
    page.answer("b")
    page.clips()
    page.click("[data-answer=much-0]")
    much, better, bad, left = wait_for_events(4)
    query = store.find_queries([much.query])[much.query]
    assert query.segments[much.probabilities.index(0.97)].hash == first[1]
    assert (much.extra["strength"], much.extra["tags"]) == ("much", ["too slow"])
    assert (max(better.probabilities), better.extra["strength"], "tags" in better.extra) == (0.85, "better", False)
    assert (bad.probabilities, bad.extra["bad"], "strength" in bad.extra) == ((0.5, 0.5), True, False)
    assert max(left.probabilities) == 0.97
    # What was given comes back with its question.
    for _ in range(4):
        page.press("u")
    assert page.clips() == first
    assert page.run("return [...document.querySelectorAll('#tags [aria-pressed=true]')].map(b => b.dataset.tag)") == [
        "too slow"
    ]


def test_without_strength_shift_is_a_plain_answer(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(2))
    page = visit(serve())
    page.clips()
    assert "Much" not in page.text
    press_with_shift(page, RIGHT)
    (event,) = wait_for_events(1)
    assert (max(event.probabilities), "strength" in event.extra) == (1.0, False)


def test_a_list_is_ranked_by_what_the_page_asks(store, serve, visit, make_queries):
    store.add_queries(make_queries(2), run="r")
    page = visit(serve(kind="ranking"))
    while page.wait(
        lambda: "All done" in page.text or page.run("return document.querySelector('.clips.seen') !== null")
    ):
        if "All done" in page.text:
            break
        before, clips = page.question()
        page.press(LEFT if clips[0] > clips[1] else RIGHT)
        page.wait(lambda before=before: page.run(f"return {SHOWN}") != before)
    (ranked,) = list_rankings(store, "r", store.events_after(run="r"))
    assert ranked.pair is None
    keys = [key for (key,) in ranked.groups]
    assert (len(keys), keys) == (4, sorted(keys))


def test_practice_says_what_is_right(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(8))
    make_gold(store, 2)
    gold = list_gold(store)
    page = visit(serve(tutorial=2))
    page.wait(lambda: "Practice:" in page.text)
    for wrong in (False, True):
        clips = page.clips()
        queries = store.find_queries(gold)
        (right,) = [
            query.segments[gold[key].index(1.0)].hash for key, query in queries.items()
            if {segment.hash for segment in query.segments} == set(clips)
        ]  # fmt: skip
        page.answer(RIGHT if (clips[1] == right) != wrong else LEFT)
        told = page.run("return document.getElementById('feedback').textContent")
        assert ("is better”, not “" in told) if wrong else told == "Right."
    page.clips()
    assert "Practice:" not in page.text
    page.answer(LEFT)
    assert page.run("return document.getElementById('feedback').hidden")
    assert {event.run for event in wait_for_events(5)} == {"gold", "tutorial", ""}


def test_practice_comes_first_even_where_its_clips_are_made_later(store, serve, visit, make_queries, monkeypatch):
    store.add_queries(make_queries(8))
    make_gold(store, 2)
    practice = {segment.hash for query in store.find_queries(list_gold(store)).values() for segment in query.segments}
    asked, free, path = [], set(), Clips.path

    def stall(clips, key, look):
        found = path(clips, key, look)
        if key not in practice - free:
            return found
        asked.append((key, found, Future()))
        return asked[-1][2]

    def hand_out(keys):
        free.update(keys)
        for key, found, promised in asked:
            if key in keys and not promised.done():
                promised.set_result(found.result())

    monkeypatch.setattr(Clips, "path", stall)
    page = visit(serve(tutorial=2))
    page.wait(lambda: len(asked) == 4)
    sources = page.run(f"return [...{SHOWN}.querySelectorAll('video')].map(v => v.src)")
    hand_out({key for key in practice if any(key in source for source in sources)})
    loaded = "e => [...e.querySelectorAll('video')].every(v => v.readyState > 2)"
    page.wait(lambda: page.run(f"return [...document.querySelectorAll('.clips:not(.shown)')].some({loaded})"))
    page.answer(LEFT)
    assert page.run(f"return {SHOWN}.querySelectorAll('.loading').length") == 2
    hand_out(practice)
    assert set(page.clips()) < practice


def test_a_manager_pauses_discards_and_restores(store, serve, visit, make_browser, make_queries):
    store.add_queries(make_queries(6))
    url = serve(None)
    page = visit(f"{url}?token={issue_token(store, 'ann')}")
    page.answer(LEFT)
    page.wait(lambda: len(store.preferences()) == 1)
    assert page.run("return document.getElementById('manage').offsetWidth") == 0
    lab = Page(make_browser(), f"{url}?token={issue_manager_token(store, 'lab')}")
    assert lab.run("return location.pathname") == "/manager"
    lab.wait(lambda: lab.run("return document.querySelector(\"[data-act='discard ann']\") !== null"))
    lab.click("#pause")
    page.wait(lambda: "paused the labelling" in page.text)
    lab.click("#pause")
    page.clips()
    click_row(lab, "discard ann")
    lab.driver.switch_to.alert.accept()
    lab.wait(lambda: "1 answer of ann is discarded" in lab.text)
    assert store.preferences() == []
    click_row(lab, "restore ann")
    lab.wait(lambda: "1 answer of ann counts again" in lab.text)
    assert len(store.preferences()) == 1
    click_row(lab, "revoke ann")
    page.wait(lambda: "not signed in" in page.banner)
    # Whoever is new gets a link here too, and nobody else gets in.
    lab.driver.find_element("id", "newcomer").send_keys("dora\n")
    lab.wait(lambda: f"dora labels at {url}?token=" in lab.text)
    other = visit(f"{url}?token={issue_token(store, 'bob')}")
    other.driver.get(f"{url}manager")
    assert "Not for you" in other.text


def test_the_moment_that_decided_becomes_a_question_of_its_own(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(1))
    page = visit(serve())
    first = page.clips()
    for key in (*20 * ",", *"....m", *"......m"):  # from the first frame on
        page.press(key)
    assert page.run("return document.getElementById('moment').textContent").strip() == "M 0.2 to 0.5 s"
    marked = page.run("return document.getElementById('marked').style.width")
    assert float(marked.removesuffix("%")) == pytest.approx(6 / 16 * 100, abs=0.5)
    page.press(LEFT)
    whole, part = wait_for_events(2)
    assert part.extra["moment_of"] == whole.id
    kept, cut = store.find_queries([whole.query])[whole.query], store.find_queries([part.query])[part.query]
    assert [(segment.start, len(segment)) for segment in cut.segments] == [(s.start + 4, 7) for s in kept.segments]
    assert (cut.segments[0].states == kept.segments[0].states[4:11]).all()
    assert kept.segments[whole.probabilities.index(1.0)].hash == first[0]
    assert part.probabilities == whole.probabilities
    answers = HumanOracle(store).collect()
    assert {answer.query.id: len(answer.query.segments[0]) for answer in answers} == {kept.id: 16, cut.id: 7}
    # It is one label, and falls with its answer; the mark comes back with the question.
    page.wait(lambda: "1 of 1 label" in page.text)
    page.press("u")
    assert page.clips() == first
    assert page.run("return document.getElementById('marked').hidden") is False
    wait_for_events(4)
    assert store.preferences() == []
    page.press("m")
    page.answer(LEFT)
    assert "moment" not in wait_for_events(5)[-1].extra


def test_the_best_of_seven_leaves_the_last_digits_to_reasons(store, serve, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(2, *[16] * 7))
    page = visit(serve(form=Form(tags=("falls",))))
    page.resize(1366, 768)
    shown = page.clips()
    assert len(shown) == 7
    assert page.run("return document.querySelector('#tags kbd').textContent") == "8"
    page.press("8")
    page.press("7")
    (event,) = wait_for_events(1)
    query = store.find_queries([event.query])[event.query]
    assert query.segments[event.probabilities.index(1.0)].hash == shown[6]
    assert event.extra["tags"] == ["falls"]
