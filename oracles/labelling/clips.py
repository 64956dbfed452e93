"""Clips for the page: made by worker processes ahead of need, and kept by content hash."""

from __future__ import annotations

import os
import random
import secrets
import time as clock
from collections.abc import Collection, Iterable
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.limits import PIXELS
from prefenvs.store import AssignmentPlan, Assignments, Store, change_note, read_note, rows
from prefenvs.store.database import reading, writing
from prefenvs.store.schema import clips as table
from prefenvs.videos import ClipCache, ClipPool, Look

SIZES = (256, 512, 768)
"""Sides of clips in pixels: a page gets the one that is nearest to what it shows, up to a server's largest."""
MOST_WORKERS = 4
"""Default at most: a person looks at two clips in a few seconds, and a worker makes that many in one."""

SPREAD = 8
"""Times its workers, the missing clips among which a machine draws those that it renders next."""
LOOKS = "clips"
"""Name of the store's note of how large pages show clips, for machines that render them."""


class Clips(Closing):
    """Files of segments by hash, each made once: `path` says when it is there, `prefetch` has it made beforehand.

    Clips are as large as a page shows them, in steps of SIZES. A segment without simulator states is drawn as curves
    of its observations. What a page waits for comes before what was only prefetched. Rendering happens in processes of
    its own (see `videos.ClipPool`), so that it holds up no answer; they start with the first clip that is missing, and
    end with the process that made this object.
    """

    def __init__(
        self, store: Store, folder: Path, size: int = 256, quality: bool = False, workers: int | None = None
    ) -> None:
        """Keep clips in `folder`, which is made if need be.

        size: pixels of a side at most. quality: see `videos.Recorder`. workers: processes that render one size, by
        default one for two CPU cores, since learning may use the others. Raises PrefenvsError for other numbers.
        """
        PIXELS.check("size", size)
        self.store = store
        if workers is None:
            workers = max(1, min((os.cpu_count() or 1) // 2, MOST_WORKERS))
        self.sizes = (*(side for side in SIZES if side < size), size)
        self._caches: dict[str, ClipCache] = {}
        self._pools: dict[str, ClipPool] = {}
        for side in self.sizes:
            cache = ClipCache(folder, Look(size=side, quality=quality))
            self._caches[cache.look.name], self._pools[cache.look.name] = cache, ClipPool(cache, workers)
        self.looks = tuple(self._caches)
        self._described: dict[tuple[str, str], dict[str, Any]] = {}
        # What was prefetched once is not tried again every second where it cannot be made.
        self._prefetched: set[tuple[str, str]] = set()

    def look(self, pixels: int | None = None) -> str:
        """Name of how clips look (size, quality, version of the picture) on a page that shows them so many pixels wide.

        Without a number, the largest. It need not be reached: a tenth more is hardly seen, and costs a quarter more.
        """
        # In whole numbers: one of a request may be too large for a float.
        enough = [i for i, side in enumerate(self.sizes) if pixels is not None and 10 * side >= 9 * pixels]
        return self.looks[enough[0] if enough else -1]

    def url(self, key: str, look: str = "") -> str:
        """Address of a clip; it names the look too, since browsers keep what they got from an address for good."""
        return f"/clips/{look or self.looks[-1]}/{key}.mp4"

    def describe(self, hashes: Iterable[str], look: str = "") -> dict[str, dict[str, Any]]:
        """Return what the page must know of each clip: hash, url, frames, fps, width and height; no rendering.

        Raises PrefenvsError for a clip that the store does not hold.
        """
        look, hashes = look or self.looks[-1], list(hashes)
        new = [key for key in hashes if (look, key) not in self._described]
        for key, segment in self.store.find_segments(new).items():
            about = self._caches[look].describe(segment)
            self._described[look, key] = {"hash": key, "url": self.url(key, look), **about}
        missing = [key for key in hashes if (look, key) not in self._described]
        if missing:
            raise PrefenvsError(f"the store holds no segment {missing[0]}")
        return {key: self._described[look, key] for key in hashes}

    def prefetch(self, hashes: Iterable[str], look: str = "") -> None:
        """Have clips made that will be asked for soon; what cannot be made is told by `path`."""
        look = look or self.looks[-1]
        new = dict.fromkeys(key for key in hashes if (look, key) not in self._prefetched)
        self._prefetched.update((look, key) for key in new)
        missing = {key for key in new if self._caches[look].get(key) is None}
        missing -= find_rendered(self.store, look, missing)
        for segment in self.store.find_segments(missing).values():
            self._pools[look].submit(segment)

    def path(self, key: str, look: str = "") -> Future[Path]:
        """Return the file of a segment's clip as soon as it is complete.

        Raises PrefenvsError where there is no such segment; the future does where its clip cannot be made.
        """
        look = look or self.looks[-1]
        found = self._caches[look].get(key) or self._fetch(key, look)
        if found is not None:
            future: Future[Path] = Future()
            future.set_result(found)
            return future
        segment = self.store.find_segments([key]).get(key)
        if segment is None:
            raise PrefenvsError(f"the store holds no segment {key}")
        return self._pools[look].submit(segment, urgent=True)

    def _fetch(self, key: str, look: str) -> Path | None:
        """Take over a clip that another machine has rendered, if there is one."""
        with reading(self.store.engine) as connection:
            where = table.c.look == look, table.c.segment == key
            data = connection.scalar(sa.select(table.c.data).where(*where))
        if data is None:
            return None
        path = self._caches[look].path(key)
        part = path.with_name(f".{key}-{secrets.token_hex(4)}")
        part.write_bytes(data)
        part.replace(path)
        return path

    def close(self) -> None:
        """End the workers after the clips that are being made; a second call does nothing."""
        for pool in self._pools.values():
            pool.close()
        for cache in self._caches.values():
            cache.close()


def find_rendered(store: Store, look: str, hashes: Collection[str]) -> set[str]:
    """Return the segments among these of which another machine has left a clip in the store."""
    found: set[str] = set()
    with reading(store.engine) as connection:
        for part in rows.chunks(sorted(hashes)):
            where = table.c.look == look, table.c.segment.in_(part)
            found.update(connection.scalars(sa.select(table.c.segment).where(*where)))
    return found


def note_size(store: Store, size: int) -> None:
    """Let machines that render know that a page shows clips of this size."""
    sizes = set(read_note(store, LOOKS).get("sizes", ()))
    if size not in sizes:
        change_note(store, LOOKS, lambda note: {"sizes": sorted({*note.get("sizes", ()), size})})


def render_ahead(
    store: Store, folder: Path, plan: AssignmentPlan, ahead: int, size: int, quality: bool = False, workers: int = 1
) -> int:
    """Render into the store the clips of the `ahead` questions that come next; return how many were missing.

    They are made in every size that pages show, in `size` alone while none is known, and first in `folder`. A clip that
    cannot be made is left to the server, which says why.
    """
    wanted = list(dict.fromkeys(Assignments(store, plan).upcoming(ahead)))
    made = 0
    for side in read_note(store, LOOKS).get("sizes") or [size]:
        with ClipCache(folder, Look(size=side, quality=quality)) as cache, ClipPool(cache, workers) as pool:
            waiting = wanted
            while waiting := _without(waiting, find_rendered(store, cache.look.name, waiting)):
                # Other machines take from the same list: few at a time, drawn from its beginning, are seldom the same.
                taken = random.sample(waiting[: SPREAD * workers], min(workers, len(waiting)))
                waiting = _without(waiting, taken)
                futures = {pool.submit(segment): key for key, segment in store.find_segments(taken).items()}
                for future in as_completed(futures):
                    if future.exception() is not None:
                        continue
                    row = {"look": cache.look.name, "segment": futures[future], "created": clock.time()}
                    with writing(store.engine) as connection:
                        rows.insert_new(connection, table, [{**row, "data": future.result().read_bytes()}])
                    made += 1
    return made


def _without(hashes: Iterable[str], others: Collection[str]) -> list[str]:
    return [key for key in hashes if key not in others]
