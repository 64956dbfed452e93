"""Clips by processes of their own: a pool that a server can ask without waiting, and a bar for whoever waits."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.internal.child import Child
from prefenvs.internal.closing import Closing
from prefenvs.segments import Segment
from prefenvs.videos.cache import DEFAULT_LOOK, ClipCache, Look, write

# A worker that dies takes one clip with it; a clip that kills this many workers is given up.
ATTEMPTS = 2


@dataclass
class _Job:
    """One clip to be made, and everybody who waits for it."""

    segment: Segment
    path: Path
    futures: list[Future[Path]] = field(default_factory=list)
    started: bool = False


class ClipPool(Closing):
    """Worker processes that make the clips of a cache, each with an OpenGL context of its own.

    `submit` returns at once; a clip that is there already is never made again, and one that is asked for twice is made
    once. A worker that crashes is replaced, and its clip tried once more; if that fails too the future says so, and all
    others are made as if nothing had happened. Workers start with the first clip that is missing.

    Processes are spawned: a script that makes a pool keeps its main part under `if __name__ == "__main__":`.
    """

    def __init__(self, cache: ClipCache, workers: int = 1) -> None:
        """`workers`: processes; one for each CPU core is the most that helps where frames are made by software."""
        if workers < 1:
            raise PrefenvsError(f"workers={workers}: at least one process has to make the clips")
        self.cache, self.workers = cache, workers
        self._jobs: dict[Path, _Job] = {}
        self._waiting: list[tuple[bool, int, _Job]] = []
        self._count = itertools.count()
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, segment: Segment, urgent: bool = False) -> Future[Path]:
        """Ask for a clip, and return a future of its file.

        urgent: before all that is not. Asked for again, a clip that still waits moves to the front. The future raises
        PrefenvsError where the clip cannot be made; cancelling it takes back this request, not that of another caller.
        """
        future: Future[Path] = Future()
        found = self.cache.get(segment)
        if found is not None:
            future.set_result(found)
            return future
        path = self.cache.path(segment)
        with self._changed:
            if self._closed:
                raise PrefenvsError("this pool of workers is closed; make a new one")
            job = self._jobs.get(path)
            if job is None:
                job = self._jobs[path] = _Job(segment, path)
            elif job.started:
                future.set_running_or_notify_cancel()
            job.futures.append(future)
            if not job.started and (len(job.futures) == 1 or urgent):
                heapq.heappush(self._waiting, (not urgent, next(self._count), job))
                self._changed.notify()
            self._start()
        return future

    def close(self, wait: bool = True) -> None:
        """Cancel what has not begun, let the workers finish the clips they are at, and end them.

        wait: return only when they have ended. A second call does nothing.
        """
        with self._changed:
            self._closed = True
            abandoned = [job for job in self._jobs.values() if not job.started]
            for job in abandoned:
                del self._jobs[job.path]
            self._waiting.clear()
            self._changed.notify_all()
        for job in abandoned:
            for future in job.futures:
                future.cancel()
        for thread in self._threads if wait else ():
            thread.join()

    def _start(self) -> None:
        if self._threads:
            return
        # Found once, here, rather than by every worker; where there is none, the workers say what is missing.
        with contextlib.suppress(PrefenvsError):
            gl_backend()
        for number in range(self.workers):
            thread = threading.Thread(target=self._tend, name=f"clips-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _next(self) -> _Job | None:
        """Wait for a job that somebody still wants; None when the pool is closed."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return None
                job = heapq.heappop(self._waiting)[2]
                # Begun by another worker, when it had moved to the front; or wanted by nobody any more.
                if job.started or self._jobs.get(job.path) is not job:
                    continue
                job.futures = [future for future in job.futures if future.set_running_or_notify_cancel()]
                if job.futures:
                    job.started = True
                    return job
                del self._jobs[job.path]

    def _tend(self) -> None:
        """Look after one worker: hand it jobs, and put another in its place when it dies."""
        worker: Child | None = None
        while (job := self._next()) is not None:
            outcome: Path | Exception
            for _ in range(ATTEMPTS):
                try:
                    worker = worker or Child(_rendering, self.cache.look, name="clips")
                except (OSError, RuntimeError) as error:
                    outcome = PrefenvsError(f"no worker process could be started: {' '.join(str(error).split())}")
                    break
                try:
                    worker.send((job.segment, job.path))
                    outcome = worker.receive()
                    break
                except EOFError:
                    outcome = _crash(job, worker.stop())
                    worker = None
            self._finish(job, outcome)
        if worker is not None:
            worker.stop()

    def _finish(self, job: _Job, outcome: Path | Exception) -> None:
        if isinstance(outcome, Path):
            self.cache.note(outcome)
        with self._changed:
            del self._jobs[job.path]
        for future in job.futures:
            if isinstance(outcome, Path):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


@contextlib.contextmanager
def _rendering(look: Look) -> Iterator[Callable[[tuple[Segment, Path]], Path]]:
    """Make clips, each kind with a recorder of its own; in a process of its own."""
    recorders: dict[tuple[str, bool], Any] = {}

    def make_clip(request: tuple[Segment, Path]) -> Path:
        segment, path = request
        kind = segment.task, segment.visible
        with failure_told(f"a clip of {segment.task!r} could not be made"):
            if kind not in recorders:
                recorders[kind] = look.recorder(segment)
            return write(recorders[kind], segment, path, look)

    yield make_clip
    for recorder in recorders.values():
        recorder.close()


def _crash(job: _Job, status: int | None) -> PrefenvsError:
    """Say that a worker has died, and remove what it has left of its clip."""
    for path in job.path.parent.glob(f".{job.path.stem}-*"):
        path.unlink(missing_ok=True)
    how = f"exit status {status}" if status is None or status >= 0 else f"signal {-status}"
    # What spawning says on its own is hidden in the worker's output.
    hint = '; a script that makes a pool keeps its main part under `if __name__ == "__main__":`' if status == 1 else ""
    return PrefenvsError(
        f"the worker process died ({how}) {ATTEMPTS} times at clip {job.path.name} of {job.segment.task!r}{hint}"
    )


def render_many(
    segments: Iterable[Segment],
    folder: str | Path,
    look: Look = DEFAULT_LOOK,
    workers: int | None = None,
    progress: bool = True,
) -> list[Path]:
    """Make the clips of many segments by several processes, and return their files in the order of the segments.

    Clips that lie in the folder's cache are taken as they are, so a second call finishes what Ctrl-C or a crash ended.
    workers: processes, by default one for each CPU core. progress: show a bar with an ETA. Raises PrefenvsError, after
    everything else is done, if a clip could not be made.
    """
    segments = list(segments)
    workers = workers or os.cpu_count() or 1
    with ClipCache(folder, look) as cache, ClipPool(cache, workers) as pool:
        futures = [pool.submit(segment) for segment in segments]
        bar = tqdm(total=len(futures), desc="clips", unit="clip", disable=None if progress else True)
        with bar:
            for _ in as_completed(futures):
                bar.update()
        failures = [error for future in futures if (error := future.exception()) is not None]
        if failures:
            raise PrefenvsError(
                f"{len(failures)} of {len(futures)} clips could not be made, the others are in {cache.folder}; "
                f"the first: {failures[0]}"
            )
        return [future.result() for future in futures]
