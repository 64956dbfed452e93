"""What the page shows of progress: labels done, the rate, the budget, the learner's own figures, and agreement."""

from __future__ import annotations

import threading
import time as clock
from collections import Counter
from itertools import pairwise
from typing import Any

from prefenvs.agreement import repeat_consistency
from prefenvs.oracles.labelling.answers import ORACLE
from prefenvs.oracles.people.moment import is_moment
from prefenvs.store import GOLD, TUTORIAL, Assignments, Event

BREAK = 120.0
"""Seconds between two answers from which on they do not count as work."""
RECENT = 50
"""Answers that the rate is taken over."""
PREDICTED = ("held_out_accuracy", "held_out_low", "held_out_high", "held_out_count")
"""What a learner tells of the answers that its reward model predicted before it learned from them."""
ALIVE = 600.0
"""Seconds since its last note for which a learner is taken to be at work."""


class Status:
    """Read the log on, event by event, and keep count; the log may be long, so it is never read twice."""

    def __init__(self, assignments: Assignments) -> None:
        self.store, self.plan, self.assignments = assignments.store, assignments.plan, assignments
        self._cursor = 0
        self._answers: dict[str, Event] = {}
        # Answers by run and subject, whoever gave them: what has none is pending.
        self._settled: Counter[tuple[str, str]] = Counter()
        self._subjects: dict[str, tuple[str, str]] = {}
        self._turn = threading.Lock()
        self._asked: tuple[float, int] = (0.0, 0)

    def read(self, annotator: str) -> dict[str, Any]:
        """Return /api/status for an annotator."""
        with self._turn:
            self._catch_up()
            answers = list(self._answers.values())
            if clock.monotonic() > self._asked[0]:
                self._asked = clock.monotonic() + 1.0, self.assignments.count_asked()
            pending = max(0, self._asked[1] - len(self._settled))
        labels = [event for event in answers if event.kind != "repeat"]
        # Questions, as in the budget: what two people answered is one of them.
        done = len({(event.run, event.query or event.segment) for event in labels})
        mine = [event for event in answers if event.annotator == annotator]
        repeats = [event for event in mine if event.kind == "repeat"]
        learner = self.store.learner_status(self.plan.run)
        return {
            "done": done,
            # A learner counts questions; of those, the clips are rated one by one.
            "budget": _budget(None if self.plan.kind == "rating" else learner, done + pending),
            "labels_per_hour": labels_per_hour([float(event.extra.get("received", event.time)) for event in mine]),
            "pending": pending,
            "mine": {
                "done": len(mine),
                "repeat_consistency": repeat_consistency(repeats, self._answers),
            },
            "learner": None
            if learner is None
            else {
                "steps": learner.get("steps"),
                "labels": learner.get("labels"),
                **{name: learner.get(name) for name in PREDICTED},
                "updated": learner["updated"],
            },
        }

    def more_may_come(self) -> bool:
        """Tell whether a learner is at work that may still ask something."""
        learner = self.store.learner_status(self.plan.run)
        return learner is not None and clock.time() - float(learner["updated"]) < ALIVE

    def _catch_up(self) -> None:
        kinds = ("rating",) if self.plan.kind == "rating" else ("comparison", "skip")
        for event in self.store.events_after(self._cursor, run=self.plan.run):
            self._cursor = event.seq or self._cursor
            if event.run in (GOLD, TUTORIAL) or is_moment(event):
                continue
            if event.kind == "undo":
                self._answers.pop(str(event.target), None)
                self._unsettle(str(event.target))
                continue
            if event.kind in kinds:
                subject = event.run, str(event.query or event.segment)
                self._subjects[event.id] = subject
                self._settled[subject] += 1
            if event.kind in (*kinds, "repeat") and event.oracle == ORACLE:
                self._answers[event.id] = event

    def _unsettle(self, key: str) -> None:
        subject = self._subjects.pop(key, None)
        if subject is not None:
            self._settled[subject] -= 1
            if not self._settled[subject]:
                del self._settled[subject]


def labels_per_hour(times: list[float]) -> float:
    """Return the rate of the last answers, given at these times in seconds; pauses do not count."""
    times = sorted(times)[-RECENT:]
    gaps = [after - before for before, after in pairwise(times) if after - before < BREAK]
    return 3600.0 * len(gaps) / sum(gaps) if gaps and sum(gaps) > 0 else 0.0


def _budget(learner: dict[str, Any] | None, asked: int) -> int | None:
    """The learner's label budget; without a learner, what has been asked."""
    budget = None if learner is None else learner.get("budget")
    return asked if budget is None else int(budget)
