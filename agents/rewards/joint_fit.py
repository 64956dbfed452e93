"""Passes of reward ensembles over their labels, of one or of several at once, and when each of them has enough."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prefenvs.agents.nets.mlp import EnsembleMLP, rows_per_chunk
from prefenvs.agents.rewards.losses import credit_labels, preference_loss
from prefenvs.agents.rewards.surf import crop_returns, pseudo_label_loss
from prefenvs.agents.rewards.tables import Labels, QueryTable
from prefenvs.errors import PrefenvsError

if TYPE_CHECKING:
    from prefenvs.agents.rewards.fit import RewardTrainer


@dataclass
class Lesson:
    """What one ensemble of M members learns from in one fit, and how far it has come.

    drawn: each member's labels [M, N]; held_out, pool: indices of labels held out and of unlabelled queries.
    """

    trainer: RewardTrainer
    labels: Labels
    drawn: Tensor
    held_out: Tensor
    pool: Tensor
    metrics: dict[str, float]
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    waited: int = 0
    error: PrefenvsError | None = None

    @property
    def shape(self) -> tuple[object, ...]:
        """Lessons of equal shape can be learned together."""
        tables = [(table.inputs.shape[1:], table.uniform) for table in (self.trainer.labelled, self.trainer.unlabelled)]
        return self.trainer.config, self.trainer.sizes, self.trainer.device, self.drawn.shape, len(self.pool), *tables

    def end_pass(self, number: int, loss: float, accuracy: float) -> bool:
        """Note what a pass brought, and tell whether another one is to follow; none does after an error."""
        config = self.trainer.config
        if not math.isfinite(loss):
            self.error = PrefenvsError(
                f"the reward loss became {loss} in pass {number}: lower learning_rate={config.learning_rate}"
            )
            return False
        self.metrics |= {"epochs": float(number), "loss": loss, "accuracy": accuracy}
        stop = config.stop or ("never" if config.surf else "train")
        done = number == self.passes or (stop == "train" and accuracy > config.stop_accuracy)
        if stop == "validation":
            held_loss = self.trainer.evaluate(self.labels, self.held_out)[0]
            self.waited = 0 if held_loss < self.best_loss else self.waited + 1
            if held_loss < self.best_loss:
                weights = self.trainer.network.state_dict()
                self.best, self.best_loss = {name: value.clone() for name, value in weights.items()}, held_loss
            done = done or self.waited >= config.patience
        if done and self.best:
            self.trainer.network.load_state_dict(self.best)
        return not done

    @property
    def passes(self) -> int:
        """Passes at most; SURF counts gradient steps, ceil(epochs * labels / batch_size), not passes."""
        config, labels = self.trainer.config, self.drawn.shape[1]
        if config.surf is None:
            return config.epochs
        return math.ceil(math.ceil(config.epochs * labels / config.batch_size) / math.ceil(labels / config.batch_size))


def learn(lessons: Sequence[Lesson]) -> None:
    """Train each lesson's ensemble until it has enough; all are of one `shape`, and each learns as it would alone."""
    left, number = list(lessons), 0
    while left:
        passes, running = Passes(left), left
        try:
            while len(running) == len(left):
                number += 1
                results = zip(left, passes.run(), strict=True)
                running = [lesson for lesson, result in results if lesson.end_pass(number, *result)]
        finally:
            passes.release()
        left = running


class Passes:
    """S lessons as one: S * M members learn from all their labels, in the order and by the Adam that each has alone."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        trainers = [lesson.trainer for lesson in lessons]
        self.trainers, self.config, self.device = trainers, trainers[0].config, trainers[0].device
        self.network = _stack([trainer.network for trainer in trainers])
        self.labelled = QueryTable.join([trainer.labelled for trainer in trainers])
        self.unlabelled = QueryTable.join([trainer.unlabelled for trainer in trainers])
        self.labels = Labels.join(
            [lesson.labels for lesson in lessons], [len(trainer.labelled.inputs) for trainer in trainers]
        )
        self.drawn = _shift([lesson.drawn for lesson in lessons], [len(lesson.labels.rows) for lesson in lessons])
        pools = [lesson.pool.expand(self.config.members, -1) for lesson in lessons]
        self.pools = _shift(pools, [len(trainer.unlabelled.inputs) for trainer in trainers])

    def run(self) -> list[tuple[float, float]]:
        """Go once through the labels of each member and return each lesson's mean loss and accuracy."""
        count = len(self.trainers)
        order, extra = self._shuffle(self.drawn), self._draw_unlabelled()
        totals = torch.zeros(3, count, device=self.device)
        for batch in torch.split(order, self.config.batch_size, dim=1):
            self.network.zero_grad()
            for part in torch.split(batch, self._queries_per_chunk(self.labelled), dim=1):
                losses, returns, present = self._losses(part)
                (losses.sum() / batch.shape[1]).backward()  # type: ignore[no-untyped-call]
                decided = self.labels.decided[part]
                correct = credit_labels(returns.detach(), self.labels.targets[part], present) * decided
                figures = torch.stack([losses.detach(), correct, decided.float()])
                totals += figures.view(3, count, -1).sum(-1)
            if self.pools.shape[1]:
                self._add_pseudo_labels(next(extra))
            self._step()
        # Read once a pass, since reading waits for the device.
        loss, right, decisions = totals.tolist()
        return [
            (loss[k] * count / self.drawn.numel(), right[k] / decisions[k] if decisions[k] else math.nan)
            for k in range(count)
        ]

    def release(self) -> None:
        """Give every ensemble weights in memory of its own again."""
        if len(self.trainers) > 1:
            for trainer in self.trainers:
                for parameter in trainer.network.parameters():
                    parameter.data, parameter.grad = parameter.data.clone(), None

    def _step(self) -> None:
        for k, trainer in enumerate(self.trainers):
            if len(self.trainers) > 1:
                mine = slice(k * self.config.members, (k + 1) * self.config.members)
                for own, stacked in zip(trainer.network.parameters(), self.network.parameters(), strict=True):
                    own.grad = None if stacked.grad is None else stacked.grad[mine]
            trainer.optimizer.step()

    def _losses(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the weighted losses [S * M, B] and the returns [S * M, B, K] of each member's labels [S * M, B]."""
        labels, config = self.labels, self.config
        rows = labels.rows[part]
        rewards = self.network.forward_each(self.labelled.inputs[rows]).squeeze(-1)
        inside, present = self.labelled.steps(rows)
        if config.surf is not None:
            each = zip(torch.split(rewards, config.members), self.trainers, strict=True)
            returns = torch.cat([crop_returns(own, config.surf.margin, trainer.generator) for own, trainer in each])
        else:
            returns = (rewards if inside is None else rewards * inside).sum(-1)
        losses = preference_loss(returns, labels.targets[part], present, config.flip_rate, config.correction)
        return losses * labels.weights[part], returns, present

    def _shuffle(self, index: Tensor) -> Tensor:
        """Return each member's indices [S * M, N] in an order of its own."""
        shape = self.config.members, index.shape[1]
        orders = [torch.rand(shape, generator=trainer.generator).argsort(1) for trainer in self.trainers]
        return index.gather(1, torch.cat(orders).to(self.device))

    def _draw_unlabelled(self) -> Iterator[Tensor]:
        """Yield batches [S * M, ratio * batch] of unlabelled rows, each member's in its own order, over and over."""
        if self.config.surf is None or not self.pools.shape[1]:
            return
        size = self.config.surf.ratio * min(self.config.batch_size, self.drawn.shape[1])
        while True:
            yield from torch.split(self._shuffle(self.pools), size, dim=1)

    def _add_pseudo_labels(self, batch: Tensor) -> None:
        surf = self.config.surf
        assert surf is not None
        for part in torch.split(batch, self._queries_per_chunk(self.unlabelled), dim=1):
            rewards = self.network.forward_each(self.unlabelled.inputs[part]).squeeze(-1)
            each = zip(torch.split(rewards, self.config.members), self.trainers, strict=True)
            losses = [pseudo_label_loss(own, surf, trainer.generator) for own, trainer in each]
            (torch.cat(losses).sum() / batch.shape[1]).backward()  # type: ignore[no-untyped-call]

    def _queries_per_chunk(self, table: QueryTable) -> int:
        return table.queries_per_chunk(rows_per_chunk(self.device))


def _stack(networks: Sequence[EnsembleMLP]) -> EnsembleMLP:
    """Return one network of all members, whose weights the given networks become views of; a single one stays."""
    if len(networks) == 1:
        return networks[0]
    stacked = copy.deepcopy(networks[0])
    stacked.members = sum(network.members for network in networks)
    columns = [list(network.parameters()) for network in networks]
    for parameter, *own in zip(stacked.parameters(), *columns, strict=True):
        parameter.data = torch.cat([one.data for one in own])
        for one, part in zip(own, torch.split(parameter.data, [len(one) for one in own]), strict=True):
            one.data = part
    if stacked.normalised:
        for name in ("mean", "std"):
            each = [getattr(network, name).expand(network.members, 1, -1) for network in networks]
            setattr(stacked, name, torch.cat(each))
    return stacked


def _shift(parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Join indices [M, N] into tables of these sizes to indices [S * M, N] into the joined table."""
    begins = [sum(sizes[:k]) for k in range(len(sizes))]
    return torch.cat([part + begin for part, begin in zip(parts, begins, strict=True)])
