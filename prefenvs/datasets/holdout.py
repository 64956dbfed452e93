"""Hold-out by episode: which labels a model is measured on, and which it learns from.

Segments of one episode are alike, so labels are held out by episode, never one by one. Of a fixed data set a share of
the episodes is held out, and pairs across the two sides are left out (`hold_out_episodes`, `split_preferences`); for
folds each share in turn (`sources_of`, `fold_pairs`). Of labels that keep coming, none is left out, so a share of the
labels is held out, along with all that shares an episode with them (`hold_out_queries`).
"""

from __future__ import annotations

from collections.abc import Hashable, MutableMapping, Sequence

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array


def hold_out_episodes(episodes: int, share: float, seed: int = 0) -> Array:
    """Choose `share` of the episodes at random; return [episodes] bool, True for held out.

    Raises PrefenvsError for a share outside [0, 1), and for one above 0 that leaves no episode on one side.
    """
    if not 0.0 <= share < 1.0:
        raise PrefenvsError(f"the share of episodes to hold out must lie in [0, 1), got {share}")
    count = round(share * episodes)
    if share and episodes and not 0 < count < episodes:
        raise PrefenvsError(f"holding out {share} of {episodes} episodes leaves none on one side; choose another share")
    held = np.zeros(episodes, bool)
    held[np.random.default_rng(seed).permutation(episodes)[:count]] = True
    return held


def split_preferences(
    preferences: Sequence[Preference], share: float, seed: int = 0
) -> tuple[list[Preference], list[Preference], int]:
    """Split into training and held-out preferences that share no episode, and count those left out in between.

    `share` of the episodes is held out. A query with segments from both sides belongs to neither. Raises PrefenvsError
    as `hold_out_episodes` does.
    """
    episodes = sorted({(s.source, s.episode) for preference in preferences for s in preference.query.segments})
    held = dict(zip(episodes, hold_out_episodes(len(episodes), share, seed).tolist(), strict=True))
    train, held_out = [], []
    for preference in preferences:
        sides = {held[s.source, s.episode] for s in preference.query.segments}
        if sides == {False}:
            train.append(preference)
        elif sides == {True}:
            held_out.append(preference)
    return train, held_out, len(preferences) - len(train) - len(held_out)


def sources_of(queries: Sequence[Query]) -> list[frozenset[Hashable]]:
    """Return what each pair is held out with: its episodes, or, where they are unknown, all pairs that share a step."""
    owners: dict[bytes, int] = {}
    groups = list(range(len(queries)))

    def root(group: int) -> int:
        while groups[group] != group:
            group = groups[group]
        return group

    for number, query in enumerate(queries):
        for segment in query.segments:
            for row in np.ascontiguousarray(segment.observations) if segment.episode < 0 else ():
                groups[root(number)] = root(owners.setdefault(row.tobytes(), number))
    return [
        frozenset((one.source, one.episode) if one.episode >= 0 else root(number) for one in query.segments)
        for number, query in enumerate(queries)
    ]


def fold_pairs(sources: Sequence[frozenset[Hashable]], folds: int, seed: int = 0) -> list[tuple[Array, Array]]:
    """Deal sources at random to `folds`, each held out in turn; return which pairs [N] are trained on and held out.

    sources: of each pair, as `sources_of` returns them. A pair with sources on both sides belongs to neither. Raises
    PrefenvsError for fewer than two folds, and for fewer sources than folds.
    """
    known = sorted(set().union(*sources), key=repr)
    if not 2 <= folds <= len(known):
        way = f"choose 2 to {len(known)}" if len(known) > 1 else "nothing can be held out"
        raise PrefenvsError(f"the labels are of {len(known)} separate episodes, too few for {folds} folds: {way}")
    order = np.random.default_rng(seed).permutation(len(known)).tolist()
    fold = {known[number]: place % folds for place, number in enumerate(order)}
    sides = [{fold[source] for source in pair} for pair in sources]
    return [
        (np.array([k not in side for side in sides]), np.array([side == {k} for side in sides])) for k in range(folds)
    ]


def hold_out_queries(
    queries: Sequence[Query], sides: MutableMapping[str, bool], share: float, rng: np.random.Generator
) -> bool:
    """Decide for each new query whether it is held out: True in `sides`, keyed by query id; old ones stay as they are.

    Queries that share an episode, directly or through others, form a component. Whole components are held out as far
    as the share allows. If that gives less than half the share (one component usually holds nearly all queries of a
    short run), the rest is drawn query by query. Returns whether no held-out query shares an episode with the others.
    """
    if not share:
        sides.update({query.id: False for query in queries if query.id not in sides})
        return False
    component = _components(queries)
    members: dict[int, list[str]] = {}
    for label, query in zip(component.tolist(), queries, strict=True):
        members.setdefault(label, []).append(query.id)
    new = list(dict.fromkeys(query.id for query in queries if query.id not in sides))
    wanted = round(share * len({query.id for query in queries}))
    held = sum(sides.get(query_id, False) for query_id in {query.id for query in queries})
    for label in rng.permutation(list(members)).tolist():
        ids = set(members[label])
        old = {sides[query_id] for query_id in ids if query_id in sides}
        side = old == {True} if old else held + len(ids) <= wanted
        held += side * sum(query_id not in sides for query_id in ids)
        sides.update({query_id: side for query_id in ids if query_id not in sides})
    if held < wanted / 2:
        free = [query_id for query_id in new if not sides[query_id]]
        # At least one query stays for training.
        for i in rng.permutation(len(free))[: min(wanted - held, max(len(free) - 1, 0))]:
            sides[free[i]] = True
    known = all(segment.episode >= 0 for query in queries for segment in query.segments)
    return known and all(len({sides[query_id] for query_id in ids}) == 1 for ids in members.values())


def _components(queries: Sequence[Query]) -> Array:
    """Return the component [N] of each query; a segment of unknown episode links to nothing, equal queries link."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes: dict[object, int] = {}
    edges = []
    for i, query in enumerate(queries):
        edges.append((i, nodes.setdefault(query.id, len(nodes))))
        for segment in query.segments:
            if segment.episode >= 0:
                key = (segment.source, segment.task, segment.episode)
                edges.append((i, nodes.setdefault(key, len(nodes))))
    first, second = np.asarray(edges).T
    size = len(queries) + len(nodes)
    graph = coo_matrix((np.ones(len(edges)), (first, second + len(queries))), shape=(size, size))
    labels: Array = connected_components(graph, directed=False)[1]
    return labels[: len(queries)]
