"""Fitting reward ensembles to preferences: what is held out, what is trained on, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefenvs.agents.nets.mlp import EnsembleMLP, rows_per_chunk
from prefenvs.agents.rewards.config import RewardConfig
from prefenvs.agents.rewards.joint_fit import Lesson, learn
from prefenvs.agents.rewards.losses import ABSENT, credit_labels, is_decided, preference_loss
from prefenvs.agents.rewards.surf import centre_returns
from prefenvs.agents.rewards.tables import Labels, QueryTable, assign_sides
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array


class RewardTrainer:
    """Trains an ensemble by one Adam on each member's own order of the labels; keeps what has been uploaded."""

    def __init__(
        self, network: EnsembleMLP, config: RewardConfig, sizes: tuple[int, int], generator: torch.Generator
    ) -> None:
        """`sizes`: of observations and actions; `generator`: CPU generator for orders, resamples, crops and splits."""
        self.network, self.config, self.generator, self.sizes = network, config, generator, sizes
        self.device = network.weights[0].device
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        self.labelled = QueryTable(*sizes, self.device)
        self.unlabelled = QueryTable(*sizes, self.device)
        self._sides: dict[str, bool] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser, random state, and which queries are held out; queries come again with the next fit."""
        state = {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}
        return state | {"sides": dict(self._sides)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self._sides = dict(state["sides"])

    def prepare(
        self, preferences: Sequence[Preference], weights: Array | None, unlabelled: Sequence[Query]
    ) -> Lesson | dict[str, float]:
        """Hold the queries and return what there is to learn, or the metrics of a fit to no label at all."""
        if weights is not None and np.shape(weights) != (len(preferences),):
            raise PrefenvsError(
                f"weights have shape {np.shape(weights)}, expected one for each of {len(preferences)} preferences"
            )
        chosen = [i for i, preference in enumerate(preferences) if not preference.skipped]
        metrics = {"labels": float(len(chosen)), "skipped": float(len(preferences) - len(chosen)), "decided": 0.0}
        if not chosen:
            nothing = dict.fromkeys(("loss", "accuracy", "new_accuracy"), math.nan)
            return metrics | nothing | {"epochs": 0.0, "new": 0.0}
        queries = [preferences[i].query for i in chosen]
        rows = self.labelled.hold(queries)
        if self.config.normalise:
            self._normalise()
        pool = self._hold_unlabelled(unlabelled)
        new = torch.tensor([query.id not in self._sides for query in queries], device=self.device)
        seed = int(torch.randint(2**31, (), generator=self.generator))
        by_episode = assign_sides(queries, self._sides, self.config.validation_share, np.random.default_rng(seed))
        labels = self._label([preferences[i] for i in chosen], rows, None if weights is None else weights[chosen])
        held_out, train = (index.nonzero().squeeze(1) for index in (labels.held_out, ~labels.held_out))
        if not len(train):
            raise PrefenvsError(
                f"all {len(chosen)} labels are held out: lower validation_share={self.config.validation_share}"
            )
        metrics["decided"] = float(labels.decided.sum())
        metrics["new_accuracy"] = self.evaluate(labels, new.nonzero().squeeze(1))[1]
        metrics["new"] = float((labels.decided & new).sum())
        if self.config.validation_share:
            metrics["validation_by_episode"] = float(by_episode)
        return Lesson(self, labels, self._draw(train), held_out, pool, metrics)

    def conclude(self, lesson: Lesson) -> dict[str, float]:
        """Return the metrics of a lesson that has been learned."""
        if self.config.validation_share:
            loss, accuracy = self.evaluate(lesson.labels, lesson.held_out)
            lesson.metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
        return lesson.metrics

    def _normalise(self) -> None:
        """Scale observations by the labelled steps; actions, which are bounded, stay as they are."""
        observations = self.labelled.inputs[..., : self.labelled.sizes[0]]
        inside, _ = self.labelled.steps(torch.arange(len(observations), device=self.device))
        steps = observations.flatten(0, 2) if inside is None else observations[inside]
        mean, std = torch.zeros_like(self.network.mean), torch.ones_like(self.network.std)
        mean[: steps.shape[1]], std[: steps.shape[1]] = steps.mean(0), steps.std(0, correction=0) + 1e-3
        self.network.normalise(mean, std)

    def evaluate(self, labels: Labels, index: Tensor) -> tuple[float, float]:
        """Return loss (mean of members) and accuracy (of their mean reward) on the labels at `index`; NaN if none."""
        if not len(index):
            return math.nan, math.nan
        returns, present = self.predict_returns(self.labelled, labels.rows[index])
        targets, decided = labels.targets[index], labels.decided[index]
        loss = preference_loss(returns, targets, present).mean()
        correct = (credit_labels(returns.mean(0), targets, present) * decided).sum()
        mean, right, count = torch.stack([loss, correct, decided.sum()]).tolist()
        return mean, right / count if count else math.nan

    @torch.no_grad()
    def predict_returns(self, table: QueryTable, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return every member's returns [M, N, K] of the table's rows [N], and which segments exist (None: all)."""
        parts = []
        for part in torch.split(rows, table.queries_per_chunk(rows_per_chunk(self.device))):
            rewards = self.network(table.inputs[part]).squeeze(-1)
            inside = table.steps(part)[0]
            if self.config.surf is not None:
                parts.append(centre_returns(rewards, self.config.surf.margin))
            else:
                parts.append((rewards if inside is None else rewards * inside).sum(-1))
        return torch.cat(parts, 1), table.steps(rows)[1]

    @torch.no_grad()
    def beliefs(self, queries: Sequence[Query]) -> Tensor:
        """Return each member's probability [M, N, K] that a segment is preferred; 0 where there is no such segment."""
        table = QueryTable(*self.labelled.sizes, self.device)
        returns, present = self.predict_returns(table, table.hold(queries))
        return (returns if present is None else returns.masked_fill(~present, ABSENT)).softmax(-1)

    def _label(self, preferences: Sequence[Preference], rows: Tensor, weights: Array | None) -> Labels:
        targets = np.zeros((len(preferences), self.labelled.inputs.shape[1]), np.float32)
        for row, preference in enumerate(preferences):
            assert preference.probabilities is not None
            targets[row, : len(preference.probabilities)] = preference.probabilities
        factors = np.ones(len(preferences), np.float32) if weights is None else np.asarray(weights, np.float32)
        held_out = torch.tensor([self._sides[preference.query.id] for preference in preferences], device=self.device)
        target = torch.from_numpy(targets).to(self.device)
        return Labels(rows, target, torch.from_numpy(factors).to(self.device), is_decided(target), held_out)

    def _hold_unlabelled(self, queries: Sequence[Query]) -> Tensor:
        surf = self.config.surf
        if surf is None:
            if len(queries):
                raise PrefenvsError("unlabelled queries need RewardConfig(surf=SurfConfig(...))")
            return torch.zeros(0, dtype=torch.int64, device=self.device)
        rows = self.unlabelled.hold(queries)
        for table in (self.labelled, self.unlabelled):
            if not table.uniform:
                raise PrefenvsError("SURF crops segments of one length and one number to a query; these differ")
            if len(table) and table.inputs.shape[2] <= 2 * surf.margin:
                raise PrefenvsError(
                    f"segments of {table.inputs.shape[2]} steps have no centre with SURF's margin of {surf.margin}"
                )
        return rows

    def _draw(self, train: Tensor) -> Tensor:
        """Return each member's labels [M, N]: all of them, or a resample."""
        shape = (self.config.members, len(train))
        if not self.config.bootstrap:
            return train.expand(shape)
        return train[torch.randint(len(train), shape, generator=self.generator).to(self.device)]


def fit_together(
    trainers: Sequence[RewardTrainer],
    preferences: Sequence[Sequence[Preference]],
    weights: Sequence[Array | None],
    unlabelled: Sequence[Sequence[Query]],
) -> list[dict[str, float] | PrefenvsError]:
    """Train each ensemble on its own preferences, those whose batches are of one shape in one pass for all.

    Returns metrics, or what went wrong with an ensemble, which does not stop the others.
    """
    results: list[dict[str, float] | PrefenvsError | Lesson] = []
    for trainer, own, factors, queries in zip(trainers, preferences, weights, unlabelled, strict=True):
        try:
            results.append(trainer.prepare(own, factors, queries))
        except PrefenvsError as error:
            results.append(error)
    lessons = [one for one in results if isinstance(one, Lesson)]
    for _, group in groupby(sorted(lessons, key=lambda one: repr(one.shape)), key=lambda one: one.shape):
        learn(list(group))
    return [one.error or one.trainer.conclude(one) if isinstance(one, Lesson) else one for one in results]
