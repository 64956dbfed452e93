"""Ranked lists: each clip finds its place among those before it by comparisons, and all pairs of a list are learned."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.people.human import HumanOracle
from prefenvs.preferences import Preference, Query
from prefenvs.store import RANKING, Event, Store
from prefenvs.store.database import reading
from prefenvs.store.events import standing
from prefenvs.store.schema import events, query_segments, requests

LENGTH = 8
"""Clips of a list: 28 pairs to learn from after about 16 questions, two for each clip."""
RANKED = "ranked list"
"""Annotator of what a list implies; several people may have answered its questions."""
_Pair = frozenset[str]


@dataclass(frozen=True)
class RankedList:
    """Clips by hash from worst to best; those of one group were called equally good.

    pair: the two clips whose comparison is needed next, the new one first; None where the list is complete.
    """

    groups: tuple[tuple[str, ...], ...]
    pair: tuple[str, str] | None


def rank(clips: Sequence[str], verdicts: Mapping[_Pair, str | None]) -> RankedList:
    """Insert clips one after the other by binary search (LiRE, Choi et al. 2024, arXiv 2408.04190).

    verdicts: by pair, the hash of the better clip, "" for equally good; None for one that nobody could tell, whose new
    clip then stays out of the list. Stops at the first pair that has no verdict.
    """
    groups: list[list[str]] = []
    for clip in clips:
        low, high = 0, len(groups)
        while low < high:
            middle = (low + high) // 2
            pair = frozenset((clip, groups[middle][0]))
            if pair not in verdicts:
                return RankedList(tuple(map(tuple, groups)), (clip, groups[middle][0]))
            verdict = verdicts[pair]
            if verdict == "":
                groups[middle].append(clip)
            if not verdict:
                break
            low, high = (middle + 1, high) if verdict == clip else (low, middle)
        else:
            groups.insert(low, [clip])
    return RankedList(tuple(map(tuple, groups)), None)


def list_rankings(store: Store, run: str, log: Sequence[Event], length: int = LENGTH) -> list[RankedList]:
    """Return the lists of a run as its answers in `log` make them, each of `length` clips in the order asked."""
    if length < 2:
        raise PrefenvsError(f"a list of {length} clips ranks nothing: choose 2 or more")
    asked: dict[tuple[str, str], list[str]] = {}
    columns = requests.c.query, requests.c.policy, query_segments.c.segment
    select = sa.select(*columns).join(query_segments, query_segments.c.query == requests.c.query)
    order = select.where(requests.c.run == run).order_by(requests.c.seq, query_segments.c.position)
    with reading(store.engine) as connection:
        for query, policy, segment in connection.execute(order):
            asked.setdefault((query, policy), []).append(segment)
    clips = list(dict.fromkeys(key for (_, policy), keys in asked.items() if policy != RANKING for key in keys))
    pairs = {query: keys for (query, _), keys in asked.items() if len(keys) == 2}
    verdicts = _verdicts(log, pairs)
    return [rank(clips[first : first + length], verdicts) for first in range(0, len(clips), length)]


def list_ranked_runs(store: Store) -> list[str]:
    """Return the runs whose clips people put into ranked lists."""
    with reading(store.engine) as connection:
        return sorted(connection.scalars(sa.select(requests.c.run).where(requests.c.policy == RANKING).distinct()))


def newest(store: Store) -> tuple[int, int]:
    """Return the numbers of the last answer and the last question of a store: while they stay, so do its lists."""
    with reading(store.engine) as connection:
        last = [connection.scalar(sa.select(sa.func.max(table.c.seq))) for table in (events, requests)]
    return last[0] or 0, last[1] or 0


def ask_next(store: Store, runs: Collection[str]) -> int:
    """Ask what the lists of these runs need next, one comparison of each; returns how many questions there are."""
    count = 0
    select = sa.select(requests.c.query).where(requests.c.policy != RANKING)
    for run in runs:
        lists = list_rankings(store, run, store.events_after(run=run))
        pairs = [ranked.pair for ranked in lists if ranked.pair is not None]
        found = store.find_segments({key for pair in pairs for key in pair})
        needed = [Query((found[new], found[old])) for new, old in pairs]
        # What the run asks for another end is shown on no page for ranking: the same pair the other way round is.
        others = select.where(requests.c.run == run, requests.c.query.in_([query.id for query in needed]))
        with reading(store.engine) as connection:
            taken = set(connection.scalars(others))
        needed = [Query(query.segments[::-1]) if query.id in taken else query for query in needed]
        store.add_queries(needed, run=run, policy=RANKING)
        count += len(pairs)
    return count


def rankings_as_preferences(store: Store, run: str, log: Sequence[Event] | None = None) -> dict[str, Preference]:
    """Return what the ranked lists of a run say of every pair of their clips, by query id.

    Of two clips of different groups the one ranked higher is better, with probability 1; of one group either is. Their
    hashes say which is first, so that its place tells nothing and a pair stays one query however its list changes.
    """
    log = store.events_after(run=run) if log is None else log
    lists = list_rankings(store, run, log)
    clips = store.find_segments({key for ranked in lists for group in ranked.groups for key in group})
    when = max((event.time for event in log), default=0.0)
    answers = {}
    for ranked in lists:
        places = [(place, key) for place, group in enumerate(ranked.groups) for key in group]
        for (low, worse), (high, better) in itertools.combinations(places, 2):
            chances = np.array([0.5, 0.5]) if low == high else np.array([0.0, 1.0])
            query = Query((clips[worse], clips[better]))
            if worse > better:
                query, chances = Query(query.segments[::-1]), chances[::-1]
            answers[query.id] = Preference(query, chances, RANKED, HumanOracle.name, when)
    return answers


class RankingOracle(HumanOracle):
    """Let people rank clips: `prefenvs label --kind ranking` asks the comparisons that place each clip in a list.

    `ask` puts the clips of the queries up for ranking, in lists of LENGTH; `collect` returns what all pairs of each
    list say, of lists that are not complete too. A comparison that is undone or answered anew corrects what followed.
    """

    def __init__(
        self,
        store: Store,
        run: str = "",
        *,
        annotators: Collection[str] | None = None,
        wait: bool = False,
        policy: str = "",
    ) -> None:
        """Make an oracle of whoever ranks clips of `run` in `store`; see HumanOracle."""
        super().__init__(store, run, annotators=annotators, wait=wait, policy=policy)

    def ask(self, queries: Sequence[Query]) -> None:
        """Store the queries, and ask the first comparison of each list that is new."""
        super().ask(queries)
        ask_next(self.store, [self.run])

    def _count_open(self) -> int:
        lists = list_rankings(self.store, self.run, self._heard(self.store.events_after(run=self.run)))
        return sum(ranked.pair is not None for ranked in lists)

    def _heard(self, log: Sequence[Event]) -> list[Event]:
        """The answers of those who are listened to, and what was taken back."""
        return [event for event in log if event.kind == "undo" or self._counts(event)]

    def _changes(self, new: Sequence[Event]) -> list[Preference]:
        """Compare what all answers say with what those said that had been read before."""
        last = new[-1].seq or 0
        log = self._heard([event for event in self.store.events_after(run=self.run) if (event.seq or 0) <= last])
        heard = [event for event in log if (event.seq or 0) <= self._cursor]
        before, now = (rankings_as_preferences(self.store, self.run, events) for events in (heard, log))
        ask_next(self.store, [self.run])
        changes = [answer for key, answer in now.items() if key not in before or not _alike(before[key], answer)]
        gone = [answer for key, answer in before.items() if key not in now]
        return [Preference(old.query, None, RANKED, self.name, new[-1].time) for old in gone] + changes


def _verdicts(log: Sequence[Event], pairs: Mapping[str, Sequence[str]]) -> dict[_Pair, str | None]:
    """The last standing answer to each pair of clips."""
    verdicts: dict[_Pair, str | None] = {}
    for event in standing(log):
        if event.kind not in ("comparison", "skip") or str(event.query) not in pairs:
            continue
        clips = pairs[str(event.query)]
        verdict = None
        if event.probabilities is not None:
            verdict = "" if event.tie else clips[int(np.argmax(event.probabilities))]
        verdicts[frozenset(clips)] = verdict
    return verdicts


def _alike(old: Preference, new: Preference) -> bool:
    return np.array_equal(old.probabilities, new.probabilities)  # type: ignore[arg-type]
