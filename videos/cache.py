"""Clips on the disk, each made once: found again by the content of its segment and the look that was asked for."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.segments import Segment
from prefenvs.videos.recorder import Recorder

# Raised whenever the same segment and look give another picture than before, so that old clips are not taken for new.
PICTURE = 3
FORMATS = ("mp4", "webp", "gif", "png")
# Seconds after which a half-written file belongs to nobody who still writes.
STALE = 3600.0
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Look:
    """How clips look: what `Recorder` takes, and the kind of file.

    size: pixels of a square frame, or (width, height); fps, quality, speed: see `videos.Recorder`. format: mp4 (H.264),
    webp, gif, or png, a strip of `strip` frames side by side, of which the last is the segment's last.
    """

    size: int | tuple[int, int] = 256
    fps: float | None = None
    quality: bool = False
    speed: float = 1.0
    format: str = "mp4"
    strip: int = 6

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise PrefenvsError(f"format={self.format!r} is no kind of clip: choose one of {', '.join(FORMATS)}")

    @property
    def name(self) -> str:
        """Name of the folder that holds clips of this look, such as 256x256 or 256x256-quality-webp."""
        width, height = (self.size, self.size) if isinstance(self.size, int) else self.size
        parts = [f"v{PICTURE}", f"{width}x{height}"]
        parts += [f"{self.fps:g}fps"] if self.fps is not None else []
        parts += [f"speed{self.speed:g}"] if self.speed != 1 else []
        parts += ["quality"] if self.quality else []
        parts += [f"strip{self.strip}" if self.format == "png" else self.format]
        return "-".join(parts)

    def recorder(self, segment: Segment, progress: bool = False) -> Recorder:
        """Return a new recorder that draws this segment and others like it; without pictures it draws curves.

        A video of small recorded pictures stays small, as whoever plays it scales it.
        """
        options = {name: value for name, value in asdict(self).items() if name not in ("format", "strip")}
        plot, enlarge = not segment.visible, self.format == "png"
        return Recorder(segment.task, **options, plot=plot, enlarge=enlarge, progress=progress)


DEFAULT_LOOK = Look()


class ClipCache(Closing):
    """A folder of clips by content: the same segment with the same look is rendered once, whoever asks, and for good.

    A clip lies at FOLDER/LOOK/HASH.mp4 and appears there only when it is complete, so any number of processes may share
    a folder: of two that make the same clip at once, one file stays. Recorders stay warm, one for each task; threads
    may share a cache. Close it, or use it in a `with` statement.
    """

    def __init__(self, folder: str | Path, look: Look = DEFAULT_LOOK, max_bytes: int | None = None) -> None:
        """folder: made if need be. max_bytes: when more lies there, clips of this look used longest ago are removed."""
        if max_bytes is not None and max_bytes < 1:
            raise PrefenvsError(f"max_bytes={max_bytes} leaves room for no clip: give a number of bytes, or None")
        self.look, self.max_bytes = look, max_bytes
        self.folder = Path(folder) / look.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrefenvsError(f"clips cannot be kept in {folder}: {error.strerror}; choose another folder") from None
        self._recorders: dict[tuple[str, bool], Recorder] = {}
        self._bytes: int | None = None
        self._turn = threading.Lock()
        self._remove_stale()

    def path(self, segment: Segment | str) -> Path:
        """Return where the clip of a segment, given itself or by hash, lies or will lie.

        Raises PrefenvsError for text that is no hash.
        """
        key = segment if isinstance(segment, str) else segment.hash
        if not _HASH.fullmatch(key):
            raise PrefenvsError(f"{key[:80]!r} is no segment's hash: it has 64 digits, 0 to 9 and a to f")
        return self.folder / f"{key}.{self.look.format}"

    def get(self, segment: Segment | str) -> Path | None:
        """Return the clip of a segment, given itself or by hash, if it is there; it then counts as used just now."""
        path = self.path(segment)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError:
            # A file system that is read-only still shows its clips.
            return path if path.exists() else None
        return path

    def describe(self, segment: Segment) -> dict[str, Any]:
        """Return what a player must know before the clip is there: frames, fps, width and height. Renders nothing."""
        recorder = self.look.recorder(segment)
        steps, fps = recorder.steps(segment)
        # H.264 has even sides only.
        width, height = (side + side % 2 if self.look.format == "mp4" else side for side in recorder.shape(segment))
        return {"frames": len(steps), "fps": float(fps), "width": width, "height": height}

    def make(self, segment: Segment) -> Path:
        """Return the clip of a segment, rendered in this thread unless it is there."""
        found = self.get(segment)
        if found is not None:
            return found
        path = write(self._recorder(segment), segment, self.path(segment), self.look)
        self.note(path)
        return path

    def render(self, segments: Iterable[Segment], progress: bool = False) -> list[Path]:
        """Return the clips of many segments in their order, rendered one after the other where they are missing."""
        segments = list(segments)
        hidden = None if progress else True
        return [self.make(segment) for segment in tqdm(segments, desc="clips", unit="clip", disable=hidden)]

    def note(self, path: Path) -> None:
        """Count a clip that has just been written here, by whatever process, and make room if there is too much."""
        if self.max_bytes is None:
            return
        with self._turn:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._files())
            else:
                # Another process, or another clip's turn, may have removed it already.
                with contextlib.suppress(FileNotFoundError):
                    self._bytes += path.stat().st_size
            if self._bytes > self.max_bytes:
                self._bytes = self._trim(self.max_bytes, spared=path)

    def trim(self, max_bytes: int) -> int:
        """Remove the clips used longest ago until at most `max_bytes` are left, and return how many bytes that is."""
        with self._turn:
            return self._trim(max_bytes)

    def close(self) -> None:
        """Free the renderers; the clips stay. A second call does nothing."""
        with self._turn:
            for recorder in self._recorders.values():
                recorder.close()
            self._recorders.clear()

    def _recorder(self, segment: Segment) -> Recorder:
        kind = segment.task, segment.visible
        with self._turn:
            if kind not in self._recorders:
                self._recorders[kind] = self.look.recorder(segment)
            return self._recorders[kind]

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of last use, size and path of each clip of this look."""
        files = []
        for entry in os.scandir(self.folder):
            # Another process may remove a file at any time.
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.startswith("."):
                    status = entry.stat()
                    files.append((status.st_mtime_ns, status.st_size, Path(entry.path)))
        return files

    def _trim(self, max_bytes: int, spared: Path | None = None) -> int:
        files = sorted(self._files())
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= max_bytes:
                break
            if path != spared:
                path.unlink(missing_ok=True)
                left -= size
        return left

    def _remove_stale(self) -> None:
        """Remove what a killed writer has left behind."""
        for path in self.folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()


def write(recorder: Recorder, segment: Segment, path: Path, look: Look) -> Path:
    """Write one segment to `path` as `look` says, whether or not there is a clip already."""
    if look.format == "png":
        return recorder.strip(segment, path, look.strip)
    return recorder.clip(segment, path)
