"""Clips of the labelling page: made ahead of need by processes that never outlive the server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.labelling import Access, Clips, create_app
from prefenvs.oracles.labelling.clips import note_size, render_ahead
from prefenvs.preferences import Query
from prefenvs.segments import Segment
from prefenvs.store import AssignmentPlan, Store
from prefenvs.videos import ClipCache, ClipPool, Look, decode


def swing(seed: int, length: int = 8) -> Segment:
    """A pendulum that turns; `seed` is where it begins."""
    states = np.stack([np.linspace(0, 2, length) + seed, np.zeros(length)], axis=1)
    return Segment(np.zeros((length, 3)), np.zeros((length, 1)), states=states, task="Pendulum-v1")


def broken() -> Segment:
    return Segment(np.zeros((8, 3)), np.zeros((8, 1)), states=np.full((8, 2), np.nan), task="Pendulum-v1")


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def finished(folder: Path) -> list[Path]:
    return list(folder.glob("*/[!.]*.mp4"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


def test_what_is_there_in_the_cache_of_the_videos_package_is_not_made_again(store: Store, tmp_path: Path) -> None:
    segments = [swing(0), swing(1)]
    store.add_queries([Query(tuple(segments))])
    with ClipCache(tmp_path / "clips", Look(size=48)) as cache:
        made = cache.make(segments[0])
    written = made.stat().st_ino
    with Clips(store, tmp_path / "clips", size=48) as clips:
        assert clips.path(segments[0].hash).result(0) == made
        other = clips.path(segments[1].hash).result(60)
        described = clips.describe(segment.hash for segment in segments)
    assert made.stat().st_ino == written
    assert other.parent == made.parent
    for segment, path in zip(segments, (made, other), strict=True):
        frames, fps = decode(path)
        expected = described[segment.hash]
        shape = expected["frames"], expected["height"], expected["width"]
        assert (shape, expected["fps"]) == (frames.shape[:3], float(fps))


def test_one_that_cannot_be_made_harms_no_other(store: Store, tmp_path: Path) -> None:
    good, bad = swing(0), broken()
    store.add_queries([Query((bad, good))])
    with Clips(store, tmp_path / "clips", size=48, workers=1) as clips:
        clips.prefetch([bad.hash, good.hash])
        with pytest.raises(PrefenvsError, match="NaN"):
            clips.path(bad.hash).result(60)
        assert clips.path(good.hash).result(60).exists()
        with pytest.raises(PrefenvsError, match="no segment 0000"):
            clips.path("0" * 64)


def test_what_is_waited_for_comes_before_what_was_prefetched(store: Store, tmp_path: Path) -> None:
    segments = [swing(seed) for seed in range(12)]
    store.add_queries([Query(tuple(segments[i : i + 2])) for i in range(0, 12, 2)])
    with Clips(store, tmp_path / "clips", size=48, workers=1) as clips:
        clips.prefetch(segment.hash for segment in segments)
        last = clips.path(segments[-1].hash).result(60)
        assert len(finished(tmp_path / "clips")) < len(segments)
        clips.path(segments[0].hash).result(60)
    assert last.exists()


@pytest.mark.parametrize("kind", ["comparison", "rating"])
def test_the_clips_of_what_comes_next_are_made_before_anybody_asks(store: Store, tmp_path: Path, kind: str) -> None:
    fastapi = pytest.importorskip("fastapi.testclient")
    clips = Clips(store, tmp_path / "clips", size=48)
    plan = AssignmentPlan(kind=kind, repeats=0)  # type: ignore[arg-type]
    with fastapi.TestClient(create_app(store, Access(store, "ann"), clips, plan)):
        # A learner asks while the page is open, and nobody has looked at it yet.
        store.add_queries([Query((swing(0), swing(1)))])
        wait_for(lambda: len(finished(tmp_path / "clips")) == 2)


def test_another_machine_renders_for_the_server(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = [swing(seed) for seed in range(4)], broken()
    store.add_queries([Query(tuple(good[:2])), Query(tuple(good[2:])), Query((good[0], bad))], run="r")
    plan = AssignmentPlan("r")
    assert render_ahead(store, tmp_path / "there", plan, 2, 48) == 4
    assert render_ahead(store, tmp_path / "there", plan, 2, 48) == 0
    note_size(store, 64)
    assert render_ahead(store, tmp_path / "there", plan, 3, 48) == 4
    with Clips(store, tmp_path / "here", size=64, workers=1) as clips:
        monkeypatch.setattr("prefenvs.videos.ClipPool.submit", lambda *_, **__: pytest.fail("rendered here too"))
        clips.prefetch(segment.hash for segment in good)
        here = clips.path(good[3].hash).result(0)
        assert here.read_bytes() == next((tmp_path / "there").glob(f"*64x64*/{good[3].hash}.mp4")).read_bytes()
        assert [path.name for path in here.parent.iterdir()] == [here.name]


def test_what_another_machine_rendered_meanwhile_is_not_rendered_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add_queries([Query((swing(2 * i), swing(2 * i + 1))) for i in range(6)], run="r")
    submit, begun = ClipPool.submit, []

    def submit_beside_another(pool: ClipPool, *segment: Any, **options: Any) -> Any:
        begun.append(segment)
        if len(begun) == 1:
            assert render_ahead(store, tmp_path / "there", AssignmentPlan("r"), 6, 48) == 12
        return submit(pool, *segment, **options)

    monkeypatch.setattr(ClipPool, "submit", submit_beside_another)
    assert render_ahead(store, tmp_path / "here", AssignmentPlan("r"), 6, 48) == 1


@pytest.mark.skipif(os.name != "posix", reason="process groups and their signals")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda sign: sign.name)
def test_no_worker_outlives_the_server(tmp_path: Path, sign: signal.Signals) -> None:
    path, folder = tmp_path / "labels.sqlite", tmp_path / "clips"
    with Store(path) as store:
        store.add_queries(Query((swing(seed, 150), swing(seed + 1, 150))) for seed in range(0, 40, 2))
    options = ["--store", str(path), "--port", "0", "--size", "48", "--workers", "2", "--clips", str(folder)]
    # A session of its own makes a process group of its own, whose members can be counted.
    process = subprocess.Popen([sys.executable, "-m", "prefenvs", "label", *options], start_new_session=True)
    try:
        wait_for(lambda: finished(folder))
        process.send_signal(sign)
        process.wait(30)
        wait_for(lambda: not group_lives(process.pid), 30)
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert all(len(decode(clip)[0]) == 150 for clip in finished(folder))


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
