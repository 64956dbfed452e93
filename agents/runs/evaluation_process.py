"""Evaluations in a process of their own, which go on while training does."""

from __future__ import annotations

import itertools
import pickle
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefenvs.agents.nets.kernels import products
from prefenvs.envs import make
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import Env, Evaluation, evaluate
from prefenvs.internal.child import Child
from prefenvs.internal.closing import Closing
from prefenvs.tasks import find_task

ENVS = 5
"""Environments in which an evaluation's episodes are played side by side."""
WAITING = 2
"""Evaluations under way; training waits before it asks for another."""


@dataclass(frozen=True)
class Order:
    """What to evaluate: so many episodes of a task from number `first` on, of at most `horizon` steps.

    record: with trajectories.
    """

    task: str
    episodes: int
    seed: int
    record: bool
    horizon: int | None = None
    first: int = 0

    def carry_out(self, policy: Any, envs: list[Env]) -> Evaluation:
        """Evaluate in `envs`, which are made where there are none and stay open."""
        if not envs:
            envs += [make(self.task) for _ in range(min(ENVS, self.episodes))]
        record, key = self.episodes if self.record else 0, find_task(self.task).success_key
        return evaluate(
            policy,
            self.task,
            self.episodes,
            self.seed,
            record=record,
            envs=envs,
            success_key=key,
            horizon=self.horizon,
            first=self.first,
        )


class EvaluationFailed(PrefenvsError):
    """An evaluation beside training could not be made; the training itself is whole."""


class EvaluationProcess(Closing):
    """A process that evaluates copies of policies, on the CPU, with what the training process would have found.

    The process is spawned: a script that evaluates beside training keeps its main part under
    `if __name__ == "__main__":`.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="prefenvs-")
        self._child = Child(_evaluating, name="evaluation")
        self._numbers = itertools.count()
        self._waiting: deque[Callable[[Evaluation], None]] = deque()
        self._failure: EvaluationFailed | None = None
        self._closed = False

    def submit(self, model: Any, order: Order, then: Callable[[Evaluation], None]) -> None:
        """Evaluate a model as it is now; `then` gets the result from a later `poll` or `drain`, in order.

        What goes wrong is told by those too, so that training is never cut off in the middle of a step.
        """
        self._take(WAITING - 1)
        if self._failure is not None:
            return
        path = Path(self._folder.name) / f"{next(self._numbers)}.zip"
        model.save(path)
        try:
            self._child.send((type(model), path, order))
        except EOFError:
            self._fail()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            self._fail(f"a process of its own cannot import {type(model).__name__}: {error}")
        else:
            self._waiting.append(then)

    def poll(self) -> None:
        """Hand on the results that have come, without waiting; raises EvaluationFailed where one cannot come."""
        while self._waiting and self._child.answered():
            self._receive()
        self._check()

    def drain(self) -> None:
        """Wait for all results, as `poll` does for those that have come."""
        self._take(0)
        self._check()

    def close(self) -> None:
        """End the process; results that have not come are lost."""
        if not self._closed:
            self._closed = True
            # It may be in the middle of an evaluation that nobody waits for any more.
            self._child.stop(at_once=True)
            self._folder.cleanup()

    def _take(self, left: int) -> None:
        while len(self._waiting) > left:
            self._receive()

    def _receive(self) -> None:
        try:
            result: Evaluation | PrefenvsError = self._child.receive()
        except EOFError:
            self._fail()
            return
        then = self._waiting.popleft()
        if isinstance(result, PrefenvsError):
            self._fail(str(result))
        else:
            then(result)

    def _fail(self, reason: str = "") -> None:
        """Note what went wrong first; nothing more is evaluated until it has been told."""
        self._waiting.clear()
        if not reason:
            reason = (
                f"its process has ended (exit status {self._child.stop()}); a script that uses it keeps its main "
                'part under `if __name__ == "__main__":`'
            )
        self._failure = self._failure or EvaluationFailed(
            f"evaluating beside training failed: {reason}. Train without --evaluate-async"
        )

    def _check(self) -> None:
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


@contextmanager
def _evaluating() -> Iterator[Callable[[tuple[Any, Path, Order]], Evaluation]]:
    """Evaluate, in environments that stay open; in the process of its own."""
    torch.set_num_threads(1)
    envs: dict[str, list[Env]] = {}

    def evaluate_saved(request: tuple[Any, Path, Order]) -> Evaluation:
        kind, path, order = request
        model = kind.load(path, device="cpu")
        path.unlink()
        with products():
            return order.carry_out(model, envs.setdefault(order.task, []))

    yield evaluate_saved
    for env in itertools.chain.from_iterable(envs.values()):
        env.close()
