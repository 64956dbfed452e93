"""Recordings: opening LeRobot data sets of several sizes, frames and clips of their segments, and labels of them.

    python -m benchmarks.data.recordings

Opening is measured in a process of its own: seconds, and how far memory ever rose above what it was before. What the
numbers take is told beside it, as the rest should not grow with the data set.

References, in the same run: a plain loop that decodes a video from its beginning to the segment, clips of the same
length that are drawn from simulator states, and labels of such clips, all by one annotator who answers without a pause
through the server of `prefenvs label`, which makes the clips meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import tyro

from benchmarks.raters.labelling import Annotator, Record, serve
from prefenvs import Segment, SegmentBatch, Trajectories
from prefenvs.cli.random_behaviour import collect_random_behaviour
from prefenvs.datasets import OfflineDataset, load_dataset, write_lerobot
from prefenvs.frames import Camera, Recording, SegmentFrames, frames
from prefenvs.preferences import make_pairs
from prefenvs.store import Store
from prefenvs.tasks import find_task
from prefenvs.videos import ClipCache, write_clip

PER_FILE = 50
VIEWS = "observation.images.top", "observation.images.wrist"


@dataclass(frozen=True)
class Options:
    """What is measured."""

    episodes: tuple[int, ...] = (250, 1000, 4000)
    """Episodes of the data sets, rising multiples of 50; clips and labels are of the largest."""
    steps: int = 60
    """Steps of an episode."""
    side: int = 128
    """Pixels of a picture's side."""
    clips: int = 20
    """Segments that are shown, of 30 steps."""
    seconds: float = 30.0
    """For which labels are given, of recorded clips and of drawn ones each."""
    open: str = ""
    """Open this data set and print seconds and memory; used by the script itself."""


def make_dataset(folder: Path, options: Options) -> Path:
    """Write a data set of version 3.0 with one file of 50 episodes, by the package's own writer."""
    rng = np.random.default_rng(0)
    shots = folder / "shots.npy"
    count = PER_FILE * options.steps
    noise = rng.integers(0, 255, (40, options.side, options.side, 3), np.uint8)
    ramp = np.linspace(0, 255, options.side, dtype=np.uint8)[:, None, None]
    array = np.lib.format.open_memmap(shots, "w+", np.uint8, (count, options.side, options.side, 3))  # type: ignore[no-untyped-call]
    for step in range(count):
        array[step] = np.roll(ramp, step, 0) // 2 + noise[step % 40] // 16
    array.flush()
    times = np.arange(options.steps) / 30
    recordings = tuple(
        Recording((Camera("top", shots.name, start=options.steps * episode),), times, str(folder))
        for episode in range(PER_FILE)
    )
    observations = rng.standard_normal((count, 14)).astype(np.float32)
    ends = options.steps * np.arange(1, PER_FILE + 1)
    data = Trajectories(observations, observations, ends, task="recorded:move", recordings=recordings)
    return write_lerobot(OfflineDataset("move", data), folder / "v3.0", size=options.side, progress=False)


def extend(folder: Path, files: int) -> None:
    """Give a data set of version 3.0 so many files, the others like the first but for the numbers of episodes."""
    data, video, meta = (
        folder / "data/chunk-000/file-000.parquet",
        folder / "videos/observation.images.top/chunk-000/file-000.mp4",
        folder / "meta/episodes/chunk-000/file-000.parquet",
    )
    rows, about = pq.read_table(data), pq.read_table(meta)
    for file in range(1, files):
        if (copy := video.with_name(f"file-{file:03d}.mp4")).exists():
            continue
        shutil.copy(video, copy)
        for table, path in ((rows, data), (about, meta)):
            changed = {"episode_index": table["episode_index"].to_numpy() + PER_FILE * file}
            changed |= {name: np.full(len(table), file) for name in table.column_names if name.endswith("file_index")}
            for name, values in changed.items():
                table = table.set_column(table.column_names.index(name), name, pa.array(values))
            pq.write_table(table, path.with_name(f"file-{file:03d}.parquet"))
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"total_episodes": PER_FILE * files, "total_frames": len(rows) * files}))


def make_older(folder: Path, small: Path, episodes: int) -> Path:
    """Write a data set of version 2.1, where each episode has files of its own: the first one's, many times."""
    rows = pq.read_table(small / "data/chunk-000/file-000.parquet")
    rows = rows.filter(pa.compute.equal(rows["episode_index"], 0))
    video = folder / "episode.mp4"
    write_clip(load_frames(small, len(rows)), video, 30)
    info = json.loads((small / "meta/info.json").read_text())
    info["features"] |= dict.fromkeys(VIEWS, info["features"][VIEWS[0]])
    info |= {
        "codebase_version": "v2.1",
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    made, lines = folder / "v2.1", []
    for episode in range(episodes):
        place = {"episode_chunk": episode // 1000, "episode_index": episode}
        own = rows.set_column(
            rows.column_names.index("episode_index"), "episode_index", pa.array(np.full(len(rows), episode))
        )
        path = made / info["data_path"].format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(own, path)
        for view in VIEWS:
            path = made / info["video_path"].format(video_key=view, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(video, path)
        lines.append(json.dumps({"episode_index": episode, "tasks": ["move"], "length": len(rows)}))
    (made / "meta").mkdir()
    (made / "meta/info.json").write_text(json.dumps(info))
    (made / "meta/episodes.jsonl").write_text("\n".join(lines))
    return made


def load_frames(small: Path, steps: int) -> np.ndarray:
    """Return what the first episode of a data set shows."""
    return frames(load_dataset(small).trajectories.cut(np.array([0]), np.array([0]), steps)[0], size=128)


def open_once(name: str) -> None:
    """Print what opening takes: seconds, those of the processor, MiB of numbers, and MiB by which memory ever rose."""
    import pyarrow.parquet  # noqa: F401  its libraries take memory whatever is read

    before = peak()
    start, busy = time.perf_counter(), time.process_time()
    data = load_dataset(name).trajectories
    seconds, cpu = time.perf_counter() - start, time.process_time() - busy
    held = data.observations.nbytes + data.actions.nbytes + sum(each.times.nbytes for each in data.recordings or ())
    print(f"{Path(name).name} {len(data)} {seconds:.2f} {cpu:.2f} {held / 2**20:.1f} {(peak() - before) / 2**20:.1f}")


def peak() -> int:
    """Return the most bytes that this process has held so far, without those of the one that started it."""
    status = Path("/proc/self/status").read_text().split()
    return 1024 * int(status[status.index("VmHWM:") + 1])


def timed(make: Callable[[Segment], object], segments: list[Segment]) -> float:
    """Return how many segments a second `make` handles."""
    start = time.perf_counter()
    for segment in segments:
        make(segment)
    return len(segments) / (time.perf_counter() - start)


def decode_plainly(segment: Segment) -> np.ndarray:
    """Decode a segment's video from its beginning, as a loop over the file does."""
    recording = segment.recording
    assert recording is not None
    camera = recording.cameras[0]
    first = camera.start + recording.times[0] - 1e-3
    shown: list[np.ndarray] = []
    with av.open(str(recording.path(camera))) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time >= first:
                shown.append(frame.to_ndarray(format="rgb24"))
            if len(shown) == len(segment):
                break
    return np.stack(shown)


def labels_per_hour(segments: SegmentBatch, folder: Path, seconds: float) -> float:
    """Return how many pairs one annotator answers an hour who only waits for clips."""
    folder.mkdir()
    store = folder / "labels.sqlite"
    with Store(store) as kept:
        kept.add_queries(make_pairs(segments))
    process, links = serve(store, folder / "clips", 1, 256)
    record = Record()

    async def label() -> float:
        person = Annotator(links[0])
        await person.enter()
        begun = time.perf_counter()
        await person.label(seconds, 0.0, record)
        taken = time.perf_counter() - begun
        await person.http.aclose()
        return taken

    try:
        taken = asyncio.run(label())
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    return 3600 * len(record.accepted) / taken


def main(options: Options) -> None:
    """Measure and print."""
    if options.open:
        open_once(options.open)
        return
    with tempfile.TemporaryDirectory(prefix="prefenvs-") as temporary:
        folder = Path(temporary)
        made = make_dataset(folder, options)
        command = [sys.executable, "-m", "benchmarks.data.recordings", "--open"]
        print("version, episodes, seconds to open, of them the processor's, MiB of numbers, MiB at most", flush=True)
        subprocess.run([*command, str(make_older(folder, made, 1000))], check=True)
        for episodes in options.episodes:
            extend(made, episodes // PER_FILE)
            subprocess.run([*command, str(made)], check=True)
        data = load_dataset(made).trajectories
        segments = list(data.sample(options.clips, 30, np.random.default_rng(0)))
        for segment in segments[:3]:
            assert np.array_equal(decode_plainly(segment), frames(segment, size=options.side))
        plain = timed(decode_plainly, segments)
        with SegmentFrames(options.side) as source:
            ours = timed(source.frames, segments)
        print(
            f"frames of {options.clips} segments: {ours:.1f} segments/s, a plain loop {plain:.1f}: {ours / plain:.1f} x"
        )
        task = find_task("HalfCheetah-v5")
        behaviour = collect_random_behaviour(task, 1, 0)
        drawn = list(behaviour.sample(options.clips, 30, np.random.default_rng(0)))
        with ClipCache(folder / "clips") as cache:
            recorded, simulated = timed(cache.make, segments), timed(cache.make, drawn)
        print(
            f"clips for the page, 256 pixels: {recorded:.1f} recorded/s, {simulated:.1f} drawn/s: "
            f"{recorded / simulated:.1f} x"
        )
        many = [episodes.sample(400, 30, np.random.default_rng(1)) for episodes in (data, behaviour)]
        found = [labels_per_hour(each, folder / f"page{i}", options.seconds) for i, each in enumerate(many)]
        print(f"labels without a pause: {found[0]:.0f} recorded/h, {found[1]:.0f} drawn/h: {found[0] / found[1]:.1f} x")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
