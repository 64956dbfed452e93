"""Labelled queries as device arrays that grow by what is new, and which of them are held out."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Query
from prefenvs.segments import Array, Segment


class Labels(NamedTuple):
    """N labels on the device: table rows [N], targets [N, K], weights [N], and whether decided, held out [N]."""

    rows: Tensor
    targets: Tensor
    weights: Tensor
    decided: Tensor
    held_out: Tensor

    @classmethod
    def join(cls, parts: Sequence[Labels], sizes: Sequence[int]) -> Labels:
        """Return the labels of tables of these sizes as labels of the joined table; a single part stays itself."""
        if len(parts) == 1:
            return parts[0]
        rows = [part.rows + sum(sizes[:k]) for k, part in enumerate(parts)]
        moved = [part._replace(rows=own) for part, own in zip(parts, rows, strict=True)]
        return cls(*(torch.cat(columns) for columns in zip(*moved, strict=True)))


class QueryTable:
    """Inputs [N, K, T, obs + act] float32 of N queries on one device, no larger than what they hold.

    A query is known by its identity, so a session that hands over all queries so far uploads the new ones only; those
    no longer handed over leave. Where queries differ in K or T, the shorter are padded with zeros to the largest, and
    `lengths` [N, K] tells what counts (0 steps: no such segment).
    """

    def __init__(self, observation_size: int, action_size: int, device: torch.device) -> None:
        self.sizes, self.device = (observation_size, action_size), device
        self.inputs = torch.zeros(0, 0, 0, observation_size + action_size, device=device)
        self.lengths = torch.zeros(0, 0, dtype=torch.int64, device=device)
        self.uniform = True
        self.uploaded = 0
        self._rows: dict[Query, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def hold(self, queries: Sequence[Query]) -> Tensor:
        """Hold exactly these queries and return the row [N] of each, in order; one given twice has one row."""
        wanted = dict.fromkeys(queries)
        new = [query for query in wanted if query not in self._rows]
        block = self._convert(new) if new else None
        kept = [query for query in self._rows if query in wanted]
        if len(kept) < len(self._rows):
            rows = torch.tensor([self._rows[query] for query in kept], dtype=torch.int64, device=self.device)
            self.inputs, self.lengths = self.inputs[rows], self.lengths[rows]
        if block is not None:
            inputs, lengths = (torch.from_numpy(array).to(self.device) for array in block)
            if kept:
                k, t = (max(self.inputs.shape[i], inputs.shape[i]) for i in (1, 2))
                inputs = torch.cat([_pad(self.inputs, k, t), _pad(inputs, k, t)])
                lengths = torch.cat([functional.pad(part, (0, k - part.shape[1])) for part in (self.lengths, lengths)])
            self.inputs, self.lengths = inputs, lengths
            self.uploaded += len(new)
        self._rows = {query: row for row, query in enumerate(kept + new)}
        self.uniform = bool((self.lengths == self.inputs.shape[2]).all())
        return torch.tensor([self._rows[query] for query in queries], dtype=torch.int64, device=self.device)

    @classmethod
    def join(cls, tables: Sequence[QueryTable]) -> QueryTable:
        """Return a table of the rows of all, to be read only; a single table stays itself."""
        if len(tables) == 1:
            return tables[0]
        joined = cls(*tables[0].sizes, tables[0].device)
        joined.inputs = torch.cat([table.inputs for table in tables])
        joined.lengths = torch.cat([table.lengths for table in tables])
        joined.uniform = all(table.uniform for table in tables)
        return joined

    def queries_per_chunk(self, rows: int) -> int:
        """Return how many queries have at most so many steps in all; at least one."""
        return max(rows // max(self.inputs.shape[1] * self.inputs.shape[2], 1), 1)

    def steps(self, rows: Tensor) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Return which steps [..., K, T] and segments [..., K] of these rows count; None where all do."""
        if self.uniform:
            return None, None
        lengths = self.lengths[rows]
        return torch.arange(self.inputs.shape[2], device=self.device) < lengths[..., None], lengths > 0

    def _convert(self, queries: Sequence[Query]) -> tuple[Array, Array]:
        k = max(len(query.segments) for query in queries)
        t = max(len(segment) for query in queries for segment in query.segments)
        inputs = np.zeros((len(queries), k, t, sum(self.sizes)), np.float32)
        lengths = np.zeros((len(queries), k), np.int64)
        for i, query in enumerate(queries):
            for j, segment in enumerate(query.segments):
                self._check(segment)
                inputs[i, j, : len(segment), : self.sizes[0]] = segment.observations
                inputs[i, j, : len(segment), self.sizes[0] :] = segment.actions
                lengths[i, j] = len(segment)
        if not np.isfinite(inputs).all():
            i, j, step, column = np.argwhere(~np.isfinite(inputs))[0]
            name = "observations" if column < self.sizes[0] else "actions"
            segment = queries[i].segments[j]
            raise PrefenvsError(
                f"{name} of a labelled segment hold a NaN or infinite value (task {segment.task!r}, "
                f"episode {segment.episode}, step {max(segment.start, 0) + step}): leave its episode out"
            )
        return inputs, lengths

    def _check(self, segment: Segment) -> None:
        for name, size in zip(("observations", "actions"), self.sizes, strict=True):
            shape = getattr(segment, name).shape
            if shape != (len(segment), size):
                raise PrefenvsError(
                    f"a segment's {name} have shape {shape}, the reward model takes [steps, {size}]; "
                    "make the model with the task's own sizes"
                )


def _pad(inputs: Tensor, k: int, t: int) -> Tensor:
    return functional.pad(inputs, (0, 0, 0, t - inputs.shape[2], 0, k - inputs.shape[1]))


def assign_sides(
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
