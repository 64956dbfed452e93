"""People who rate one clip at a time, as an oracle: `prefenvs label --kind rating` shows the clips of its queries."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.people.human import HumanOracle
from prefenvs.preferences import Preference
from prefenvs.store import PARTNERS, AssignmentPlan, Assignments, Event, Store, pair_ratings


class RatingOracle(HumanOracle):
    """Ask people to rate clips from 1 to 5, and hand out what their ratings say of pairs of clips.

    `ask` puts each clip of the queries up for rating; `collect` returns preferences between clips that one person has
    rated in this run, as `prefenvs.store.ratings_as_preferences` makes them: pairs that have been asked, and more. Like
    a HumanOracle it never blocks unless told to, and a rating that is given anew or undone corrects what it led to.
    """

    kinds = ("rating",)

    def __init__(
        self,
        store: Store,
        run: str = "",
        *,
        annotators: Collection[str] | None = None,
        weights: Mapping[str, float] | None = None,
        partners: int = PARTNERS,
        wait: bool = False,
        policy: str = "",
    ) -> None:
        """Make an oracle of whoever rates clips of `run` in `store`; see HumanOracle.

        partners: clips rated earlier that each rated clip is compared with. Raises PrefenvsError for other weights than
        numbers: what repeats and gold tell is of comparisons.
        """
        if isinstance(weights, str):
            raise PrefenvsError(f"weights={weights!r} does not go with ratings: give a number for each annotator")
        super().__init__(store, run, annotators=annotators, weights=weights, wait=wait, policy=policy)
        self.partners = partners

    def _count_open(self) -> int:
        return Assignments(self.store, AssignmentPlan(self.run, "rating")).count_open()

    def _changes(self, new: Sequence[Event]) -> list[Preference]:
        """Compare what all ratings say with what those said that had been read before."""
        events = [event for event in self.store.events_after(run=self.run) if (event.seq or 0) <= (new[-1].seq or 0)]
        rated = {event.id for event in events if self._counts(event)}
        log = [event for event in events if event.id in rated or event.target in rated]
        before = pair_ratings(self.store, [event for event in log if (event.seq or 0) <= self._cursor], self.partners)
        now = pair_ratings(self.store, log, self.partners)
        changes = [self._merge([answer]) for key, answer in now.items() if not _alike(before.get(key), answer)]
        gone = [answer for key, answer in before.items() if key not in now]
        return changes + [Preference(old.query, None, old.annotator, self.name, new[-1].time) for old in gone]


def _alike(old: Preference | None, new: Preference) -> bool:
    return old is not None and np.array_equal(old.probabilities, new.probabilities)  # type: ignore[arg-type]
