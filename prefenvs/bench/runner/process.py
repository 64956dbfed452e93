"""One program under limits: started in a process group of its own, watched, and ended with all its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from prefenvs.bench.cells import Limits
from prefenvs.errors import PrefenvsError, install_command
from prefenvs.internal.child import end_with_parent

try:
    import psutil
except ImportError:
    raise PrefenvsError(f"benchmarks need the package psutil: {install_command('bench')}") from None

MARK = "PREFENVS_CELL"
"""Variable in a program's environment, which its descendants inherit wherever they go: the folder that it works in."""
LOOK = 0.2
"""Seconds between two looks at a running program."""
GRACE = 60.0
"""Seconds that a program has for its checkpoint after Ctrl-C."""


class Stop(Event):
    """Set by the first Ctrl-C: programs write their checkpoints and end. hurry: set by the second, they end at once."""

    hurry = False


@dataclass(frozen=True)
class Exit:
    """How a program ended.

    code: its exit status, negative where a signal ended it; reason: "" if it ended by itself, else "time", "memory" or
    "stopped"; seconds: wall-clock; cpu_seconds: of the program and the children it waited for; peak_gb: largest sum of
    resident memory of its process tree that was seen.
    """

    code: int
    reason: str
    seconds: float
    cpu_seconds: float
    peak_gb: float


@dataclass(frozen=True)
class Place:
    """Where a program runs: its folder, the file for its output, its working directory and its environment."""

    folder: Path
    log: Path
    cwd: Path
    environment: Mapping[str, str]

    @property
    def pid_file(self) -> Path:
        """Names the program while it runs."""
        return self.folder / "process.txt"


def supervise(line: Sequence[str], place: Place, limits: Limits, stop: Stop) -> Exit:
    """Run a program to its end; `stop` ends it as Ctrl-C would, and a KeyboardInterrupt does so; a limit kills it."""
    begin = time.monotonic()
    program = _Program(line, place)
    peak, reason = 0.0, ""
    try:
        try:
            while not reason and not program.ended():
                peak = max(peak, program.resident_gb())
                if peak > limits.memory_gb:
                    reason = "memory"
                elif time.monotonic() - begin > limits.seconds:
                    reason = "time"
                elif stop.wait(LOOK):
                    reason = "stopped"
        except KeyboardInterrupt:  # a Ray task is cancelled by one
            stop.set()
            reason = "stopped"
        if reason == "stopped":
            program.interrupt(stop)
    finally:
        code, cpu_seconds = program.kill()
        place.pid_file.unlink(missing_ok=True)
    return Exit(code, reason, time.monotonic() - begin, cpu_seconds, peak)


class _Program:
    """A running program and its descendants, which share its process group unless they leave it."""

    def __init__(self, line: Sequence[str], place: Place) -> None:
        environment = {**os.environ, **place.environment, MARK: str(place.folder)}
        self.place = place
        # Ray's workers block SIGINT, which a program would inherit and then never hear.
        mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with place.log.open("ab") as output:
            try:
                self.process = subprocess.Popen(
                    list(line),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=place.cwd,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                raise PrefenvsError(f"{line[0]!r} cannot be started: {error.strerror}") from None
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.pid = self.process.pid
        self.call_off = end_with_parent(self.pid)
        self.watched = psutil.Process(self.pid)
        place.pid_file.write_text(f"{self.pid} {self.watched.create_time()}")

    def ended(self) -> bool:
        """Tell whether the program has ended; it is not waited for yet, so that its number stays its own."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def resident_gb(self) -> float:
        """Return the resident memory of the program and its descendants."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (self.watched, *self.watched.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += process.memory_info().rss
        return total / 1e9

    def interrupt(self, stop: Stop) -> None:
        """Ask the program to stop, as Ctrl-C does, and give it time to write its checkpoint."""
        os.kill(self.pid, signal.SIGINT)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and not self.ended() and not stop.hurry:
            time.sleep(LOOK / 4)

    def kill(self) -> tuple[int, float]:
        """End whatever still runs of it and return its exit status and CPU seconds."""
        self.call_off()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        end_descendants(self.place)
        _, status, usage = os.wait4(self.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return self.process.returncode, usage.ru_utime + usage.ru_stime


def end_descendants(place: Place) -> None:
    """End what was started for a cell and has left its program's process group, as a daemon does."""
    mine = os.getpid()
    for process in psutil.process_iter():
        # Others' processes do not show their environment, and some end while they are looked at.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != mine and process.environ().get(MARK) == str(place.folder):
                process.kill()


def end_orphan(place: Place) -> None:
    """End the program that a killed runner left behind in a folder, if it still runs; it is known by its start."""
    with contextlib.suppress(FileNotFoundError, ValueError, psutil.NoSuchProcess):
        pid, created = place.pid_file.read_text().split()
        orphan = psutil.Process(int(pid))
        if abs(orphan.create_time() - float(created)) < 1.0:
            os.killpg(orphan.pid, signal.SIGKILL)
            orphan.wait(10)
    end_descendants(place)
    place.pid_file.unlink(missing_ok=True)


def last_lines(log: Path, count: int = 20) -> str:
    """Return the end of a program's output, without the states that a progress bar overwrote."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 16_384, 0))
        text = file.read().decode(errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines()]
    return "\n".join([line for line in lines if line][-count:])
