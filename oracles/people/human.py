"""People as an oracle: questions go into a store, `prefenvs label` shows them, answers are read back as they come."""

from __future__ import annotations

import time as clock
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import Range, check_list
from prefenvs.oracles.people.gold import score_gold
from prefenvs.oracles.people.strength import calibrate, recalibrate
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Array
from prefenvs.store import MOST_SEGMENTS, Event, Store
from prefenvs.store.events import standing

MAJORITY = "majority"
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class HumanOptions:
    """People as raters, who label what a store holds."""

    store: Annotated[str | None, arg(name="store")] = None
    """The store that `prefenvs label --store` serves, a file or a postgresql:// URL."""
    wait: Annotated[bool, arg(name="wait")] = False
    """Stop at each session until all is answered; otherwise training goes on meanwhile."""
    trust: Annotated[Literal["all", "gold"], arg(name="trust")] = "all"
    """Trust everybody alike, or each person as their score on gold questions says."""
    calibrate: Annotated[bool, arg(name="calibrate")] = False
    """Give "better" and "much better" the probabilities that repeated questions show."""


class HumanOracle(Oracle):
    """Ask people through a store; learning and labelling are two processes, either of which may stop and start again.

    `ask` writes queries under the name of a run, and `collect` reads the log on from a cursor, so nothing that one
    reader takes is lost to another. A new object starts at the beginning of the log and hands out every answer of its
    run once; one that is given the `state_dict` of a checkpoint goes on from there.

    An answer that was undone, or given anew, after it had been handed out cannot be called back. Its correction is
    handed out as a further answer by the same annotator to the same query: a skip if nothing took its place. Learners
    let the later answer replace the earlier one.
    """

    name = "human"
    most_segments = MOST_SEGMENTS
    kinds: tuple[str, ...] = ("comparison", "skip")
    """Kinds of events that are answers to what this oracle asks."""

    def __init__(
        self,
        store: Store,
        run: str = "",
        *,
        annotators: Collection[str] | None = None,
        weights: Mapping[str, float] | Literal["gold"] | None = None,
        combine: Literal["each", "majority"] = "each",
        wait: bool = False,
        policy: str = "",
        calibrate: bool = False,
    ) -> None:
        """Make an oracle of whoever labels `run` in `store`.

        annotators: whose answers count; None for everybody's. weights: how far an annotator is trusted, 0 to 1, 1 where
        none is given; 0 drops the annotator; "gold": as their score on gold questions says, see `gold.GoldScore`,
        at the time an answer is handed out. combine: "each" hands out every person's answer, a weight w mixing it with
        indifference, w p + (1 - w) / K; "majority" hands out one answer per query, the segment with the greatest sum of
        weights, and again when a further vote changes it. wait: `collect` waits until every query is answered.
        policy: tag of the queries' policy, which may be changed as it learns. calibrate: hand out "better" and "much
        better" with the probabilities that repeated questions give them (see `strength.calibrate`) instead of the
        assumed ones. Raises PrefenvsError for other values.
        """
        if combine not in ("each", "majority"):
            raise PrefenvsError(f"combine={combine!r} is unknown: choose each or majority")
        given = {} if weights is None or isinstance(weights, str) else dict(weights)
        if isinstance(weights, str) and weights != "gold":
            raise PrefenvsError(f'weights={weights!r} is unknown: give a number for each annotator, or "gold"')
        for annotator, weight in given.items():
            Range(0, 1).check(f"the weight of annotator {annotator!r}", weight)
        self.store, self.run, self.combine, self.wait, self.policy = store, run, combine, wait, policy
        check_list("annotators", annotators)
        self.annotators = None if annotators is None else frozenset(annotators)
        self.weights, self.weigh_by_gold = given, weights == "gold"
        self.calibrate = calibrate
        self._cursor = 0

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries; they are on the disk, and on the next annotator's page, when this returns.

        Raises PrefenvsError for more segments than a page shows.
        """
        for query in queries:
            if len(query.segments) > MOST_SEGMENTS:
                raise PrefenvsError(
                    f"people compare at most {MOST_SEGMENTS} clips at once, query {query.id} has {len(query.segments)}"
                )
        self.store.add_queries(queries, run=self.run, policy=self.policy)

    def collect(self) -> list[Preference]:
        """Return what has been answered, changed or withdrawn since the last call, in the order of the log."""
        self._wait_for_answers()
        new = self.store.events_after(self._cursor, run=self.run)
        answers = self._changes(new) if new else []
        if new:
            self._cursor = new[-1].seq or self._cursor
        return answers

    @property
    def pending(self) -> int:
        """Number of asked queries that nobody has answered, or whose answers were not handed out, or called back."""
        new = self.store.events_after(self._cursor, run=self.run)
        unread = {event.query or event.segment for event in standing(new) if self._counts(event)}
        return self._count_open() + len(unread | self._withdrawn(new))

    def report(self, status: Mapping[str, float | None]) -> None:
        """Leave the learner's status where the labelling page shows it."""
        self.store.report_learner(self.run, status)

    def state_dict(self) -> dict[str, Any]:
        """Return how far the log has been read."""
        return {"cursor": self._cursor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Read on from there."""
        self._cursor = int(state.get("cursor", 0))

    def _wait_for_answers(self) -> None:
        self.waiting = self.wait
        try:
            while self.wait and self._count_open():
                clock.sleep(POLL_SECONDS)
        finally:
            self.waiting = False

    def _count_open(self) -> int:
        """Number of questions that nobody has answered."""
        return self.store.count_pending(self.run)

    def _withdrawn(self, new: Sequence[Event]) -> set[str | None]:
        """What was handed out and has been taken back, and is not open since somebody else's answer stands."""
        fresh = {event.id for event in new}
        taken = self.store.find_events({event.target for event in new if event.target is not None} - fresh)
        subjects = {event.query or event.segment for event in taken.values() if self._counts(event)}
        if not subjects:
            return set()
        log = self.store.events_after(run=self.run)
        undone = {event.target for event in log}
        return subjects & {e.query or e.segment for e in log if e.kind in self.kinds and e.id not in undone}

    def _counts(self, event: Event) -> bool:
        """Tell whether an event is an answer by somebody who is listened to."""
        return event.kind in self.kinds and event.oracle == self.name and self._listens(event.annotator)

    def _changes(self, new: Sequence[Event]) -> list[Preference]:
        """What the new events make of the answers handed out so far."""
        if self.weigh_by_gold:
            self.weights = {name: score.weight for name, score in score_gold(self.store).items()}
        fresh = {event.id for event in new}
        targets = self.store.find_events(event.target for event in new if event.target is not None)
        # By query and annotator: the last event, and whether an answer that was handed out has been undone.
        touched: dict[tuple[str, str], tuple[Event, bool]] = {}
        for event in new:
            about = event if event.target is None else targets[event.target]
            if about.query is not None and self._counts(about):
                key = about.query, MAJORITY if self.combine == "majority" else about.annotator
                undone = about is not event and about.id not in fresh
                touched[key] = event, undone or (key in touched and touched[key][1])
        standing: dict[tuple[str, str], list[Preference]] = {}
        asked = {query for query, _ in touched}
        for answer in self.store.preferences(run=self.run, queries=asked):
            if answer.oracle == self.name and self._listens(answer.annotator):
                key = answer.query.id, MAJORITY if self.combine == "majority" else answer.annotator
                standing.setdefault(key, []).append(answer)
        queries = self.store.find_queries(asked)
        if self.calibrate:
            strengths = calibrate(self.store, self.run, self.annotators)
            standing = {key: [recalibrate(item, strengths) for item in items] for key, items in standing.items()}
        changes = []
        for key, (event, undone) in touched.items():
            if key in standing:
                changes.append(self._merge(standing[key]))
            elif undone:
                changes.append(Preference(queries[key[0]], None, key[1], self.name, event.time))
        return changes

    def _listens(self, annotator: str) -> bool:
        return (self.annotators is None or annotator in self.annotators) and self.weights.get(annotator) != 0

    def _merge(self, answers: Sequence[Preference]) -> Preference:
        """One answer of one annotator with its weight, or the majority of several."""
        last = answers[-1]
        if self.combine == "each":
            if last.probabilities is None:
                return last
            weight, count = self.weights.get(last.annotator, 1.0), len(last.query.segments)
            mixed = weight * last.probabilities + (1 - weight) / count
            return _answer(last, mixed, last.annotator)
        votes = [a for a in answers if a.probabilities is not None]
        if not votes:
            return _answer(last, None, MAJORITY)
        sums = np.sum([self.weights.get(a.annotator, 1.0) * np.asarray(a.probabilities) for a in votes], axis=0)
        winners = sums >= sums.max() - 1e-9
        return _answer(last, winners / winners.sum(), MAJORITY)


def _answer(like: Preference, probabilities: Array | None, annotator: str) -> Preference:
    return Preference(like.query, probabilities, annotator, like.oracle, like.time, like.seconds, like.shown)
