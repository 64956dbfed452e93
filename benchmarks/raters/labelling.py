"""What one labelling server bears: 50 annotators at once, over HTTP on this computer, on a SQLite file.

    python -m benchmarks.raters.labelling [--annotators 50] [--seconds 10] [--browsers 5] [--reaction 1.0] [--cold]

The server is `prefenvs label` in a process of its own; the annotators share another one with the measurement. Each acts
as the page does: it keeps five questions, posts an answer, asks for the next question, and fetches that one's clips
(made beforehand: `rendering` measures that). Two runs, timed once everybody has the first five: "pace" with a label
every 3.6 s each, which is the thousand an hour that a practised person gives, and "flat out" without a pause. Latencies
are those of answers, which are on the disk when the reply comes, and of questions. Afterwards the log is compared with
what was accepted, and the questions with each other.

With --browsers so many real headless Chromiums label beside them at that pace, in a run without a second one, and at a
lower priority, since people bring computers of their own: each presses a key `--reaction` seconds after both clips are
there, again until the page takes it. Printed are their labels an hour since the first pair, the time from opening the
link to that pair, and from a key to the first new frames on the screen. `--annotators 0` leaves them alone. `--cold`
asks about clips of 2.5 s, 256 pixels wide, none of which is made beforehand.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro

from prefenvs.oracles.labelling import Clips, fill_demo
from prefenvs.preferences import Query
from prefenvs.segments import Segment
from prefenvs.store import Store

SEGMENTS, COLD_PAIRS = 150, 200
PACE = 3.6
NICE = 10
# With reduced motion clips play once, so that one computer can play those of several people.
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--force-prefers-reduced-motion")  # fmt: skip
PERSON = """
window.given = 0;
window.first = null;
const press = (type) => document.body.dispatchEvent(new KeyboardEvent(type, { key: "ArrowLeft", bubbles: true }));
let judged = null, since = null;
setInterval(() => {
  const shown = document.querySelector(".clips.shown");
  if (shown !== judged) {
    if (judged && since !== null) window.given += 1;
    [judged, since] = [shown, null];
  }
  if (!shown || [...shown.querySelectorAll("video")].some((video) => video.readyState < 2)) return;
  window.first ??= performance.now();
  since ??= performance.now();
  if (performance.now() - since >= arguments[0]) { press("keydown"); press("keyup"); }
}, 10);
"""


@dataclass
class Record:
    """What the annotators saw."""

    answers: list[float] = field(default_factory=list)
    questions: list[float] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)


def fill(path: Path, folder: Path, cold: bool) -> None:
    """Ask every pair of short segments and make their clips, or ask what `label --demo` does, with none made."""
    with Store(path) as store:
        if cold:
            fill_demo(store, COLD_PAIRS)
            return
        rng = np.random.default_rng(0)
        segments = [Segment(rng.random((8, 17)), rng.random((8, 6)), task="HalfCheetah-v5") for _ in range(SEGMENTS)]
        store.add_queries(Query(pair) for pair in itertools.combinations(segments, 2))
        with Clips(store, folder, size=64) as clips:
            for future in [clips.path(segment.hash) for segment in segments]:
                future.result()


async def timed(times: list[float], call: Any) -> httpx.Response:
    begun = time.perf_counter()
    response: httpx.Response = await call
    times.append(time.perf_counter() - begun)
    response.raise_for_status()
    return response


class Annotator:
    """One person's page."""

    def __init__(self, link: str) -> None:
        self.link, self.url = link, link.split("?")[0]
        # No certificates to load: it is plain HTTP on this computer.
        self.http = httpx.AsyncClient(follow_redirects=True, timeout=60, verify=False, trust_env=False)
        self.headers: dict[str, str] = {}
        self.held: list[dict[str, Any]] = []

    async def enter(self) -> None:
        """Open the link and read the session."""
        await self.http.get(self.link)
        self.headers = {"X-CSRF": (await self.http.get(f"{self.url}api/session")).json()["csrf"]}

    async def take(self, record: Record, until: float = float("inf")) -> None:
        """Have five questions at hand, with their clips."""
        wanted = {"count": str(5 - len(self.held)), "holding": ",".join(question["id"] for question in self.held)}
        reply = await timed(record.questions, self.http.get(f"{self.url}api/next", params=wanted))
        for question in reply.json()["questions"]:
            record.given[question["id"]] = question["query"]
            self.held.append(question)
            for clip in question["clips"]:
                if time.perf_counter() < until:
                    await timed(record.clips, self.http.get(self.url + clip["url"][1:]))

    async def label(self, seconds: float, pause: float, record: Record) -> None:
        """Answer until the time is up."""
        until = time.perf_counter() + seconds
        await asyncio.sleep(random.random() * pause)
        while self.held and (begun := time.perf_counter()) < until:
            answer = {"uuid": str(uuid.uuid4()), "question": self.held.pop(0)["id"], "choice": 0, "seconds": 1.0}
            post = self.http.post(f"{self.url}api/answers", json={"answers": [answer]}, headers=self.headers)
            record.accepted += (await timed(record.answers, post)).json()["accepted"]
            await self.take(record, until)
            await asyncio.sleep(max(0.0, pause - (time.perf_counter() - begun)))


async def label(links: list[str], seconds: float, pause: float, record: Record) -> float:
    """Let everybody in, with five questions each, then label; return how long the labelling took in seconds."""
    people = [Annotator(link) for link in links]
    before = Record(given=record.given)
    for person in people:
        await person.enter()
        await person.take(before)
    begun = time.perf_counter()
    await asyncio.gather(*(person.label(seconds, pause, record) for person in people))
    taken = time.perf_counter() - begun
    for person in people:
        await person.http.aclose()
    return taken


class Browser:
    """One person at a real browser."""

    def __init__(self) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        for flag in FLAGS:
            options.add_argument(flag)
        service = Service(shutil.which("chromedriver"), popen_kw={"preexec_fn": lambda: os.nice(NICE)})
        self.driver = webdriver.Chrome(options=options, service=service)

    def enter(self, link: str, reaction: float) -> None:
        """Open the link and label from then on, each pair so many seconds after it is there."""
        self.driver.get(link)
        self.driver.execute_script(PERSON, 1000 * reaction)

    def leave(self) -> tuple[float, float, list[float]]:
        """Return labels an hour since the first pair, seconds to that pair, and seconds of each change of questions."""
        given, first, now, swaps = self.driver.execute_script(
            "return [window.given, window.first, performance.now(),"
            " performance.getEntriesByName('swap').map((entry) => entry.duration)]"
        )
        first = float("nan") if first is None else first
        return 3.6e6 * given / (now - first), first / 1000, [milliseconds / 1000 for milliseconds in swaps]


def report_browsers(found: list[tuple[float, float, list[float]]]) -> None:
    """Print what people at browsers got done."""
    rates = [rate for rate, _, _ in found]
    print(
        f"  {len(found)} browsers: {np.mean(rates):,.0f} labels an hour each ({min(rates):,.0f} to {max(rates):,.0f})"
    )
    print(f"  first pair after {np.median([first for _, first, _ in found]):.2f} s (median)")
    if changes := [swap for _, _, swaps in found for swap in swaps[1:]]:
        print(f"  key to new frames  {percentiles(changes)}")


def serve(path: Path, folder: Path, annotators: int, size: int = 64) -> tuple[subprocess.Popen[str], list[str]]:
    """Start the server and return its process and the annotators' links."""
    names = [f"annotator-{i}" for i in range(annotators)]
    options = ["--store", str(path), "--port", "0", "--repeats", "0", "--size", str(size), "--clips", str(folder)]
    command = [sys.executable, "-m", "prefenvs", "label", *options, "--annotators", *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = itertools.takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout)
    links = [line.split()[-1] for line in lines if " labels at " in line]
    return process, links


def percentiles(times: list[float]) -> str:
    if not times:
        return "none"
    low, high = np.percentile(times, [50, 99]) * 1000
    return f"median {low:6.1f} ms, 99th percentile {high:6.1f} ms"


def report(name: str, record: Record, seconds: float, path: Path) -> None:
    """Print rates and latencies, and compare what was accepted with the log."""
    requests = len(record.answers) + len(record.questions) + len(record.clips)
    print(f"{name}: {requests / seconds:.0f} requests/s, {len(record.accepted) / seconds:.1f} labels/s")
    for what in ("answers", "questions", "clips"):
        print(f"  {what:9} {len(getattr(record, what)):6}  {percentiles(getattr(record, what))}")
    with Store(path) as store:
        stored = {event.id for event in store.events_after()}
    twice = sum(count > 1 for count in Counter(record.given.values()).values())
    lost = len(set(record.accepted) - stored)
    print(f"  labels lost: {lost} of {len(record.accepted)}; questions given to two people: {twice}")
    if lost or twice:
        raise SystemExit(1)


async def wait(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def run(
    annotators: int = 50, seconds: float = 10.0, browsers: int = 0, reaction: float = 1.0, cold: bool = False
) -> None:
    """Measure.

    Args:
        annotators: People at once.
        seconds: Length of each of the two runs.
        browsers: Real browsers beside them, in one run at their pace.
        reaction: Seconds that those look at a pair.
        cold: Make no clip beforehand.
    """
    load, machine = os.getloadavg()[0], f"{platform.machine()}, Python {platform.python_version()}"
    print(f"{machine}, load {load:.1f}; {annotators} annotators, {browsers} browsers, {seconds:.0f} s each run")
    for name, pause in (("pace", PACE), ("flat out", 0.0))[: 1 if browsers else 2]:
        with tempfile.TemporaryDirectory() as folder:
            path, clips = Path(folder) / "labels.sqlite", Path(folder) / "clips"
            fill(path, clips, cold)
            with ThreadPoolExecutor() as threads:
                people = list(threads.map(lambda _: Browser(), range(browsers)))
            process, links = serve(path, clips, annotators + len(people), 256 if cold else 64)
            record = Record()
            try:
                with ThreadPoolExecutor() as threads:
                    list(threads.map(lambda pair: pair[0].enter(pair[1], reaction), zip(people, links, strict=False)))
                work = label(links[len(people) :], seconds, pause, record) if annotators else wait(seconds)
                taken = asyncio.run(work)
                found = [person.leave() for person in people]
            finally:
                for person in people:
                    person.driver.quit()
                process.send_signal(signal.SIGINT)
                process.wait()
            if annotators:
                report(name, record, taken, path)
            if found:
                report_browsers(found)


if __name__ == "__main__":
    tyro.cli(run)
