"""A benchmark's report in a browser: no sideways scrolling, and everything is reached by keyboard."""

from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
WIDER = """return [document.documentElement, ...document.querySelectorAll(".wide")]
    .filter(e => e.scrollWidth > innerWidth).length"""


@pytest.mark.parametrize("name", ["demo", "cpu"])
def test_a_report_fits_the_window_and_works_by_keyboard(name: str, first_browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def resize(width: int) -> None:
        first_browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )

    resize(1200)
    first_browser.get((RESULTS / name / "report.html").as_uri())
    assert first_browser.execute_script(WIDER) == 0
    resize(390)
    assert first_browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    if name == "cpu":
        return
    reached = []
    for _ in range(24):
        ActionChains(first_browser).send_keys(Keys.TAB).perform()
        reached.append(first_browser.execute_script("return document.activeElement.tagName"))
    assert reached[0] == "A"
    assert {"A", "DIV", "SUMMARY"} <= set(reached)  # links, tables that scroll, what is folded away
    first_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
