"""Fitting reward ensembles to preferences: the settings, what is learned from, the passes over it, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, cast

import torch
from torch import Tensor

from prefenvs.agents.nets.mlp import EnsembleMLP, Output, Precision, rows_per_chunk
from prefenvs.agents.rewards.losses import ABSENT, FlipCorrection, credit_labels, preference_loss, score_returns
from prefenvs.agents.rewards.options.reed import EncodedMLP, ReedConfig, SelfPrediction, Transitions
from prefenvs.agents.rewards.options.rime import LabelDenoiser, RimeConfig
from prefenvs.agents.rewards.options.surf import SurfConfig, centre_returns, crop_returns, pseudo_label_loss
from prefenvs.agents.rewards.tables import LabelTensors, QueryTable, prepare_labels
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    FlipRate,
    Fraction,
    FractionBelowOne,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array

Stop = Literal["train", "validation", "never"]


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the reward ensemble; the defaults are those of B-Pref's PEBBLE (Lee et al. 2021)."""

    members: PositiveInt = 3
    """Networks in the ensemble."""
    layers: PositiveInt = 3
    """Hidden layers of each."""
    width: PositiveInt = 256
    """Units of each hidden layer."""
    normalise: bool = False
    """Give observations mean 0 and standard deviation 1 over the labelled steps, anew at each fit.

    Where observations vary less than actions, as positions in metres do, a reward model otherwise explains labels by
    actions first.
    """
    output: Output = "tanh"
    """Function on the last layer; tanh keeps each step's reward in [-1, 1]."""
    score: Literal["exponential", "linear"] = "exponential"
    """What a segment's probability is proportional to: exp of its return, or its return plus its length (LiRE)."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate of all members (Adam)."""
    batch_size: PositiveInt = 128
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 50
    """Passes over the labels in one fit, at most (50 on the DeepMind Control tasks, 10 on Meta-World)."""
    stop: Stop | None = None
    """When to end a fit early; None means "train", and with SURF "never", as published.

    train: after the first pass whose accuracy exceeds `stop_accuracy`; validation: once the held-out loss has not
    fallen for `patience` passes, going back to the best weights.
    """
    stop_accuracy: Fraction = 0.97
    """Mean accuracy of the members during a pass, over decided labels."""
    patience: PositiveInt = 5
    """Passes without a better held-out loss before stopping on it."""
    validation_share: FractionBelowOne = 0.0
    """Share of the labels held out, by episode where possible."""
    restart: bool = False
    """Begin each fit with new weights: those of the fit before remember the earliest labels best (PoLiCER, 2026)."""
    bootstrap: bool = False
    """Give each member its own resample of the labels, drawn with replacement at each fit."""
    flip_rate: FlipRate = 0.0
    """Share of labels assumed to be flipped at random, below 0.5."""
    correction: FlipCorrection = "unbiased"
    """How the loss allows for flipped labels (see `prefenvs.agents.rewards.losses`)."""
    agent_weight: NonNegativeFloat = 0.0
    """REBEL: weight of the mean reward of the agent's newest episodes, added to the likelihood of the labels."""
    precision: Precision = "float32"
    """bfloat16 multiplies in that type between the first and the last layer: faster where the processor has it."""
    surf: SurfConfig | None = None
    """Semi-supervised learning with cropping; None is plain PEBBLE."""
    rime: RimeConfig | None = None
    """Leave out or flip labels that the reward contradicts; None takes them as they are."""
    reed: ReedConfig | None = None
    """Learn too to predict the next state from the agent's steps; None from labels alone."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.stop == "validation" and not self.validation_share:
            raise PrefenvsError('stop="validation" needs held-out labels: set validation_share, for instance to 0.1')
        if self.score == "linear" and (self.output != "tanh" or self.surf is not None):
            raise PrefenvsError('score="linear" needs output="tanh", which bounds returns below, and no surf')


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
        self._denoiser = None if config.rime is None else LabelDenoiser(config.rime)
        self._prediction: SelfPrediction | None = None
        if config.reed is not None:
            self._prediction = SelfPrediction(cast("EncodedMLP", network), config.reed, generator)
        self.transitions: Transitions | None = None
        """Steps of the agent, for `reed`."""
        self._fits = 0
        self.agent_steps: Tensor | None = None
        """Steps [S, obs + act] of the agent's newest episodes, for `agent_weight`."""

    def state_dict(self) -> dict[str, Any]:
        """Return optimiser, random state, and which queries are held out; queries come again with the next fit."""
        state = {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}
        state |= {} if self._denoiser is None else {"rime": self._denoiser.state_dict()}
        if self._prediction is not None:
            state |= {"reed": self._prediction.whole_state(), "fits": self._fits}
        return state | {"sides": dict(self._sides)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self._sides = dict(state["sides"])
        if self._denoiser is not None:
            self._denoiser.load_state_dict(state["rime"])
        if self._prediction is not None:
            self._prediction.load_whole_state(state["reed"])
            self._fits = state["fits"]

    def prepare(
        self, preferences: Sequence[Preference], weights: Array | None, unlabelled: Sequence[Query]
    ) -> FitJob | dict[str, float]:
        """Put the queries on the device and return what there is to learn, or the metrics of a fit to no label at all.

        Raises PrefenvsError as `prepare_labels` does, and for unlabelled queries that SURF cannot crop.
        """
        learned = bool(self._sides)
        labels, metrics = prepare_labels(
            preferences, self.labelled, self._sides, self.config.validation_share, self.generator, weights
        )
        if labels is None:
            return metrics | {"new_accuracy": math.nan, "new": 0.0}
        if self.config.agent_weight and (self.agent_steps is None or not len(self.agent_steps)):
            raise PrefenvsError("agent_weight is about an agent in training, and there is none: set it to 0")
        if self.config.reed is not None and (self.transitions is None or len(self.transitions.observations) < 2):
            raise PrefenvsError("reed learns from the steps of an agent in training, and there are none: leave it out")
        pool = self._sync_unlabelled(unlabelled)
        # By the scale of inputs that the weights have learned with.
        metrics["new_accuracy"] = self.evaluate(labels, labels.new.nonzero().squeeze(1))[1]
        metrics["new"] = float((labels.decided & labels.new).sum())
        if self.config.normalise:
            self._normalise()
        if self.config.restart and learned:
            self.restart()
        if self._prediction is not None and self.transitions is not None:
            if self._fits % self._prediction.config.every == 0:
                metrics["self_prediction"] = self._prediction.learn(self.transitions, self.generator)
            self._fits += 1
        held_out, train = (index.nonzero().squeeze(1) for index in (labels.held_out, ~labels.held_out))
        return FitJob(self, labels, self._draw(train), held_out, pool, metrics)

    def restart(self) -> None:
        """Forget what was learned: new weights, an optimiser without moments, and self-prediction at the next fit."""
        self._fits = 0
        self.network.reset_parameters(self.generator)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)

    def conclude(self, job: FitJob) -> dict[str, float]:
        """Return the metrics of a job that has been learned."""
        if self.config.validation_share:
            loss, accuracy = self.evaluate(job.labels, job.held_out)
            job.metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
        return job.metrics

    def _normalise(self) -> None:
        """Scale observations by the labelled steps; actions, which are bounded, stay as they are."""
        observations = self.labelled.inputs[..., : self.labelled.sizes[0]]
        inside, _ = self.labelled.steps(torch.arange(len(observations), device=self.device))
        self.normalise_by(observations.flatten(0, 2) if inside is None else observations[inside])

    def normalise_by(self, observations: Tensor) -> None:
        """Scale observations by these ones [S, obs]."""
        mean, std = torch.zeros_like(self.network.mean), torch.ones_like(self.network.std)
        size = observations.shape[1]
        mean[:size], std[:size] = observations.mean(0), observations.std(0, correction=0) + 1e-3
        self.network.normalise(mean, std)

    def regress(self, inputs: Tensor, targets: Tensor) -> None:
        """Take one gradient step of all members on the squared error of the rewards of inputs [B, obs + act]."""
        self.network.zero_grad()
        errors = self.network(inputs).squeeze(-1) - targets
        errors.square().mean(1).sum().backward()
        self.optimizer.step()

    def denoise(self, labels: LabelTensors) -> LabelTensors:
        """Begin a pass: return the labels as they are learned in it, and set the learning rate (RIME)."""
        assert self._denoiser is not None
        returns, present = self.predict_returns(self.labelled, labels.rows)
        targets, weights = self._denoiser(returns, labels.targets, present, ~labels.held_out)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._denoiser.rate
        decided = labels.decided & (weights > 0)
        return labels._replace(targets=targets, weights=labels.weights * weights, decided=decided)

    def evaluate(self, labels: LabelTensors, index: Tensor) -> tuple[float, float]:
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
                parts.append(score_returns(rewards, inside, self.config.score))
        return torch.cat(parts, 1), table.steps(rows)[1]

    @torch.no_grad()
    def beliefs(self, queries: Sequence[Query]) -> Tensor:
        """Return each member's probability [M, N, K] that a segment is preferred; 0 where there is no such segment."""
        table = QueryTable(*self.labelled.sizes, self.device)
        returns, present = self.predict_returns(table, table.sync(queries))
        return (returns if present is None else returns.masked_fill(~present, ABSENT)).softmax(-1)

    def _sync_unlabelled(self, queries: Sequence[Query]) -> Tensor:
        surf = self.config.surf
        if surf is None:
            if len(queries):
                raise PrefenvsError("unlabelled queries need RewardConfig(surf=SurfConfig(...))")
            return torch.zeros(0, dtype=torch.int64, device=self.device)
        rows = self.unlabelled.sync(queries)
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
    results: list[dict[str, float] | PrefenvsError | FitJob] = []
    for trainer, own, factors, queries in zip(trainers, preferences, weights, unlabelled, strict=True):
        try:
            results.append(trainer.prepare(own, factors, queries))
        except PrefenvsError as error:
            results.append(error)
    jobs = [one for one in results if isinstance(one, FitJob)]
    for _, group in groupby(sorted(jobs, key=lambda one: repr(one.shape)), key=lambda one: one.shape):
        run_jobs(list(group))
    return [one.error or one.trainer.conclude(one) if isinstance(one, FitJob) else one for one in results]


@dataclass
class FitJob:
    """What one ensemble of M members learns from in one fit, and how far it has come.

    drawn: each member's labels [M, N]; held_out, pool: indices of labels held out and of unlabelled queries.
    """

    trainer: RewardTrainer
    labels: LabelTensors
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
        """Jobs of equal shape can be learned together."""
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
        least = 0 if config.rime is None else config.rime.least_passes
        done = number == self.passes or (stop == "train" and accuracy > config.stop_accuracy and number >= least)
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


def run_jobs(jobs: Sequence[FitJob]) -> None:
    """Train each job's ensemble until it has enough; all are of one `shape`, and each learns as it would alone."""
    left, number = list(jobs), 0
    while left:
        fit, running = JointFit(left), left
        try:
            while len(running) == len(left):
                number += 1
                running = [job for job, result in zip(left, fit.run(), strict=True) if job.end_pass(number, *result)]
        finally:
            fit.release()
        left = running


class JointFit:
    """S jobs as one: S * M members learn from all their labels, in the order and by the Adam that each has alone."""

    def __init__(self, jobs: Sequence[FitJob]) -> None:
        trainers = [job.trainer for job in jobs]
        self.trainers, self.config, self.device = trainers, trainers[0].config, trainers[0].device
        self.network = _stack([trainer.network for trainer in trainers])
        self.labelled = QueryTable.join([trainer.labelled for trainer in trainers])
        self.unlabelled = QueryTable.join([trainer.unlabelled for trainer in trainers])
        self.jobs = jobs
        self.labels = self._join([job.labels for job in jobs])
        self.drawn = _shift([job.drawn for job in jobs], [len(job.labels.rows) for job in jobs])
        pools = [job.pool.expand(self.config.members, -1) for job in jobs]
        self.pools = _shift(pools, [len(trainer.unlabelled.inputs) for trainer in trainers])

    def run(self) -> list[tuple[float, float]]:
        """Go once through the labels of each member and return each job's mean loss and accuracy."""
        count = len(self.trainers)
        if self.config.rime is not None:
            self.labels = self._join([job.trainer.denoise(job.labels) for job in self.jobs])
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
            if self.config.agent_weight:
                self._add_agent_term()
            self._step()
        # Read once a pass, since reading waits for the device.
        loss, right, decisions = totals.tolist()
        return [
            (loss[k] * count / self.drawn.numel(), right[k] / decisions[k] if decisions[k] else math.nan)
            for k in range(count)
        ]

    def _join(self, labels: Sequence[LabelTensors]) -> LabelTensors:
        return LabelTensors.join(labels, [len(trainer.labelled.inputs) for trainer in self.trainers])

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
            returns = score_returns(rewards, inside, config.score)
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

    def _add_agent_term(self) -> None:
        """Add to the loss of each member -lambda mean r(s, a) over a batch of the agent's own steps (REBEL)."""
        shape = self.config.members, self.config.batch_size
        parts = []
        for trainer in self.trainers:
            assert trainer.agent_steps is not None
            rows = torch.randint(len(trainer.agent_steps), shape, generator=trainer.generator)
            parts.append(trainer.agent_steps[rows.to(self.device)])
        rewards = self.network.forward_each(torch.cat(parts)).squeeze(-1)
        (-self.config.agent_weight * rewards.mean(1).sum()).backward()  # type: ignore[no-untyped-call]

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
