"""A process of its own that answers requests, one after the other, and what ends processes whose parent was killed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from prefenvs.errors import PrefenvsError

Answering = Callable[..., contextlib.AbstractContextManager[Callable[[Any], Any]]]
"""Opens what a child works with, hands out the function that answers, and closes it again."""

END = (
    "read -r line; kill -s INT $0; for second in $(seq 60); do kill -0 $0 || break; sleep 1; done; kill -s KILL -- -$0"
)
"""A shell's script that waits for its input to end, which no death of the writer prevents; $0 is the program to end."""


class Child:
    """A spawned process with a pipe to it; a script that has one keeps its main part under `__name__ == "__main__"`.

    An answer is a PrefenvsError where there is none to a request. The child ends when its parent does.
    """

    def __init__(self, answering: Answering, *arguments: Any, name: str) -> None:
        """`answering`: a function of a module, called with `arguments` in the child."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_answer_all, args=(theirs, answering, arguments), name=name, daemon=True)
        with _blocked_interrupts():
            self.process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        """Ask for an answer; raises EOFError if the child has died, and what pickling raises."""
        try:
            self._pipe.send(request)
        except OSError:
            raise EOFError from None

    def answered(self) -> bool:
        """Tell whether `receive` would not wait."""
        return self._pipe.poll()

    def receive(self) -> Any:
        """Wait for the next answer, in the order of the requests; raises EOFError if the child has died."""
        # A process that dies closes its end, which ends the wait too.
        wait([self._pipe, self.process.sentinel])
        try:
            return self._pipe.recv()
        except OSError:
            raise EOFError from None

    def stop(self, at_once: bool = False) -> int | None:
        """End the child, after the answer it is at unless `at_once`, and return its exit status."""
        with contextlib.suppress(OSError):
            self._pipe.close()
        if at_once:
            self.process.kill()
        self.process.join()
        return self.process.exitcode


@contextlib.contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Let a process that starts meanwhile be out of Ctrl-C's reach from the first; it comes to all of a terminal."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _answer_all(pipe: Connection, answering: Answering, arguments: tuple[Any, ...]) -> None:
    """Answer until the parent hangs up; runs in the child."""
    # The parent decides what becomes of its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with answering(*arguments) as answer:
        while True:
            try:
                result = answer(pipe.recv())
            except EOFError:
                break
            except PrefenvsError as error:
                result = error
            except Exception as error:
                result = PrefenvsError(f"{type(error).__name__}: {error}")
            try:
                pipe.send(result)
            except OSError:
                break


def end_with_parent(program: int) -> Callable[[], None]:
    """Have a program, the leader of its process group, ended if this process dies, even by `kill -9`.

    It is asked to stop as Ctrl-C does, and what is left of its group a minute later is killed. Returns a function that
    calls this off, for when the program has ended.
    """
    quiet, line = subprocess.DEVNULL, ["/bin/sh", "-c", END, str(program)]
    # In a session of its own a terminal's Ctrl-C does not reach it.
    watcher = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, start_new_session=True)

    def call_off() -> None:
        watcher.kill()
        watcher.communicate()

    return call_off


def follow_parent() -> None:
    """End this process, a worker that was spawned, when its parent dies: a pool's workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_and_end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_and_end, daemon=True).start()
