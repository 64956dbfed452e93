"""Gold questions: pairs whose right answer is known, by which people are taught and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles.people.moment import is_moment
from prefenvs.store import GOLD, RANKING, Event, Store
from prefenvs.store.database import reading
from prefenvs.store.events import standing
from prefenvs.store.schema import requests

CLEAR = 0.25
"""Share of the pairs, those whose returns differ most, that gold is drawn from."""
RECENT = 20
"""Gold answers that tell whether somebody has become better or worse."""
PRIOR_RIGHT, PRIOR_COUNT = 9.0, 10.0
"""What is assumed of a person before they have answered any: 9 of 10 right."""


@dataclass(frozen=True)
class GoldScore:
    """How often one person was right where the right answer is known; a tie is half right, a skip does not count.

    recent: the same of the last RECENT alone, so that drift shows.
    """

    all: Share
    recent: Share

    @property
    def weight(self) -> float:
        """How far the person may be trusted, 0 to 1: 2 p - 1 for the chance p to be right, 0 for a coin."""
        right = (self.all.hits + PRIOR_RIGHT) / (self.all.count + PRIOR_COUNT)
        return max(0.0, 2.0 * right - 1.0)


def make_gold(store: Store, count: int, run: str | None = None, seed: int = 0) -> int:
    """Choose up to `count` gold pairs among the queries asked, by true returns; return how many there are now.

    They are drawn from the quarter whose returns differ most: a gold question must not be a hard one. run: of this run
    only. Raises PrefenvsError where the store knows of no pair whose true returns differ.
    """
    present = list_gold(store)
    if len(present) >= count:
        return len(present)
    select = sa.select(requests.c.query).where(requests.c.policy != RANKING).distinct()
    with reading(store.engine) as connection:
        ids = sorted(connection.scalars(select if run is None else select.where(requests.c.run == run)))
    gaps = {}
    for key, query in store.find_queries(ids, with_true_rewards=True).items():
        sums = [float(s.true_rewards.sum()) for s in query.segments if s.true_rewards is not None]
        # Of equal returns neither is right.
        if len(sums) == len(query.segments) == 2 and key not in present and abs(sums[0] - sums[1]) > 0:
            gaps[key] = sums[0] - sums[1]
    if not gaps and not present:
        raise PrefenvsError(
            "gold needs true rewards that differ between the clips of a pair, of which the store holds none: give "
            "right answers, --gold-by NAME"
        )
    clear = sorted(gaps, key=lambda key: -abs(gaps[key]))[: max(count, round(CLEAR * len(gaps)))]
    wanted = min(count - len(present), len(clear))
    chosen = [str(key) for key in np.random.default_rng(seed).choice(clear, wanted, replace=False)] if wanted else []
    _set(store, {key: (1.0, 0.0) if gaps[key] > 0 else (0.0, 1.0) for key in chosen}, "true returns")
    return len(present) + len(chosen)


def take_gold(store: Store, annotator: str, run: str | None = None) -> int:
    """Let the standing answers of somebody in the lab to pairs be gold; return how many gold pairs there are now."""
    # The moment that decided is no question that anybody was asked.
    moments = {event.query for event in store.events_after(run=run) if is_moment(event)}
    answers = [a for a in store.preferences(run, [annotator]) if a.best is not None and a.query.id not in moments]
    answers = [a for a in answers if len(a.query.segments) == 2]
    if not answers:
        raise PrefenvsError(f"--gold-by {annotator}: this annotator has preferred no clip of a pair in the store")
    _set(
        store,
        {a.query.id: tuple(map(float, a.probabilities)) for a in answers if a.probabilities is not None},
        annotator,
    )
    return len(list_gold(store))


def list_gold(store: Store) -> dict[str, tuple[float, ...]]:
    """Return the right answer to each gold pair, as probabilities by query id; what was set last holds."""
    return {str(e.query): e.probabilities for e in store.events_after(run=GOLD) if e.kind == "gold" and e.probabilities}


def credit(event: Event, gold: Mapping[str, tuple[float, ...]]) -> float | None:
    """Return 1 for a right answer to a gold question, 0.5 for a tie, 0 otherwise; None for what is no such answer."""
    if event.kind != "comparison" or not event.probabilities or str(event.query) not in gold:
        return None
    return 0.5 if event.tie else float(np.argmax(event.probabilities) == np.argmax(gold[str(event.query)]))


def score_gold(store: Store) -> dict[str, GoldScore]:
    """Return how often each annotator was right on hidden gold questions; those of the tutorial do not count."""
    gold, credits = list_gold(store), dict[str, list[float]]()
    for event in standing(store.events_after(run=GOLD)):
        share = credit(event, gold)
        if share is not None:
            credits.setdefault(event.annotator, []).append(share)
    return {
        name: GoldScore(Share(sum(found), len(found)), Share(sum(found[-RECENT:]), len(found[-RECENT:])))
        for name, found in credits.items()
    }


def _set(store: Store, right: Mapping[str, tuple[float, ...]], by: str) -> None:
    known = list_gold(store)
    store.add_events(
        Event("gold", key, run=GOLD, probabilities=chances, oracle="gold", extra={"by": by})
        for key, chances in right.items()
        if known.get(key) != chances
    )
