from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import CancelledError

import numpy as np
import pytest

from prefenvs import PrefenvsError, Segment
from prefenvs.videos import ClipCache, ClipPool, Look, Recorder, decode, render_many

LOOK = Look(size=48)
LONG = 1000


def swing(seed=0, length=6):
    rng = np.random.default_rng(seed)
    states = np.stack([np.linspace(0, 2, length) + rng.uniform(0, 3), np.zeros(length)], axis=1)
    return Segment(np.zeros((length, 3)), np.zeros((length, 1)), states=states, task="Pendulum-v1")


def broken():
    return Segment(np.zeros((6, 3)), np.zeros((6, 1)), states=np.full((6, 2), np.nan), task="Pendulum-v1")


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def half_written(cache, segment):
    return list(cache.folder.glob(f".{segment.hash}-*"))


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with ClipCache(tmp_path_factory.mktemp("clips"), LOOK) as cache, ClipPool(cache, workers=2) as pool:
        yield pool


def test_workers_write_what_a_recorder_writes(pool, tmp_path):
    segments = [swing(seed) for seed in (0, 1, 2, 1)]
    paths = [future.result(60) for future in [pool.submit(segment) for segment in segments]]
    assert paths == [pool.cache.path(segment) for segment in segments]
    with Recorder("Pendulum-v1", 48, progress=False) as recorder:
        for segment, path in zip(segments, paths, strict=True):
            here, fps = decode(recorder.clip(segment, tmp_path / "clip.mp4"))
            there, rate = decode(path)
            assert (there.shape, rate) == (here.shape, fps)
            # Not equal to the byte: the encoder is not, from one call to the next.
            assert np.abs(there.astype(int) - here).mean() < 1
    written = paths[0].stat().st_ino
    assert pool.submit(swing(0)).done()
    assert paths[0].stat().st_ino == written


def test_one_clip_that_cannot_be_made_harms_no_other(pool):
    good, bad = swing(10), broken()
    futures = [pool.submit(segment) for segment in (bad, good, bad)]
    assert futures[1].result(60).exists()
    for future in (futures[0], futures[2]):
        with pytest.raises(PrefenvsError, match="NaN"):
            future.result(60)
    assert not half_written(pool.cache, bad)


def test_urgent_clips_come_first_and_cancelling_takes_back_one_request(tmp_path):
    with ClipCache(tmp_path, LOOK) as cache, ClipPool(cache) as pool:
        busy = pool.submit(swing(0, 400))
        wait_for(busy.running)
        order = []
        futures = {}
        for seed in (1, 2, 3):
            futures[seed] = pool.submit(swing(seed, 100))
            futures[seed].add_done_callback(lambda _, seed=seed: order.append(seed))
        second = pool.submit(swing(2, 100))
        assert futures[2].cancel()
        unwanted = pool.submit(swing(4))
        assert unwanted.cancel()
        pool.submit(swing(3, 100), urgent=True)
        for future in (futures[1], futures[3], second):
            assert future.result(60).exists()
        assert order == [2, 3, 1]
        # Workers take jobs in turn, so by now the cancelled one would have been made.
        pool.submit(swing(5)).result(60)
        assert cache.get(swing(4)) is None


def test_a_worker_that_dies_is_replaced_and_its_clip_made(tmp_path):
    with ClipCache(tmp_path, LOOK) as cache, ClipPool(cache) as pool:
        futures = [pool.submit(swing(0, LONG)), pool.submit(swing(1))]
        wait_for(lambda: half_written(cache, swing(0, LONG)))
        kill_workers()
        assert len(decode(futures[0].result(120))[0]) == LONG
        assert futures[1].result(60).exists()


def test_a_clip_that_kills_its_workers_is_reported_and_the_rest_made(tmp_path):
    with ClipCache(tmp_path, LOOK) as cache, ClipPool(cache) as pool:
        deadly, fine = swing(0, LONG), swing(1)
        futures = [pool.submit(deadly), pool.submit(fine)]
        for _ in range(2):
            wait_for(lambda: half_written(cache, deadly))
            kill_workers()
            wait_for(lambda: not half_written(cache, deadly))
        with pytest.raises(PrefenvsError, match=r"signal 9.*Pendulum-v1"):
            futures[0].result(60)
        assert futures[1].result(60).exists()
        assert [path.name for path in cache.folder.iterdir()] == [futures[1].result().name]


def kill_workers():
    for process in multiprocessing.active_children():
        if process.name == "clips":
            os.kill(process.pid, signal.SIGKILL)


def test_closing_ends_the_workers_and_cancels_what_has_not_begun(tmp_path):
    cache = ClipCache(tmp_path, LOOK)
    pool = ClipPool(cache)
    running, waiting = pool.submit(swing(0, 200)), pool.submit(swing(1))
    wait_for(running.running)
    pool.close()
    assert running.result(0).exists()
    with pytest.raises(CancelledError):
        waiting.result(0)
    with pytest.raises(PrefenvsError, match="closed"):
        pool.submit(swing(2))
    assert pool.submit(swing(0, 200)).result(0).exists()
    pool.close()
    with pytest.raises(PrefenvsError, match="workers=0"):
        ClipPool(cache, workers=0)


def test_render_many_resumes_and_reports_failures_last(tmp_path):
    segments = [swing(0), broken(), swing(1), swing(0)]
    with pytest.raises(PrefenvsError, match=r"1 of 4 clips.*NaN") as failure:
        render_many(segments, tmp_path, LOOK, workers=2, progress=False)
    assert len(str(failure.value).splitlines()) == 1
    with ClipCache(tmp_path, LOOK) as cache:
        paths = [cache.get(segment) for segment in segments]
    assert [path is not None for path in paths] == [True, False, True, True]
    written = [path.stat().st_ino for path in paths if path]
    good = [segments[0], segments[2], segments[3], swing(2)]
    again = render_many(good, tmp_path, LOOK, workers=1, progress=False)
    assert [path.stat().st_ino for path in again[:3]] == written
    assert all(path.exists() for path in again)


def test_ctrl_c_leaves_whole_clips_and_no_process(tmp_path):
    script = tmp_path / "render.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import numpy as np
            from prefenvs import Segment
            from prefenvs.videos import Look, render_many

            def swing(seed):
                states = np.stack([np.linspace(0, 2, 150) + seed, np.zeros(150)], axis=1)
                return Segment(np.zeros((150, 3)), np.zeros((150, 1)), states=states, task="Pendulum-v1")

            if __name__ == "__main__":
                render_many([swing(seed) for seed in range(300)], {str(tmp_path / "clips")!r}, Look(size=48), workers=2)
            """
        )
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    folder = tmp_path / "clips" / LOOK.name
    wait_for(lambda: folder.is_dir() and len(list(folder.glob("[!.]*.mp4"))) >= 2)
    # As a terminal does: to the whole process group.
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    files = list(folder.iterdir())
    assert 2 <= len(files) < 300
    assert all(len(decode(path)[0]) == 150 for path in files)
    wait_for(lambda: not group_lives(process.pid))


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "careless.py"
    script.write_text(
        "import numpy as np\nfrom prefenvs import Segment\nfrom prefenvs.videos import render_many\n"
        "segment = Segment(np.zeros((2, 3)), np.zeros((2, 1)), states=np.zeros((2, 2)), task='Pendulum-v1')\n"
        "render_many([segment], 'clips', workers=1, progress=False)\n"
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 1
    assert "__main__" in result.stderr.splitlines()[-1]
