"""A vision-language model as an oracle, over any server that speaks the OpenAI protocol."""

from __future__ import annotations

import atexit
import dataclasses
import queue
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.oracles.vlm.client import check_server, import_openai
from prefenvs.oracles.vlm.config import VLMConfig
from prefenvs.oracles.vlm.prompts import read_prompts
from prefenvs.oracles.vlm.rating import Rating
from prefenvs.oracles.vlm.records import NONSENSE, Records, count_unread
from prefenvs.oracles.vlm.verdicts import Judgement
from prefenvs.oracles.vlm.worker import Trouble, Worker
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.store import Spending, Store
from prefenvs.tasks import Task, find_task, is_same_task

POLL_SECONDS = 0.05
MARGIN = 5.0
"""Seconds in which a reply that has come is written down."""


class VLMOracle(Oracle, Closing):
    """Let a model compare pictures of two segments for the task's sentence (RL-VLM-F, Wang et al. 2024).

    `ask` returns at once and the model is called from a thread of its own; `collect` returns what has been answered.
    Whatever is no clear verdict (unsure, refused, cut off, in the wrong form, identical pictures, one that changes with
    the order) is a skip, and `judgements` tells why. Every prompt and reply is in the store before its answer is handed
    out, and a prompt that has a reply there is never sent again: a run that is stopped and started anew pays for
    nothing twice.

    While the server is down, queries stay pending and are tried again every half a minute; a warning says so, or with
    `wait` an error. Where trying again is in vain (a wrong key, an unknown model), `collect` raises PrefenvsError once
    all answers have been handed out. When the budget is used up, a warning says so and the rest stays pending.
    """

    name = "vlm"
    most_segments = 2

    def __init__(
        self,
        task: Task | str,
        model: str,
        config: VLMConfig | None = None,
        *,
        store: Store | None = None,
        run: str = "",
        wait: bool = False,
        **settings: Any,
    ) -> None:
        """Make an oracle of `model`.

        task: whose segments are compared, by its sentence and camera. store: where prompts and replies are kept, None
        for the memory of this object. run: whose calls the budget counts. wait: `collect` waits until all is answered.
        settings: fields of `VLMConfig` to be changed, such as base_url="http://localhost:8000/v1".

        The key comes from the environment only (see `VLMConfig.key_env`) and is kept nowhere. Raises PrefenvsError for
        settings that cannot work, a missing key, and a missing openai package.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        if not model:
            raise PrefenvsError("which model is to rate? Give its name as the server knows it")
        unknown = settings.keys() - VLMConfig.__dataclass_fields__.keys()
        if unknown:
            raise PrefenvsError(
                f"a model's setting {sorted(unknown)[0]!r} is unknown: choose from "
                f"{', '.join(VLMConfig.__dataclass_fields__)}"
            )
        self.model, self.store, self.run, self.wait = model, store, run, wait
        self.config = dataclasses.replace(config or VLMConfig(), **settings)
        read_prompts(self.config.prompts)
        if not self.config.replay:
            import_openai()
            self.config.read_key()
        self.judgements: dict[str, Judgement] = {}
        self.reasons: Counter[str] = Counter()
        self.cost = self.tokens = self.answered = 0.0
        self._open = 0
        self._place: dict[str, int] = {}
        self._worker: Worker | None = None
        self._warned: Trouble | None = None
        self._nonsense = False
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise a PrefenvsError if the server cannot be reached or lacks the model; see `check_server`."""
        if not self.config.replay:
            check_server(self.model, self.config)

    def ask(self, queries: Sequence[Query]) -> None:
        """Hand pairs to the model; returns at once. Raises PrefenvsError for other queries, or of another task."""
        for query in queries:
            if len(query.segments) != 2:
                raise PrefenvsError(
                    f"a model compares 2 segments, query {query.id} has {len(query.segments)}: choose a selector of "
                    "pairs, or let people answer (--oracle human, prefenvs label)"
                )
            task = query.segments[0].task
            if task and not is_same_task(task, self.task.id):
                raise PrefenvsError(f"a query about {task!r} was put to a rater of {self.task.id!r}")
        if queries:
            self._open += len(queries)
            for query in queries:
                self._place.setdefault(query.id, len(self._place))
            self._start().put(list(queries))

    def collect(self) -> list[Preference]:
        """Return new answers; raises PrefenvsError where none is to come, as the class tells."""
        self._wait_for_answers()
        answers = self._take()
        trouble = None if self._worker is None else self._worker.trouble
        if trouble is None or answers or not self._open:
            return answers
        if trouble.kind in ("fatal", "replay") or (trouble.kind == "outage" and self.wait):
            assert self._worker is not None
            self._worker.retry()
            raise PrefenvsError(f"{self.model}: {trouble.message}; {self._open} queries wait, nothing is lost")
        if trouble != self._warned:
            self._warned = trouble
            later = "trying again" if trouble.kind == "outage" else "training goes on without further answers"
            warnings.warn(f"{self.model}: {trouble.message}; {later}", stacklevel=2)
        return answers

    @property
    def pending(self) -> int:
        """Number of asked queries whose answers have not been handed out."""
        return self._open

    @property
    def trouble(self) -> Trouble | None:
        """Why queries stay unanswered at this moment, if they do."""
        return None if self._worker is None else self._worker.trouble

    @property
    def spent(self) -> Spending:
        """What this run's calls in the store have used, earlier processes included."""
        return Records(self.store, self.run).spent

    def summary(self) -> list[str]:
        """Say in a line what this run has cost, earlier processes included; nothing without a store."""
        spent = self.spent
        money = f", cost {spent.cost:.4f}" if spent.cost else ""
        used = f"{self.model}: {spent.queries:,} queries, {spent.tokens_in + spent.tokens_out:,} tokens{money}"
        return [used] if spent.queries else []

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until all that can be answered is, for at most `timeout` seconds; `collect` then returns it."""
        return self._worker is None or self._worker.idle.wait(timeout)

    def close(self, patience: float | None = None) -> None:
        """Begin no more calls and let those under way end and be written down; `collect` still returns answers.

        patience: seconds after which they are left behind, by default those that a reply may take and a few more. A
        later `ask` starts anew.
        """
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.close(self.config.timeout + MARGIN if patience is None else patience)

    def _start(self) -> Worker:
        with self._lock:
            former = self._worker
            if former is None or former.ended:
                records = Records(self.store, self.run)
                make = (self.task, self.model, self.config, records)
                self._worker = Worker(lambda: Rating(*make), self.config.concurrency)
                if former is None:
                    # A program that ends lets the calls it has paid for be written down.
                    atexit.register(_close, weakref.ref(self))
                else:
                    self._worker.ready = former.ready
                    self._worker.put(former.left())
            assert self._worker is not None
            return self._worker

    def _wait_for_answers(self) -> None:
        if not self.wait or self._worker is None:
            return
        self.waiting = True
        try:
            while not self._worker.idle.wait(POLL_SECONDS):
                pass
        finally:
            self.waiting = False

    def _take(self) -> list[Preference]:
        answers: list[Preference] = []
        while self._worker is not None:
            try:
                query, judgement = self._worker.ready.get_nowait()
            except queue.Empty:
                break
            answers.append(self._preference(query, judgement))
        self._open -= len(answers)
        if not self._nonsense and len(self.judgements) >= NONSENSE and count_unread(self) == len(self.judgements):
            self._nonsense = True
            last = " ".join(self.judgements[answers[-1].query.id].opinions[-1].reply.split())[:160]
            warnings.warn(
                f"none of the first {len(self.judgements)} replies of {self.model} is a verdict, the last is {last!r}: "
                "Ctrl-C stops; mend the prompts (--vlm-prompts), raise --vlm-max-tokens, or choose another model",
                stacklevel=3,
            )
        # In the order asked, so that a run that waits for its answers is the same whichever reply came first.
        return sorted(answers, key=lambda answer: self._place[answer.query.id])

    def _preference(self, query: Query, judgement: Judgement) -> Preference:
        self.judgements[query.id] = judgement
        self.cost += judgement.cost
        self.tokens += judgement.tokens_in + judgement.tokens_out
        if judgement.reason:
            self.reasons[judgement.reason] += 1
        shown = judgement.opinions[0].shown if len(judgement.opinions) == 1 else None
        return Preference(query, judgement.probabilities, self.model, self.name, seconds=judgement.seconds, shown=shown)


def _close(reference: weakref.ref[VLMOracle]) -> None:
    oracle = reference()
    if oracle is not None:
        oracle.close()
