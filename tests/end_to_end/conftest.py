"""A labelling server and people in front of real headless Chromium."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn

import prefenvs
from prefenvs.oracles.labelling import Access, Clips, Form, create_app
from prefenvs.preferences import Query
from prefenvs.store import AssignmentPlan, Event, Store
from prefenvs.trajectories import Trajectories, TrajectoryBuffer
from prefenvs.videos import ClipCache, Look

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOWN = "document.querySelector('.clips.shown')"
POSITIONS = f"return [...{SHOWN}.querySelectorAll('video')].map(v => v.currentTime)"


class Page:
    """One browser on the labelling page, and what a person does with it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url
        driver.get(url)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def wait(self, condition: Callable[[], Any], seconds: float = 60.0) -> Any:
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        return value

    @property
    def text(self) -> str:
        return str(self.run("return document.body.innerText"))

    @property
    def banner(self) -> str:
        """Text of the banner, empty while it is hidden."""
        return str(self.run("const b = document.getElementById('banner'); return b.hidden ? '' : b.innerText"))

    @property
    def unsent(self) -> int:
        return int(self.run("return Object.keys(localStorage).filter(key => key.includes('/answer/')).length"))

    def clips(self) -> tuple[str, ...]:
        """Hashes of the clips on show, from left to right, as soon as they can be judged."""
        return self.question()[1]

    def question(self) -> tuple[Any, tuple[str, ...]]:
        """Element of the question on show, as soon as it can be judged, and the hashes of its clips, at one time."""
        script = "const e = document.querySelector('.clips.shown.seen');"
        script += "return e && [e, [...e.querySelectorAll('video')].map(v => v.src)]"
        element, urls = self.wait(lambda: self.run(script))
        return element, tuple(url.rsplit("/", 1)[1].removesuffix(".mp4") for url in urls)

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver, duration=0).send_keys(key).perform()

    def answer(self, key: str) -> tuple[str, ...]:
        """Answer by a key, wait for what comes next, and return the hashes of the clips that were answered."""
        before, clips = self.question()
        self.press(key)
        self.wait(lambda: self.run(f"return {SHOWN}") != before)
        return clips

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def offline(self, off: bool) -> None:
        self.driver.execute_cdp_cmd("Network.enable", {})
        limits = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", limits)

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_until_loaded(page: Page, clips: int) -> None:
    """Wait until so many clips, on show or behind it, could be played to their end."""
    loaded = "[...document.querySelectorAll('video')].filter(video => video.readyState > 2).length"
    page.wait(lambda: page.run(f"return {loaded}") == clips)


@pytest.fixture(scope="session")
def make_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Any]]:
    """Start a Chromium with a profile of its own, as another person's."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("chromium and chromedriver are not installed (apt-get install chromium chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with contextlib.ExitStack() as stack:

        def start() -> Any:
            options = webdriver.ChromeOptions()
            options.binary_location = chromium
            for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
                options.add_argument(flag)
            options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
            driver = webdriver.Chrome(options=options, service=Service(chromedriver))
            stack.callback(driver.quit)
            return driver

        yield start


@pytest.fixture(scope="session")
def first_browser(make_browser: Callable[[], Any]) -> Any:
    return make_browser()


@pytest.fixture
def visit(first_browser: Any) -> Iterator[Callable[[str], Page]]:
    """Open an address as a person who has never been there; afterwards, nothing may have offended the page's policy."""
    first_browser.execute_cdp_cmd("Network.clearBrowserCookies", {})
    first_browser.get_log("browser")
    first_browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    yield lambda url: Page(first_browser, url)
    messages = [line["message"] for line in first_browser.get_log("browser")]
    first_browser.get("about:blank")
    assert not [line for line in messages if "Content Security Policy" in line or "Uncaught" in line]


@pytest.fixture(scope="session")
def cheetahs() -> Trajectories:
    """Four short episodes of random actions."""
    buffer = TrajectoryBuffer(task="HalfCheetah-v5", source="test", max_episodes=None)
    env = prefenvs.make("HalfCheetah-v5")
    env.action_space.seed(0)
    for episode in range(4):
        observation, info = env.reset(seed=episode)
        for step in range(110):
            action, state = env.action_space.sample(), info["state"]
            following, _, _, _, info = env.step(action)
            buffer.add_step(0, observation, action, info["true_reward"], state, done=step == 109)
            observation = following
    env.close()
    return buffer.trajectories()


@pytest.fixture
def make_queries(cheetahs: Trajectories, clips: ClipCache) -> Callable[..., list[Query]]:
    """Return `count` different questions about clips of these lengths in steps, with the clips made."""

    def make(count: int, *lengths: int) -> list[Query]:
        rng = np.random.default_rng(count)
        queries = []
        for number in range(count):
            cut = [cheetahs.cut(rng.integers(4, size=1), np.array([number]), n)[0] for n in lengths or (16, 16)]
            queries.append(Query(tuple(cut)))
        clips.render(segment for query in queries for segment in query.segments)
        return queries

    return make


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the clips of all tests lie: most show the same ones, which need not be rendered again each time."""
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def clips(clip_folder: Path) -> Iterator[ClipCache]:
    """Clips as the servers show them: on a busy machine, a page waits long for a process that renders."""
    with ClipCache(clip_folder, Look(size=64)) as cache:
        yield cache


@pytest.fixture
def serve(store: Store, clip_folder: Path) -> Iterator[Callable[..., str]]:
    """Serve the store from a thread and return the address."""
    with contextlib.ExitStack() as stack:

        def start(open_to: str | None = "ann", form: Form | None = None, **plan: Any) -> str:
            clips = Clips(store, clip_folder, size=64)
            app = create_app(store, Access(store, open_to), clips, AssignmentPlan(**{"repeats": 0.0} | plan), form=form)
            config = uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run)
            thread.start()

            def stop() -> None:
                server.should_exit = True
                thread.join()

            stack.callback(stop)
            while not server.started:
                time.sleep(0.01)
            return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"

        yield start


@pytest.fixture
def serve_apart(tmp_path: Path, clip_folder: Path) -> Iterator[Callable[..., tuple[Any, str]]]:
    """Serve a store from a process of its own, which can be killed; returns the process and its address."""
    processes = []

    def start(port: int = 0, location: str = "") -> tuple[Any, str]:
        location = location or str(tmp_path / "labels.sqlite")
        options = ["--store", location, "--port", str(port), "--repeats", "0", "--size", "64"]
        options += ["--clips", str(clip_folder)]
        command = [sys.executable, "-m", "prefenvs", "label", *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("label at "):
                return process, line.split()[-1]
        raise AssertionError(f"the server ended with {process.wait()}")

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def wait_for_events(store: Store) -> Callable[[int], list[Event]]:
    """Wait until the store's log has so many events, and return them."""

    def wait(count: int) -> list[Event]:
        deadline = time.monotonic() + 60
        while len(events := store.events_after()) < count:
            assert time.monotonic() < deadline, events
            time.sleep(0.02)
        return events

    return wait
