"""The page in the browser's language, and what axe-core says of all pages, in headless Chromium."""

from collections.abc import Iterator

import pytest

from prefenvs.oracles.labelling import Form
from prefenvs.oracles.people.gold import make_gold

from ..conftest import Page

LEFT, ESCAPE = "\ue012", "\ue00c"


@pytest.fixture
def in_language(visit) -> Iterator[None]:
    """Let the browser ask for pages in a language."""
    page = visit("about:blank")
    agent = page.run("return navigator.userAgent")
    yield lambda language: page.driver.execute_cdp_cmd(
        "Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": language}
    )
    page.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent})


@pytest.mark.parametrize(
    ("language", "better", "undo", "figures", "done"),
    [
        ("de-AT,de;q=0.9", "Links ist besser", "Rückgängig", "1 von 1 Bewertung", "Alles erledigt"),
        ("fr", "Gauche est meilleur", "Annuler", "1 sur 1 évaluation", "Tout est fait"),
    ],
)
def test_a_question_is_asked_in_the_browsers_language(
    store, serve, visit, make_queries, wait_for_events, in_language, language, better, undo, figures, done
):
    store.add_queries(make_queries(1))
    in_language(language)
    page = visit(serve())
    page.clips()
    assert page.run("return document.documentElement.lang") == language[:2]
    assert better in page.text
    assert undo in page.text
    page.press(LEFT)
    page.wait(lambda: done in page.text and figures in page.text)
    assert page.run("return document.getElementById('announce').textContent").startswith(better)
    assert page.run("return document.getElementById('last').textContent").endswith(better)
    assert len(wait_for_events(1)) == 1
    page.driver.get(page.driver.current_url + "nowhere")
    assert page.run("return document.documentElement.lang") == language[:2]


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds on a page: the rules, and where they are broken."""
    from axe_core_python.selenium import Axe

    found = Axe().run(page.driver)["violations"]
    return [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found]


def test_axe_finds_nothing_on_any_page(store, serve, visit, make_queries):
    pytest.importorskip("axe_core_python")
    store.add_queries(make_queries(3, 100, 100))
    make_gold(store, 2)
    url = serve(form=Form(strength=True, tags=("falls", "too slow")))
    page = visit(url)
    page.clips()
    page.press("t")
    assert violations(page) == []
    page.press("?")
    assert violations(page) == []
    page.press(ESCAPE)
    for _ in range(3):
        page.press(LEFT)
        page.wait(lambda: page.run("return document.querySelector('.clips.shown.seen') || document.body.className"))
    page.wait(lambda: "All done" in page.text)
    assert violations(page) == []
    for path in ("manager", "judging", "report", "nowhere"):
        page.driver.get(url + path)
        if path == "manager":
            page.wait(lambda: page.run("return document.querySelector('#people tr') !== null"))
        assert violations(page) == []
