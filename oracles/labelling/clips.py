"""Clips for the page: made by worker processes ahead of need, and kept by content hash."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.store import Store
from prefenvs.videos import ClipCache, ClipPool, Look

MOST_WORKERS = 4
"""Default at most: a person looks at two clips in a few seconds, and a worker makes that many in one."""


class Clips(Closing):
    """Files of segments by hash, each made once: `path` says when it is there, `prefetch` has it made beforehand.

    A segment without simulator states is drawn as curves of its observations. What a page waits for comes before what
    was only prefetched. Rendering happens in processes of its own (see `videos.ClipPool`), so that it holds up no
    answer; they start with the first clip that is missing, and end with the process that made this object.
    """

    def __init__(
        self, store: Store, folder: Path, size: int = 256, quality: bool = False, workers: int | None = None
    ) -> None:
        """Keep clips in `folder`, which is made if need be.

        size: pixels of a side. quality: see `videos.Recorder`. workers: processes that render, by default one for two
        CPU cores, since learning may use the others.
        """
        self.store = store
        self.cache = ClipCache(folder, Look(size=size, quality=quality))
        if workers is None:
            workers = max(1, min((os.cpu_count() or 1) // 2, MOST_WORKERS))
        self.pool = ClipPool(self.cache, workers)
        self._described: dict[str, dict[str, Any]] = {}
        # What was prefetched once is not tried again every second where it cannot be made.
        self._prefetched: set[str] = set()

    @property
    def look(self) -> str:
        """Name of how the clips look: size, quality, version of the picture."""
        return self.cache.look.name

    def url(self, key: str) -> str:
        """Address of a clip; it names the look too, since browsers keep what they got from an address for good."""
        return f"/clips/{self.look}/{key}.mp4"

    def describe(self, hashes: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return what the page must know of each clip: hash, url, frames, fps, width and height; no rendering.

        Raises PrefenvsError for a clip that the store does not hold.
        """
        hashes = list(hashes)
        for key, segment in self.store.find_segments([key for key in hashes if key not in self._described]).items():
            self._described[key] = {"hash": key, "url": self.url(key), **self.cache.describe(segment)}
        missing = [key for key in hashes if key not in self._described]
        if missing:
            raise PrefenvsError(f"the store holds no segment {missing[0]}")
        return {key: self._described[key] for key in hashes}

    def prefetch(self, hashes: Iterable[str]) -> None:
        """Have clips made that will be asked for soon; what cannot be made is told by `path`."""
        new = dict.fromkeys(key for key in hashes if key not in self._prefetched)
        self._prefetched.update(new)
        missing = [key for key in new if self.cache.get(key) is None]
        for segment in self.store.find_segments(missing).values():
            self.pool.submit(segment)

    def path(self, key: str) -> Future[Path]:
        """Return the file of a segment's clip as soon as it is complete.

        Raises PrefenvsError where there is no such segment; the future does where its clip cannot be made.
        """
        found = self.cache.get(key)
        if found is not None:
            future: Future[Path] = Future()
            future.set_result(found)
            return future
        segment = self.store.find_segments([key]).get(key)
        if segment is None:
            raise PrefenvsError(f"the store holds no segment {key}")
        return self.pool.submit(segment, urgent=True)

    def close(self) -> None:
        """End the workers after the clips that are being made; a second call does nothing."""
        self.pool.close()
        self.cache.close()
