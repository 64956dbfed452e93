"""Fitting a reward ensemble to preferences: batches, stops, held-out labels, pseudo-labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.networks import EnsembleMLP
from agents.reward_config import RewardConfig
from agents.reward_data import QueryTable, assign_sides
from agents.reward_loss import ABSENT, is_correct, is_decided, preference_loss
from agents.surf import centre_returns, crop_returns, pseudo_label_loss
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array


def rows_per_chunk(device: torch.device) -> int:
    """Rows in one product: on a CPU few enough for activations to stay in its cache, else enough to fill the device."""
    return 2_048 if device.type == "cpu" else 65_536


class Labels(NamedTuple):
    """N labels on the device: table rows [N], targets [N, K], weights [N], and whether decided, held out [N]."""

    rows: Tensor
    targets: Tensor
    weights: Tensor
    decided: Tensor
    held_out: Tensor


class RewardTrainer:
    """Trains an ensemble by one Adam on each member's own order of the labels; keeps what has been uploaded."""

    def __init__(
        self, network: EnsembleMLP, config: RewardConfig, sizes: tuple[int, int], generator: torch.Generator
    ) -> None:
        """`sizes`: of observations and actions; `generator`: CPU generator for orders, resamples, crops and splits."""
        self.network, self.config, self.generator = network, config, generator
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

    def fit(
        self, preferences: Sequence[Preference], weights: Array | None, unlabelled: Sequence[Query]
    ) -> dict[str, float]:
        """Train and return metrics, as `RewardEnsemble.fit` describes."""
        if weights is not None and np.shape(weights) != (len(preferences),):
            raise PrefenvsError(
                f"weights have shape {np.shape(weights)}, expected one for each of {len(preferences)} preferences"
            )
        chosen = [i for i, preference in enumerate(preferences) if not preference.skipped]
        metrics = {"labels": float(len(chosen)), "skipped": float(len(preferences) - len(chosen)), "decided": 0.0}
        if not chosen:
            return metrics | {"epochs": 0.0, "loss": math.nan, "accuracy": math.nan, "new_accuracy": math.nan}
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
        metrics |= self._train(labels, train, held_out, pool)
        if self.config.validation_share:
            loss, accuracy = self.evaluate(labels, held_out)
            metrics |= {
                "validation_loss": loss,
                "validation_accuracy": accuracy,
                "validation_by_episode": float(by_episode),
            }
        return metrics

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
        correct = (is_correct(returns.mean(0), targets, present) & decided).sum()
        mean, right, count = torch.stack([loss, correct, decided.sum()]).tolist()
        return mean, right / count if count else math.nan

    @torch.no_grad()
    def predict_returns(self, table: QueryTable, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return every member's returns [M, N, K] of the table's rows [N], and which segments exist (None: all)."""
        parts = []
        for part in torch.split(rows, self._queries_per_chunk(table)):
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

    def _train(self, labels: Labels, train: Tensor, held_out: Tensor, pool: Tensor) -> dict[str, float]:
        config, drawn = self.config, self._draw(train)
        stop = config.stop or ("never" if config.surf else "train")
        passes, best, best_loss, waited = self._count_passes(len(train)), None, math.inf, 0
        epoch, loss, accuracy = 0, math.nan, math.nan
        for epoch in range(1, passes + 1):
            loss, accuracy = self._run_pass(labels, drawn, pool)
            if not math.isfinite(loss):
                raise PrefenvsError(
                    f"the reward loss became {loss} in pass {epoch}: lower learning_rate={config.learning_rate}"
                )
            if stop == "train" and accuracy > config.stop_accuracy:
                break
            if stop == "validation":
                held_loss = self.evaluate(labels, held_out)[0]
                waited = 0 if held_loss < best_loss else waited + 1
                if held_loss < best_loss:
                    best, best_loss = (
                        {name: value.clone() for name, value in self.network.state_dict().items()},
                        held_loss,
                    )
                if waited >= config.patience:
                    break
        if best is not None:
            self.network.load_state_dict(best)
        return {"epochs": float(epoch), "loss": loss, "accuracy": accuracy}

    def _count_passes(self, labels: int) -> int:
        if self.config.surf is None:
            return self.config.epochs
        # SURF counts gradient steps, ceil(epochs * labels / batch_size), not passes.
        steps = math.ceil(self.config.epochs * labels / self.config.batch_size)
        return math.ceil(steps / math.ceil(labels / self.config.batch_size))

    def _draw(self, train: Tensor) -> Tensor:
        """Return each member's labels [M, N]: all of them, or a resample."""
        shape = (self.config.members, len(train))
        if not self.config.bootstrap:
            return train.expand(shape)
        return train[torch.randint(len(train), shape, generator=self.generator).to(self.device)]

    def _shuffle(self, drawn: Tensor) -> Tensor:
        return drawn.gather(1, torch.rand(drawn.shape, generator=self.generator).argsort(1).to(self.device))

    def _run_pass(self, labels: Labels, drawn: Tensor, pool: Tensor) -> tuple[float, float]:
        """Go once through the labels [M, N] of each member; return mean loss and accuracy, synchronising once."""
        order, extra = self._shuffle(drawn), self._draw_unlabelled(pool, drawn.shape[1])
        totals = torch.zeros(3, device=self.device)
        for batch in torch.split(order, self.config.batch_size, dim=1):
            self.optimizer.zero_grad()
            for part in torch.split(batch, self._queries_per_chunk(self.labelled), dim=1):
                losses, returns, present = self._losses(labels, part)
                (losses.sum() / batch.shape[1]).backward()  # type: ignore[no-untyped-call]
                decided = labels.decided[part]
                correct = is_correct(returns.detach(), labels.targets[part], present) & decided
                totals += torch.stack([losses.detach().sum(), correct.sum(), decided.sum()])
            if len(pool):
                self._add_pseudo_labels(next(extra))
            self.optimizer.step()
        loss, right, count = totals.tolist()
        return loss / drawn.numel(), right / count if count else math.nan

    def _losses(self, labels: Labels, part: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weighted losses [M, B] and the returns [M, B, K] of each member's own labels [M, B]."""
        rows = labels.rows[part]
        rewards = self.network.forward_each(self.labelled.inputs[rows]).squeeze(-1)
        inside, present = self.labelled.steps(rows)
        if self.config.surf is not None:
            returns = crop_returns(rewards, self.config.surf.margin, self.generator)
        else:
            returns = (rewards if inside is None else rewards * inside).sum(-1)
        losses = preference_loss(returns, labels.targets[part], present, self.config.flip_rate, self.config.correction)
        return losses * labels.weights[part], returns, present

    def _draw_unlabelled(self, pool: Tensor, labelled: int) -> Iterator[Tensor]:
        """Yield batches [M, ratio * batch] of unlabelled rows, each member's in its own order, over and over."""
        if self.config.surf is None or not len(pool):
            return
        size = self.config.surf.ratio * min(self.config.batch_size, labelled)
        while True:
            yield from torch.split(self._shuffle(pool.expand(self.config.members, -1)), size, dim=1)

    def _add_pseudo_labels(self, batch: Tensor) -> None:
        assert self.config.surf is not None
        for part in torch.split(batch, self._queries_per_chunk(self.unlabelled), dim=1):
            rewards = self.network.forward_each(self.unlabelled.inputs[part]).squeeze(-1)
            losses = pseudo_label_loss(rewards, self.config.surf, self.generator)
            (losses.sum() / batch.shape[1]).backward()  # type: ignore[no-untyped-call]

    def _queries_per_chunk(self, table: QueryTable) -> int:
        return max(rows_per_chunk(self.device) // max(table.inputs.shape[1] * table.inputs.shape[2], 1), 1)
