"""What one labelling server bears: 50 annotators at once, over HTTP on this computer, on a SQLite file.

    python -m benchmarks.raters.labelling [--annotators 50] [--seconds 10]

The server is `prefenvs label` in a process of its own; the annotators share another one with the measurement. Each acts
as the page does: it keeps five questions, posts an answer, asks for the next question, and fetches that one's clips
(made beforehand: `rendering` measures that). Two runs: "pace" with a label every 3.6 s each,
which is the thousand an hour that a practised person gives, and "flat out" without a pause. Latencies are those of
answers, which are on the disk when the reply comes, and of questions. Afterwards the log is compared with what was
accepted, and the questions with each other.
"""

from __future__ import annotations

import asyncio
import itertools
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tyro

from prefenvs.oracles.labelling import Clips
from prefenvs.preferences import Query
from prefenvs.segments import Segment
from prefenvs.store import Store

SEGMENTS = 300
PACE = 3.6


@dataclass
class Record:
    """What the annotators saw."""

    answers: list[float] = field(default_factory=list)
    questions: list[float] = field(default_factory=list)
    clips: list[float] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)


def fill(path: Path, folder: Path) -> None:
    """Ask every pair of 300 short segments, and make their clips."""
    rng = np.random.default_rng(0)
    task = "HalfCheetah-v5"
    segments = [Segment(rng.random((8, 17)), rng.random((8, 6)), task=task) for _ in range(SEGMENTS)]
    with Store(path) as store, Clips(store, folder, size=64) as clips:
        store.add_queries(Query(pair) for pair in itertools.combinations(segments, 2))
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

    async def enter(self) -> None:
        """Open the link and read the session."""
        await self.http.get(self.link)
        self.headers = {"X-CSRF": (await self.http.get(f"{self.url}api/session")).json()["csrf"]}

    async def label(self, seconds: float, pause: float, record: Record) -> None:
        """Answer until the time is up."""
        until = time.perf_counter() + seconds
        held: list[dict[str, Any]] = []
        await asyncio.sleep(random.random() * pause)
        while (begun := time.perf_counter()) < until:
            wanted = {"count": str(5 - len(held)), "holding": ",".join(question["id"] for question in held)}
            reply = await timed(record.questions, self.http.get(f"{self.url}api/next", params=wanted))
            new = reply.json()["questions"]
            for question in new:
                record.given[question["id"]] = question["query"]
                for clip in question["clips"]:
                    await timed(record.clips, self.http.get(self.url + clip["url"][1:]))
            held += new
            if not held:
                return
            answer = {"uuid": str(uuid.uuid4()), "question": held.pop(0)["id"], "choice": 0, "seconds": 1.0}
            post = self.http.post(f"{self.url}api/answers", json={"answers": [answer]}, headers=self.headers)
            record.accepted += (await timed(record.answers, post)).json()["accepted"]
            await asyncio.sleep(max(0.0, pause - (time.perf_counter() - begun)))


async def label(links: list[str], seconds: float, pause: float, record: Record) -> float:
    """Let everybody in, then label; return how long the labelling took in seconds."""
    people = [Annotator(link) for link in links]
    for person in people:
        await person.enter()
    begun = time.perf_counter()
    await asyncio.gather(*(person.label(seconds, pause, record) for person in people))
    taken = time.perf_counter() - begun
    for person in people:
        await person.http.aclose()
    return taken


def serve(path: Path, folder: Path, annotators: int, size: int = 64) -> tuple[subprocess.Popen[str], list[str]]:
    """Start the server and return its process and the annotators' links."""
    names = [f"annotator-{i}" for i in range(annotators)]
    options = ["--store", str(path), "--port", "0", "--repeats", "0", "--size", str(size), "--clips", str(folder)]
    command = [sys.executable, "-m", "prefenvs", "label", *options, "--annotators", *names]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = itertools.takewhile(lambda line: not line.startswith("Ctrl-C"), process.stdout)
    links = [line.split()[-1] for line in lines if "?token=" in line]
    return process, links


def percentiles(times: list[float]) -> str:
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


def run(annotators: int = 50, seconds: float = 10.0) -> None:
    """Measure.

    Args:
        annotators: People at once.
        seconds: Length of each of the two runs.
    """
    print(
        f"{platform.machine()}, Python {platform.python_version()}; {annotators} annotators, {seconds:.0f} s each run"
    )
    for name, pause in (("pace", PACE), ("flat out", 0.0)):
        with tempfile.TemporaryDirectory() as folder:
            path, clips = Path(folder) / "labels.sqlite", Path(folder) / "clips"
            fill(path, clips)
            process, links = serve(path, clips, annotators)
            record = Record()
            try:
                taken = asyncio.run(label(links, seconds, pause, record))
            finally:
                process.send_signal(signal.SIGINT)
                process.wait()
            report(name, record, taken, path)


if __name__ == "__main__":
    tyro.cli(run)
