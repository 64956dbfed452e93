"""Labelled queries as arrays on the training device, and the labels on them as a model learns from them."""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prefenvs.agents.rewards.losses import is_decided
from prefenvs.datasets.holdout import hold_out_queries
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment


class LabelTensors(NamedTuple):
    """N labels on the device: table rows [N, ...], targets [N, K], weights [N], and three of [N] bool.

    decided: one segment is preferred over all others; held_out: not to be trained on; new: the query was not among the
    labels of an earlier fit.
    """

    rows: Tensor
    targets: Tensor
    weights: Tensor
    decided: Tensor
    held_out: Tensor
    new: Tensor

    @classmethod
    def join(cls, parts: Sequence[LabelTensors], sizes: Sequence[int]) -> LabelTensors:
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
        self._rows: dict[Query, int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def most_segments(self) -> int:
        """K, the largest number of segments to a query."""
        return self.inputs.shape[1]

    def sync(self, queries: Sequence[Query]) -> Tensor:
        """Bring the table to exactly these queries and return the row [N] of each; one given twice has one row."""
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


class Table(Protocol):
    """Queries on a device, such as `QueryTable`."""

    device: torch.device

    @property
    def most_segments(self) -> int:
        """K, the largest number of segments to a query."""

    def sync(self, queries: Sequence[Query]) -> Tensor:
        """Put these queries on the device and return their rows [N, ...]."""


def prepare_labels(
    preferences: Sequence[Preference],
    table: Table,
    sides: MutableMapping[str, bool],
    share: float,
    generator: torch.Generator,
    weights: Array | None = None,
) -> tuple[LabelTensors | None, dict[str, float]]:
    """Put the answered preferences into a table and hold out a share of them; return labels and the first metrics.

    sides: which query ids are held out; new ones are added (see `prefenvs.datasets.holdout.hold_out_queries`).
    generator: on the CPU, which gives one number. weights: [len(preferences)] factors on the losses, 1 by default.
    The metrics are labels, skipped, decided, and with a share validation_by_episode; without any label there are None,
    and the metrics hold epochs, loss and accuracy too. Raises PrefenvsError for weights of another length, for segments
    that do not fit the table, and where all labels are held out.
    """
    if weights is not None and np.shape(weights) != (len(preferences),):
        raise PrefenvsError(
            f"weights have shape {np.shape(weights)}, expected one for each of {len(preferences)} preferences"
        )
    chosen = [i for i, preference in enumerate(preferences) if not preference.skipped]
    metrics = {"labels": float(len(chosen)), "skipped": float(len(preferences) - len(chosen)), "decided": 0.0}
    if not chosen:
        return None, metrics | {"epochs": 0.0, "loss": math.nan, "accuracy": math.nan}
    queries = [preferences[i].query for i in chosen]
    rows = table.sync(queries)
    targets = np.zeros((len(chosen), table.most_segments), np.float32)
    for row, i in enumerate(chosen):
        probabilities = preferences[i].probabilities
        assert probabilities is not None
        targets[row, : len(probabilities)] = probabilities
    factors = np.ones(len(chosen), np.float32) if weights is None else np.asarray(weights, np.float32)[chosen]
    new = [query.id not in sides for query in queries]
    rng = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
    by_episode = hold_out_queries(queries, sides, share, rng)
    held_out = [sides[query.id] for query in queries]
    if all(held_out):
        raise PrefenvsError(f"all {len(chosen)} labels are held out: lower validation_share={share}")
    arrays = np.asarray(factors), np.asarray(held_out), np.asarray(new)
    factor, held, fresh = (torch.from_numpy(array).to(table.device) for array in arrays)
    target = torch.from_numpy(targets).to(table.device)
    labels = LabelTensors(rows, target, factor, is_decided(target), held, fresh)
    metrics["decided"] = float(labels.decided.sum())
    return labels, metrics | ({"validation_by_episode": float(by_episode)} if share else {})


def check_shapes(observations: Array, actions: Array, sizes: tuple[int, int]) -> None:
    """Raise a PrefenvsError where observations [..., obs] and actions [..., act] are not of these sizes."""
    if observations.shape[-1:] != sizes[:1] or actions.shape != (*observations.shape[:-1], sizes[1]):
        raise PrefenvsError(
            f"observations {list(observations.shape)} and actions {list(actions.shape)} do not fit the reward "
            f"model: it takes [..., {sizes[0]}] and [..., {sizes[1]}], leading axes equal"
        )
