"""Downloads that go on where they were cut off, and are put in place only when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefenvs.errors import PrefenvsError

BLOCK = 1 << 20


def download(
    address: str,
    path: Path,
    checksum: str | None = None,
    *,
    progress: bool = True,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """Fetch a file to `path` and return it; a second process that wants the same file waits for the first.

    What has come lies in <path>.part, and the next attempt, or the next call, asks only for the rest (HTTP Range, with
    If-Range so that a file changed meanwhile begins anew). The file takes its name in one step, after its size and its
    checksum were found right.

    checksum: SHA-256 or MD5 in hex; by default the first word of <path>.sha256 or <path>.md5, if there is such a file.
    attempts: how often to try when the connection fails, `pause` seconds apart and doubling; an address that does not
    exist is tried once. timeout: seconds without data. Raises PrefenvsError if the file cannot be had, or is not what
    the checksum says.
    """
    checksum = (checksum or _side_file(path) or "").lower() or None
    if checksum is not None and len(checksum) not in (32, 64):
        raise PrefenvsError(f"a checksum is the hex form of SHA-256 (64 digits) or MD5 (32 digits), got {checksum!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with _alone(part):
        if path.is_file():
            return path
        for attempt in range(attempts):
            try:
                _fetch_rest(address, part, progress, timeout)
                break
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "reason", None)
                hopeless = isinstance(reason, socket.gaierror) or getattr(error, "code", 500) < 500
                if hopeless or attempt == attempts - 1:
                    raise _failure(address, path, part, error) from error
                time.sleep(pause * 2**attempt)
        if checksum is not None and (found := _digest(part, checksum)) != checksum:
            _forget(part)
            raise PrefenvsError(f"{address} has the checksum {found}, expected {checksum}: the download was removed")
        part.replace(path)
        _forget(part)
    return path


def _failure(address: str, path: Path, part: Path, error: Exception) -> PrefenvsError:
    reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", None) or error
    there = f" {part.stat().st_size} bytes are kept, and the next call goes on from there." if part.exists() else ""
    return PrefenvsError(f"cannot download {address} ({reason}).{there} Without a network, put the file at {path}")


def _fetch_rest(address: str, part: Path, progress: bool, timeout: float) -> None:
    """Append to `part` what it lacks; raises OSError if the connection ends before the file does."""
    have = part.stat().st_size if part.exists() else 0
    tag_file = _tag_file(part)
    request = urllib.request.Request(address, headers={"User-Agent": "prefenvs"})
    if have and tag_file.is_file():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag_file.read_text())
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range") == f"bytes */{have}":
            return
        if error.code == 416:
            _forget(part)
            raise OSError("the file has changed, and what was kept of it does not fit") from error
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
        # A weak tag does not promise the same bytes; without a strong one a download begins anew.
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag)
        else:
            tag_file.unlink(missing_ok=True)
        name = part.name.removesuffix(".part")
        with (
            part.open("ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=name, disable=not progress) as bar,
        ):
            while block := response.read(BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


def _side_file(path: Path) -> str | None:
    for suffix in (".sha256", ".md5"):
        side = path.with_name(path.name + suffix)
        if side.is_file():
            words = side.read_text().split()
            if not words:
                raise PrefenvsError(f"{side} is empty: it should begin with a checksum")
            return words[0]
    return None


def _digest(path: Path, like: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256" if len(like) == 64 else "md5").hexdigest()


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold a lock on <part>.lock, where the system has file locks; the file goes when the lock does."""
    lock = part.with_name(part.name + ".lock")
    while True:
        with lock.open("w") as file:
            _lock(file)
            # Who held the lock before has removed the file that it was on; then another one has to be locked.
            # Whoever holds another one may remove it between two questions, so it is asked about once.
            try:
                same = os.path.samestat(os.fstat(file.fileno()), lock.stat())
            except FileNotFoundError:
                same = False
            if not same:
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


def _lock(file: Any) -> None:
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
