"""Evaluations in a process of their own, which go on while training does."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import tempfile
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from agents.products import products
from prefenvs.closing import Closing
from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Env, Evaluation, evaluate
from prefenvs.tasks import find_task

ENVS = 5
"""Environments in which an evaluation's episodes are played side by side."""
WAITING = 2
"""Evaluations under way; training waits before it asks for another."""


@dataclass(frozen=True)
class Order:
    """What to evaluate: so many episodes of a task, with trajectories or without."""

    task: str
    episodes: int
    seed: int
    record: bool

    def carry_out(self, policy: Any, envs: list[Env]) -> Evaluation:
        """Evaluate in `envs`, which are made where there are none and stay open."""
        if not envs:
            envs += [make(self.task) for _ in range(min(ENVS, self.episodes))]
        record, key = self.episodes if self.record else 0, find_task(self.task).success_key
        return evaluate(policy, self.task, self.episodes, self.seed, record=record, envs=envs, success_key=key)


class EvaluationProcess(Closing):
    """A process that evaluates copies of policies, on the CPU, with what the training process would have found.

    The process is spawned with the first order: a script that evaluates beside training keeps its main part under
    `if __name__ == "__main__":`.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="prefenvs-")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs,), name="evaluation", daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._waiting: deque[Callable[[Evaluation], None]] = deque()
        self._closed = False

    def submit(self, model: Any, order: Order, then: Callable[[Evaluation], None]) -> None:
        """Evaluate a model as it is now; `then` gets the result from a later `poll` or `drain`, in order."""
        self._take(WAITING - 1)
        path = Path(self._folder.name) / f"{next(self._numbers)}.zip"
        model.save(path)
        self._waiting.append(then)
        try:
            self._pipe.send((type(model), path, order))
        except OSError:
            raise self._dead() from None

    def poll(self) -> None:
        """Hand on the results that have come, without waiting."""
        while self._waiting and self._pipe.poll():
            self._receive()

    def drain(self) -> None:
        """Wait for all results."""
        self._take(0)

    def close(self) -> None:
        """End the process; results that have not come are lost."""
        if not self._closed:
            self._closed = True
            self._pipe.close()
            # It may be in the middle of an evaluation that nobody waits for any more.
            self._process.kill()
            self._process.join()
            self._folder.cleanup()

    def _take(self, left: int) -> None:
        while len(self._waiting) > left:
            wait([self._pipe, self._process.sentinel])
            self._receive()

    def _receive(self) -> None:
        try:
            result: Evaluation | PrefenvsError = self._pipe.recv()
        except (EOFError, OSError):
            raise self._dead() from None
        then = self._waiting.popleft()
        if isinstance(result, PrefenvsError):
            raise result
        then(result)

    def _dead(self) -> PrefenvsError:
        self._process.join(1.0)
        return PrefenvsError(
            f"the process that evaluates beside training has ended (exit status {self._process.exitcode}): train "
            "without --evaluate-beside; a script that uses it keeps its main part under `if __name__ == "
            '"__main__":`'
        )


def _work(pipe: Connection) -> None:
    """Evaluate what comes until the training process hangs up; runs in a process of its own."""
    # Ctrl-C reaches all processes of a terminal; the training process decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    envs: dict[str, list[Env]] = {}
    while True:
        try:
            kind, path, order = pipe.recv()
        except (EOFError, OSError):
            break
        result: Evaluation | PrefenvsError
        try:
            model = kind.load(path, device="cpu")
            path.unlink()
            with products():
                result = order.carry_out(model, envs.setdefault(order.task, []))
        except PrefenvsError as error:
            result = error
        except Exception as error:
            result = PrefenvsError(f"evaluating beside training failed: {type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            pipe.send(result)
    for env in itertools.chain.from_iterable(envs.values()):
        env.close()
