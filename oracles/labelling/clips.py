"""Clips for the page: rendered from stored states in one background thread, ahead of need, and kept by content hash."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prefenvs.errors import PrefenvsError
from prefenvs.segments import Segment
from prefenvs.store import Store
from videos import Recorder

NOW, SOON = 0, 1


class Clips:
    """Files of segments, each made once: `path` says when it is there, `prefetch` has it made before it is asked for.

    A segment without simulator states is drawn as curves of its observations. An OpenGL context belongs to one thread,
    so one thread makes all clips; what a page waits for comes before what was only prefetched.
    """

    def __init__(self, store: Store, folder: Path, size: int = 256, quality: bool = False) -> None:
        """folder: where clips are kept, made if need be. size: pixels of a side. quality: see `videos.Recorder`."""
        self.store, self.size, self.quality = store, size, quality
        self.folder = folder / f"{size}{'-quality' if quality else ''}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._described: dict[str, dict[str, Any]] = {}
        self._futures: dict[str, Future[Path]] = {}
        self._waiting: queue.PriorityQueue[tuple[int, int, str]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="clips", daemon=True)
        self._thread.start()

    def describe(self, hashes: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what the page must know of each clip: hash, url, frames, fps, width and height; no rendering."""
        hashes = list(hashes)
        for key, segment in self.store.find_segments([key for key in hashes if key not in self._described]).items():
            steps, fps = self._recorder(segment).steps(len(segment))
            self._described[key] = {
                "hash": key,
                "url": f"/clips/{key}.mp4",
                "frames": len(steps),
                "fps": float(fps),
                "width": self.size,
                "height": self.size,
            }
        missing = [key for key in hashes if key not in self._described]
        if missing:
            raise PrefenvsError(f"the store holds no segment {missing[0]}")
        return {key: self._described[key] for key in hashes}

    def prefetch(self, hashes: Iterable[str]) -> None:
        """Have clips made that will be asked for soon."""
        for key in hashes:
            self._request(key, SOON)

    def path(self, key: str) -> Future[Path]:
        """Return the file of a segment's clip as soon as it is complete; PrefenvsError where it cannot be made."""
        return self._request(key, NOW)

    def close(self) -> None:
        """Stop after the clip that is being made."""
        self._waiting.put((-1, next(self._count), ""))
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, key: str, priority: int) -> Future[Path]:
        with self._turn:
            future = self._futures.get(key)
            if future is None:
                future = Future()
                file = self.folder / f"{key}.mp4"
                if file.is_file():
                    future.set_result(file)
                    return future
                self._futures[key] = future
            elif priority == SOON:
                return future
        # One that was prefetched and is wanted now enters the queue a second time, further to the front.
        self._waiting.put((priority, next(self._count), key))
        return future

    def _recorder(self, segment: Segment) -> Recorder:
        return Recorder(segment.task, self.size, quality=self.quality, plot=segment.states is None, progress=False)

    def _work(self) -> None:
        recorders: dict[tuple[str, bool], Recorder] = {}
        while (item := self._waiting.get())[2]:
            key = item[2]
            with self._turn:
                future = self._futures.get(key)
            if future is None:
                continue
            try:
                future.set_result(self._make(key, recorders))
            except Exception as error:
                future.set_exception(error)
            with self._turn:
                del self._futures[key]
        for recorder in recorders.values():
            recorder.close()

    def _make(self, key: str, recorders: dict[tuple[str, bool], Recorder]) -> Path:
        segment = self.store.find_segments([key]).get(key)
        if segment is None:
            raise PrefenvsError(f"the store holds no segment {key}")
        kind = segment.task, segment.states is None
        if kind not in recorders:
            recorders[kind] = self._recorder(segment)
        return recorders[kind].clip(segment, self.folder / f"{key}.mp4")
