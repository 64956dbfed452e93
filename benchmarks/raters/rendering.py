"""Frames and clips per second from recorded states: prefenvs against MuJoCo's renderer as it comes.

    python -m benchmarks.raters.rendering [--size 256] [--rounds 5] [--workers 2] [--clips-of TASK] [task ...]

Both sides put the same states into a simulation, run `mj_forward`, and render them through the same camera into
pictures of the same size. The reference is `mujoco.Renderer` with the default settings of model and scene: shadows,
reflections, multisampling, and the model's own off-screen buffer. Rounds alternate between the sides; printed are the
medians, and the ratio of prefenvs to the reference. The rate of encoding alone is printed beside them.

Last come whole clips on the disk, of different segments of one task: `videos.ClipPool` with one and with more worker
processes, started before the clock, against a loop in one process that renders by the reference and encodes likewise.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import prefenvs
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.envs.states import write_scene
from prefenvs.segments import Array, Segment
from prefenvs.videos import ClipCache, ClipPool, ClipWriter, Look, Recorder, write_clip

TASKS = (
    "HalfCheetah-v5",
    "Walker2d-v5",
    "Ant-v5",
    "dmc-walker-walk-v0",
    "metaworld-drawer-open-v3",
    "FetchReach-v4",
    "AntMaze_UMaze-v5",
    "AdroitHandDoor-v1",
    "FrankaKitchen-v1",
)
SECONDS = 0.7  # of each side in each round
CLIPS = 16  # that a pool makes in each round


def record_states(task_id: str, count: int = 50) -> tuple[Array, Array | None, Any]:
    """States and scene of an episode of random actions, and the model they belong to."""
    env: Any = prefenvs.make(task_id)
    env.action_space.seed(0)
    _, info = env.reset(seed=0)
    states = []
    for _ in range(count):
        states.append(info["state"])
        *_, info = env.step(env.action_space.sample())
    return np.array(states), info.get("scene"), env.unwrapped.model


class Reference:
    """`mujoco.Renderer` with default settings, through the task's camera."""

    def __init__(self, task: prefenvs.Task, model: Any, scene: Array | None, size: int) -> None:
        import mujoco

        from prefenvs.envs.rendering.mujoco import MujocoPainter

        if scene is not None:
            write_scene(model, task.scene, scene)
        self.mujoco, self.model, self.data = mujoco, model, mujoco.MjData(model)
        self.renderer = mujoco.Renderer(model, size, size)
        self.painter = MujocoPainter(model, task.camera, size, size)

    def frame(self, state: Array) -> Array:
        """Return the frame [H, W, 3] uint8 of a state."""
        self.mujoco.mj_setState(self.model, self.data, state, self.mujoco.mjtState.mjSTATE_FULLPHYSICS)
        self.mujoco.mj_forward(self.model, self.data)
        self.renderer.update_scene(self.data, self.painter.aim(self.data))
        frame: Array = self.renderer.render()
        return frame

    def close(self) -> None:
        """Free both contexts."""
        self.painter.close()
        self.renderer.close()


def frames_per_second(render: Callable[[Array], Array], states: Array) -> float:
    """Render for `SECONDS`, at least two frames."""
    begin, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - begin < SECONDS:
        render(states[count % len(states)])
        count += 1
    return count / (time.perf_counter() - begin)


def encoding_rate(frames: Array) -> float:
    """Frames per second that `ClipWriter` takes."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        with ClipWriter(Path(folder) / "clip.mp4", 20) as writer:
            for frame in frames:
                writer.add(frame)
        return len(frames) / (time.perf_counter() - begin)


def segments_of(task_id: str, count: int) -> list[Segment]:
    """Segments of the task's own length, all different, cut from an episode of random actions."""
    task = prefenvs.find_task(task_id)
    length = task.segment_length
    states, scene, _ = record_states(task_id, length + count - 1)
    empty = np.zeros((length, 0))
    return [
        Segment(empty, empty, states=states[i : i + length], scene=scene, task=task.id, start=i) for i in range(count)
    ]


def reference_rate(plain: Reference, recorder: Recorder, segment: Segment) -> float:
    """Clips per second to the disk by the reference's frames, one after the other in this process."""
    assert segment.states is not None
    begin = time.perf_counter()
    steps, fps = recorder.steps(len(segment))
    with tempfile.TemporaryDirectory() as folder:
        write_clip((plain.frame(segment.states[step]) for step in steps), Path(folder) / "clip.mp4", fps)
    return 1 / (time.perf_counter() - begin)


def pool_rate(pool: ClipPool, segments: list[Segment]) -> float:
    """Clips per second to the disk by a pool of workers."""
    for path in pool.cache.folder.iterdir():
        path.unlink()
    begin = time.perf_counter()
    for future in [pool.submit(segment) for segment in segments]:
        future.result()
    return len(segments) / (time.perf_counter() - begin)


def compare_clips(task_id: str, size: int, rounds: int, workers: int) -> None:
    """Print the rates of whole clips, from states to the disk."""
    task = prefenvs.find_task(task_id)
    _, scene, model = record_states(task_id, 2)
    segments = segments_of(task_id, CLIPS)
    plain, rates = Reference(task, model, scene, size), []
    with tempfile.TemporaryDirectory() as folder, Recorder(task, size) as recorder, ExitStack() as stack:
        pools = []
        for count in (1, workers):
            cache = stack.enter_context(ClipCache(Path(folder) / str(count), Look(size=size)))
            pools.append(stack.enter_context(ClipPool(cache, count)))
            # Every worker has made a clip before the clock starts.
            pool_rate(pools[-1], segments)
        for number in range(rounds):
            slow = reference_rate(plain, recorder, segments[number % CLIPS])
            rates.append([slow, *(pool_rate(pool, segments) for pool in pools)])
        frames = len(recorder.steps(task.segment_length)[0])
    plain.close()
    slow, one, more = np.median(rates, axis=0)
    print(f"\n{task_id}, clips of {frames} frames to the disk, median of {rounds} rounds (clips/s)")
    print(f"{'reference, one process':26} {slow:10.2f}")
    print(f"{'prefenvs, 1 worker':26} {one:10.2f} {one / slow:10.1f}x")
    print(f"{f'prefenvs, {workers} workers':26} {more:10.2f} {more / slow:10.1f}x", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=TASKS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clips-of", default="HalfCheetah-v5")
    arguments = parser.parse_args()

    size = arguments.size
    print(f"backend {gl_backend()}, {os.cpu_count()} CPU cores, {platform.machine()}, {size} x {size} pixels,", end=" ")
    print(f"median of {arguments.rounds} rounds")
    print(f"{'task':26} {'reference':>10} {'prefenvs':>10} {'ratio':>7} {'quality':>9} {'encoding':>10}   (frames/s)")
    for task_id in arguments.tasks:
        compare(task_id, size, arguments.rounds)
    compare_clips(arguments.clips_of, size, arguments.rounds, arguments.workers)


def compare(task_id: str, size: int, rounds: int) -> None:
    """Print one task's line."""
    task = prefenvs.find_task(task_id)
    states, scene, model = record_states(task_id)
    plain = Reference(task, model, scene, size)
    rates = []
    with Renderer(task, size, size) as fast, Renderer(task, size, size, quality=True) as fine:
        frames = fast.frames(states, scene)
        sides = (plain.frame, lambda state: fast.frame(state, scene), lambda state: fine.frame(state, scene))
        for side in sides:
            side(states[0])
        for _ in range(rounds):
            measured = [frames_per_second(side, states) for side in sides]
            rates.append([*measured, encoding_rate(frames)])
    plain.close()
    slow, ours, quality, encoding = np.median(rates, axis=0)
    print(f"{task_id:26} {slow:10.1f} {ours:10.1f} {ours / slow:6.1f}x {quality:9.1f} {encoding:10.0f}", flush=True)


if __name__ == "__main__":
    main()
