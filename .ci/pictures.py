"""Make the pictures of the labelling pages in docs/images, with headless Chromium: python .ci/pictures.py [NAME ...]"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
from PIL import Image

from prefenvs.oracles.labelling import fill_demo
from prefenvs.oracles.people.gold import list_gold, make_gold
from prefenvs.preferences import Query
from prefenvs.store import AssignmentPlan, Assignments, Event, Store, issue_token

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
WINDOW, SCREEN, UPRIGHT, ACROSS = (1366, 768), (1920, 1080), (390, 844), (844, 390)
SHOWN = "document.querySelector('.clips.shown.seen')"
LAB = ["--strength", "--tags", "falls", "too slow", "on its back"]
TRAIN = ["train", "pebble", "--task", "InvertedPendulum-v5", "--segment-length", "5", "--labels", "40"]
TRAIN += ["--per-session", "10", "--interact", "100", "--unsupervised-steps", "100", "--learning-starts", "100"]
TRAIN += ["--preset", "small", "--evaluate-every", "100000", "--no-progress"]
SECONDS = {"ann": 4.0, "bob": 1.2, "cleo": 5.5}  # that each simulated person looks at a question
CARE = {"ann": 0.92, "bob": 0.7, "cleo": 0.97}  # chance that each answers by the true return


class Page:
    """Chromium on one page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, url: str, size: tuple[int, int], dark: bool = False) -> None:
        """Show an address in a window of this size, in a dark or light scheme."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": min(size) < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # clips play once, which spares a busy machine
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        self.driver.get(url)

    def wait(self, script: str, seconds: float = 600.0) -> Any:
        """Wait until a script returns something true."""
        until = time.monotonic() + seconds
        while not (value := self.driver.execute_script(f"return {script}")):
            if time.monotonic() > until:
                text = self.driver.execute_script("return document.body.innerText")
                raise SystemExit(f"{script}: not within {seconds:.0f} s\n{text}")
            time.sleep(0.05)
        return value

    def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def stand(self, share: float) -> None:
        """Pause the clips at a share of their time."""
        self.wait(SHOWN)
        self.driver.execute_script(
            "const line = document.getElementById('timeline'); line.value = 1000 * arguments[0];"
            "line.dispatchEvent(new Event('input', { bubbles: true }));",
            share,
        )
        self.wait(f"[...{SHOWN}.querySelectorAll('video')].every(v => !v.seeking && v.readyState > 1)")
        time.sleep(0.5)

    def save(self, name: str, whole: bool = False) -> None:
        """Write what is on the screen, or the whole page with what lies below, in few colours."""
        if whole:
            height = int(self.driver.execute_script("return document.documentElement.scrollHeight"))
            metrics = {"width": WINDOW[0], "height": height, "deviceScaleFactor": 1, "mobile": False}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        picture = Image.open(BytesIO(self.driver.get_screenshot_as_png())).convert("RGB")
        path = IMAGES / f"label-{name}.png"
        picture.quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} KB")


@contextlib.contextmanager
def serve(*arguments: str) -> Iterator[str]:
    """Serve a page by a command of prefenvs, and return the link of whoever manages it."""
    command = [sys.executable, "-m", "prefenvs", *arguments, "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        text = ""
        while not (line := process.stdout.readline()).startswith("Ctrl-C"):
            if not line:
                raise SystemExit(f"{' '.join(command)}: ended with {process.wait()}")
            text += line
        yield re.findall(r"manages? at (http://\S+)", text)[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def answer(store: Store) -> None:
    """Let simulated people answer, several of them the same questions, some asked again and some of known answers."""
    rng, start = np.random.default_rng(0), time.time() - 1800
    assignments = Assignments(store, AssignmentPlan(overlap=0.5, repeats=0.1, gold=0.2), seed=0)
    gold = list_gold(store)
    for round_ in range(45):
        for name, seconds in SECONDS.items():
            for item in assignments.lease(name, 1):
                (query,) = store.find_queries([item.query or ""], with_true_rewards=True).values()
                returns = [float(s.true_rewards.sum()) for s in query.segments if s.true_rewards is not None]
                best = int(np.argmax(gold.get(str(item.query), returns)))
                if rng.random() > CARE[name]:
                    best = 1 - best
                chances = None if rng.random() < 0.03 else tuple(float(i == best) for i in range(2))
                kind = "repeat" if item.repeats else "comparison" if chances else "skip"
                extra = {"assignment": item.id} | ({"repeats": item.repeats} if item.repeats else {})
                event = Event(
                    kind,
                    item.query,
                    run=item.run,
                    probabilities=chances,
                    annotator=name,
                    oracle="human",
                    time=start + 30 * round_,
                    seconds=seconds * rng.uniform(0.6, 1.6),
                    shown=item.shown,
                    extra=extra,
                )
                refused = assignments.record(name, [event])
                assert not refused, refused


def take_labelling(page: Page, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Take the pictures of the labelling page."""
    clips = ["--clips", str(folder / "clips"), "--workers", "1"]
    pairs, fours = str(folder / "pairs.sqlite"), str(folder / "fours.sqlite")
    with Store(pairs) as store, Store(fours) as other:
        fill_demo(store, 3)
        segments = [s for q in store.pending_queries("demo", limit=2) for s in q.segments]
        other.add_queries([Query(tuple(segments))], run="demo")
    with serve("label", "--store", pairs, *clips) as link:
        url = urljoin(link, "/")
        for name, size in {"comparison": WINDOW, "1080p": SCREEN, "phone": UPRIGHT, "phone-across": ACROSS}.items():
            if wanted(name):
                page.open(url, size, dark=name == "phone")
                page.stand(0.4)
                page.save(name)
        if wanted("help"):
            page.open(url, WINDOW)
            page.stand(0.4)
            page.press("?")
            page.wait("document.getElementById('help').open")
            page.save("help")
    if wanted("best-of-four"):
        with serve("label", "--store", fours, *clips) as link:
            page.open(urljoin(link, "/"), WINDOW)
            page.stand(0.4)
            page.save("best-of-four")
    if wanted("strength"):
        with serve("label", "--store", pairs, *clips, *LAB) as link:
            page.open(urljoin(link, "/"), WINDOW)
            page.wait(SHOWN)
            page.press("\ue014")
            page.wait("document.getElementById('last').textContent")
            page.press("t")
            page.stand(0.3)
            page.press("m")
            page.stand(0.55)
            page.press("m", "6")
            page.save("strength")


def take_lab(page: Page, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Take the pictures of the manager's page and of the report."""
    path = str(folder / "people.sqlite")
    with Store(path) as store:
        fill_demo(store, 100)
        make_gold(store, 15)
        for name in SECONDS:
            issue_token(store, name)
        answer(store)
    with serve("label", "--store", path, "--clips", str(folder / "clips"), "--annotators", *SECONDS) as link:
        page.open(link, WINDOW)
        page.wait("document.querySelector('#people tr')")
        if wanted("manager"):
            page.save("manager", whole=True)
        if wanted("report"):
            page.open(urljoin(link, "/report"), WINDOW)
            page.save("report", whole=True)


def take_judging(page: Page, folder: Path) -> None:
    """Take the picture of a ranking: three runs of one task, judged by a simulated rater."""
    from prefenvs.cli import main

    runs = []
    for steps in (300, 1000, 2500):
        runs.append(str(folder / f"after-{steps}-steps"))
        main([*TRAIN, "--steps", str(steps), "--folder", runs[-1]])
    judging = str(folder / "judging")
    options = ["--folder", judging, "--episodes", "8", "--seconds", "2"]
    main(["judge", *runs, *options, "--matches", "40", "--oracle", "noisy", "--stop", "0.99"])
    with serve("judge", "--folder", judging, "--matches", "46", "--stop", "0.99", "--label") as link:
        page.open(urljoin(link, "/judging"), WINDOW)
        page.wait("document.querySelectorAll('#agents video').length === 3")
        page.wait("[...document.querySelectorAll('video')].every(v => v.readyState > 1)")
        page.save("judging", whole=True)


def main() -> None:
    """Take those pictures that are named, all by default."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    names = sys.argv[1:]

    def wanted(name: str) -> bool:
        return not names or name in names

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--lang=en"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    page = Page(driver)
    with contextlib.ExitStack() as stack:
        stack.callback(driver.quit)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lab = {"manager", "report"}
        if not names or set(names) - lab - {"judging"}:
            take_labelling(page, folder, wanted)
        if not names or lab & set(names):
            take_lab(page, folder, wanted)
        if wanted("judging"):
            take_judging(page, folder)


if __name__ == "__main__":
    main()
