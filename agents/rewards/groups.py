"""Rewards of raters who disagree: VPL, PAL and MaxMin-RLHF's clusters, over the annotators of the preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import rows_per_chunk
from prefenvs.agents.nets.saved import saved_state
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.limits import NonNegativeFloat, PositiveFloat, PositiveInt, check_settings
from prefenvs.preferences import Preference
from prefenvs.segments import Array

FORMAT = "prefenvs-group-reward-1"
SERVED = ("groups", "mean", "worst", "majority")


@dataclass(frozen=True)
class GroupRewardConfig:
    """Settings of a reward model for raters who disagree; sizes are this project's, for a CPU."""

    head: Literal["em", "pal", "vpl"] = "em"
    """em: a network for each group, each annotator in one (MaxMin-RLHF); pal: each annotator a mixture of prototypes
    (PAL); vpl: each annotator a latent vector, read from their answers (VPL)."""
    groups: PositiveInt = 2
    """Groups, prototypes, or for vpl clusters of latent vectors."""
    serve: str = "mean"
    """Whose reward is learned from: mean of the groups, worst (the least at each step), majority, groups (one ensemble
    member each), or the id of an annotator, whose group's it is."""
    width: PositiveInt = 128
    """Size of the two hidden layers."""
    features: PositiveInt = 16
    """Size of PAL's item embedding, and of VPL's latent vector."""
    epochs: PositiveInt = 200
    """Passes over the labels."""
    batch_size: PositiveInt = 256
    """Labels in one gradient step."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate (Adam)."""
    divergence: NonNegativeFloat = 0.01
    """VPL's weight of the divergence from the prior, per label of an annotator."""
    restarts: PositiveInt = 3
    """Random splits of annotators that em begins with; the likeliest end is kept."""

    def __post_init__(self) -> None:
        check_settings(self)


class GroupReward:
    """A Bradley-Terry reward r_u(s, a) for each annotator u, from labels that name who gave them.

    P_u(first) = logistic(sum_t r_u(first) - sum_t r_u(second)), undiscounted.

    em (Chakraborty et al. 2024, "MaxMin-RLHF"): r_u = r_k(u), K networks. Annotators are split at random; each pass
    fits the networks of their groups (M), and then moves each annotator to the group under which their labels are
    likeliest (E).
    pal (Chen et al. 2024, "PAL"): r_u(s, a) = f(s, a) . P softmax(w_u), prototypes P [features, K]. The published model
    takes a cosine of whole items; here it is an inner product, so that a segment's score is a sum over its steps.
    vpl (Poddar et al. 2024, "VPL"): r_u(s, a) = g(s, a, z), z ~ q(z | labels of u) = N(mu, sigma^2), and the loss adds
    the divergence of q from N(0, 1). The encoder is a mean over embedded labels, so that neither their order nor their
    number matters; the published one concatenates a fixed number. z = mu outside training, clustered for `groups`.

    Rewards of different groups have different scales, so `predict` gives each mean 0 and deviation 1 over the labelled
    steps. "worst" is a minimum at each step; the maximum of the least return is what `maxmin_weights` is for.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: GroupRewardConfig | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        self.sizes, self.config = (observation_size, action_size), config or GroupRewardConfig()
        self.device, self.seed = get_device(device), seed
        self.people: list[str] = []
        # Of each annotator their share [U, K] in each group, and VPL's latent vectors [U, features].
        self.shares, self.latents = torch.zeros(0, self.config.groups), torch.zeros(0, self.config.features)
        self.centres = torch.zeros(self.config.groups, self.config.features)
        self.scale = torch.tensor([[0.0, 1.0]] * self.config.groups)
        self.network = self._build(seed)

    def _build(self, seed: int) -> nn.ModuleDict:
        c, inputs = self.config, sum(self.sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if c.head == "em":
                parts: dict[str, nn.Module] = {str(k): _mlp(inputs, c.width, 1) for k in range(c.groups)}
            elif c.head == "pal":
                parts = {
                    "item": _mlp(inputs, c.width, c.features),
                    "prototypes": nn.Linear(c.groups, c.features, False),
                }
            else:
                parts = {
                    "reward": _mlp(inputs + c.features, c.width, 1),
                    "label": _mlp(2 * inputs, c.width, c.width),
                    "posterior": nn.Linear(c.width, 2 * c.features),
                }
        # The mean and deviation of inputs; not learned.
        network = nn.ModuleDict(parts)
        network.register_buffer("mean", torch.zeros(inputs))
        network.register_buffer("std", torch.ones(inputs))
        return network.to(self.device)

    def fit(self, preferences: Sequence[Preference], progress: object = None) -> dict[str, float]:
        """Learn anew from all preferences, pairs of segments of one length; skips are ignored.

        Returns labels, skipped, people, loss, accuracy (of each annotator's own reward, over decided labels), and for
        each group `group_K`, its share of the annotators. Raises PrefenvsError for more than two segments.
        """
        labels = [one for one in preferences if one.probabilities is not None]
        metrics = {"labels": float(len(labels)), "skipped": float(len(preferences) - len(labels))}
        if not labels:
            return metrics | {"epochs": 0.0, "loss": float("nan"), "accuracy": float("nan")}
        data = self._prepare(labels)
        generator = torch.Generator().manual_seed(self.seed)
        best: tuple[float, Any] | None = None
        for start in range(self.config.restarts if self.config.head == "em" else 1):
            self.network.load_state_dict(self._build(self.seed + start).state_dict() | _buffers(self.network))
            loss = self._train(data, generator)
            if best is None or loss < best[0]:
                kept = {name: value.clone() for name, value in self.network.state_dict().items()}
                best = loss, (kept, self.shares.clone(), self.latents.clone())
        assert best is not None
        state, self.shares, self.latents = best[1]
        self.network.load_state_dict(state)
        self._place(data)
        return metrics | self._measure(data) | {"epochs": float(self.config.epochs), "loss": best[0]}

    def _prepare(self, labels: Sequence[Preference]) -> _Labels:
        shapes = {(len(segment), len(one.query.segments)) for one in labels for segment in one.query.segments}
        if any(count != 2 for _, count in shapes):
            raise PrefenvsError("rewards of groups learn from pairs: a query compares more than two segments")
        if len(shapes) > 1:
            raise PrefenvsError(f"rewards of groups need segments of one length, got {sorted({n for n, _ in shapes})}")
        self.people = sorted({one.annotator for one in labels})
        rows = {name: i for i, name in enumerate(self.people)}
        pairs = np.stack([[np.hstack([s.observations, s.actions]) for s in one.query.segments] for one in labels])
        if pairs.shape[-1] != sum(self.sizes):
            raise PrefenvsError(f"labelled steps hold {pairs.shape[-1]} numbers, the reward model takes {self.sizes}")
        steps = torch.as_tensor(pairs, dtype=torch.float32, device=self.device)
        self.network.get_buffer("mean").copy_(steps.flatten(0, 2).mean(0))
        self.network.get_buffer("std").copy_(steps.flatten(0, 2).std(0, correction=0) + 1e-3)
        first = [float(one.probabilities[0]) for one in labels if one.probabilities is not None]
        return _Labels(
            self._normalise(steps),
            torch.tensor(first, device=self.device),
            torch.tensor([rows[one.annotator] for one in labels], device=self.device),
            len(self.people),
        )

    def _normalise(self, steps: Tensor) -> Tensor:
        return (steps - self.network.get_buffer("mean")) / self.network.get_buffer("std")

    def _train(self, data: _Labels, generator: torch.Generator) -> float:
        """Fit from the present weights; set shares and latents, and return the loss over all labels."""
        c = self.config
        # PAL's weights of prototypes are learned with the rest; em's are a random split at first.
        mixture = nn.Parameter(0.1 * torch.randn(data.people, c.groups, generator=generator).to(self.device))
        self.shares = (
            functional.one_hot(torch.randint(c.groups, (data.people,), generator=generator), c.groups)
            .float()
            .to(self.device)
        )
        parameters = [*self.network.parameters(), *([mixture] if c.head == "pal" else [])]
        optimizer = torch.optim.Adam(parameters, lr=c.learning_rate)
        for epoch in range(c.epochs):
            for batch in torch.split(
                torch.randperm(len(data.first), generator=generator).to(self.device), c.batch_size
            ):
                if c.head == "pal":
                    self.shares = mixture.softmax(1)
                divergence = torch.zeros((), device=self.device)
                if c.head == "vpl":
                    mean, log_std = self._encode(data)
                    self.latents = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(self.device)
                    divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1).mean()
                optimizer.zero_grad()
                loss = self._loss(data, batch).mean() + c.divergence * divergence
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if c.head == "em" and epoch < c.epochs // 2:
                self._assign(data)
        with torch.no_grad():
            if c.head == "pal":
                self.shares = mixture.softmax(1)
            if c.head == "vpl":
                self.latents = self._encode(data)[0]
            return float(self._loss(data, torch.arange(len(data.first), device=self.device)).mean())

    @torch.no_grad()
    def _assign(self, data: _Labels) -> None:
        """Move each annotator to the group under which their labels are likeliest."""
        scores = self._group_scores(data.steps).sum(2)
        gaps = scores[:, 0] - scores[:, 1]
        losses = functional.binary_cross_entropy_with_logits(
            gaps, data.first[:, None].expand_as(gaps), reduction="none"
        )
        totals = torch.zeros(data.people, self.config.groups, device=self.device).index_add_(0, data.person, losses)
        self.shares = functional.one_hot(totals.argmin(1), self.config.groups).float()

    def _loss(self, data: _Labels, rows: Tensor) -> Tensor:
        returns = self._person_scores(data.steps[rows], data.person[rows]).sum(2)
        return functional.binary_cross_entropy_with_logits(
            returns[:, 0] - returns[:, 1], data.first[rows], reduction="none"
        )

    def _person_scores(self, steps: Tensor, person: Tensor) -> Tensor:
        """Return rewards [B, 2, T] of normalised steps [B, 2, T, obs + act] for annotators [B]."""
        if self.config.head == "vpl":
            latent = self.latents[person][:, None, None].expand(*steps.shape[:3], -1)
            scores: Tensor = self.network["reward"](torch.cat([steps, latent], -1)).squeeze(-1)
            return scores
        shares = self.shares[person][:, None, None]
        return (self._group_scores(steps) * shares).sum(-1)

    def _group_scores(self, steps: Tensor) -> Tensor:
        """Return rewards [..., K] of normalised steps [..., obs + act] for each group."""
        c = self.config
        if c.head == "em":
            return torch.cat([self.network[str(k)](steps) for k in range(c.groups)], -1)
        if c.head == "pal":
            scores: Tensor = self.network["item"](steps) @ self.network["prototypes"].weight
            return scores
        centres = [centre.expand(*steps.shape[:-1], -1) for centre in self.centres.to(steps.device)]
        return torch.cat([self.network["reward"](torch.cat([steps, centre], -1)) for centre in centres], -1)

    def _encode(self, data: _Labels) -> tuple[Tensor, Tensor]:
        """Return VPL's posterior means and log deviations [U, features] from each annotator's labels."""
        means = data.steps.mean(2)
        sign = torch.where(data.first[:, None] >= 0.5, 1.0, -1.0)
        ordered = torch.cat([(means[:, 0] - means[:, 1]) * sign, means.sum(1)], -1)
        embedded = self.network["label"](ordered) * (2 * (data.first - 0.5).abs())[:, None]
        totals = torch.zeros(data.people, embedded.shape[1], device=self.device).index_add_(0, data.person, embedded)
        counts = torch.bincount(data.person, minlength=data.people).clamp_min(1)
        mean, log_std = self.network["posterior"](totals / counts[:, None]).chunk(2, -1)
        return mean, log_std.clamp(-5.0, 2.0)

    @torch.no_grad()
    def _place(self, data: _Labels) -> None:
        """Put VPL's annotators into clusters, and measure each group's scale over the labelled steps."""
        if self.config.head == "vpl":
            self.centres, self.shares = _cluster(self.latents, self.config.groups)
        rewards = self._group_scores(data.steps.flatten(0, 2))
        self.scale = torch.stack([rewards.mean(0), rewards.std(0, correction=0).clamp_min(1e-6)], 1).cpu()

    @torch.no_grad()
    def _measure(self, data: _Labels) -> dict[str, float]:
        returns = self._person_scores(data.steps, data.person).sum(2)
        decided = data.first != 0.5
        right = ((returns[:, 0] > returns[:, 1]) == (data.first > 0.5))[decided].float().mean()
        sizes = {f"group_{k}": float((self.shares.argmax(1) == k).float().mean()) for k in range(self.config.groups)}
        return {"people": float(data.people), "accuracy": float(right)} | sizes

    def group_of(self, annotator: str) -> int:
        """Return the group of an annotator, of PAL and VPL the nearest; raises PrefenvsError for an unknown one."""
        if annotator not in self.people:
            served = f"serve {', '.join(SERVED)} or an annotator"
            raise PrefenvsError(f"no label is from {annotator!r}: {served}.{near_matches(annotator, self.people)}")
        return int(self.shares[self.people.index(annotator)].argmax())

    def predict(self, observations: Array, actions: Array) -> Array:
        """Return rewards [M, N] for observations [N, obs] and actions [N, act]: of each group, or as `serve` says."""
        serve, rewards = self.config.serve, self._predict_groups(observations, actions)
        if serve == "groups":
            return rewards
        if serve == "mean":
            return np.asarray(rewards.mean(0, keepdims=True))
        if serve == "worst":
            return np.asarray(rewards.min(0, keepdims=True))
        largest = int(self.shares.sum(0).argmax()) if self.people else 0
        chosen = self.group_of(serve) if self.people and serve != "majority" else largest
        return rewards[chosen : chosen + 1]

    @torch.no_grad()
    def _predict_groups(self, observations: Array, actions: Array) -> Array:
        lead = np.shape(observations)[:-1]
        flat = np.concatenate([np.asarray(observations), np.asarray(actions)], -1).reshape(-1, sum(self.sizes))
        chunks = torch.split(torch.as_tensor(flat, dtype=torch.float32), rows_per_chunk(self.device))
        parts = [self._group_scores(self._normalise(part.to(self.device))).cpu() for part in chunks]
        rewards = (torch.cat(parts) if parts else torch.zeros(0, self.config.groups)).T
        scaled = (rewards - self.scale[:, :1]) / self.scale[:, 1:]
        return scaled.numpy().astype(np.float32).reshape(self.config.groups, *lead)

    def save(self, path: str | Path) -> None:
        """Write configuration, weights and annotators as tensors and plain values."""
        tensors = {name: getattr(self, name).cpu() for name in ("shares", "latents", "centres", "scale")}
        state = {"format": FORMAT, "sizes": list(self.sizes), "config": asdict(self.config), "seed": self.seed}
        torch.save(state | tensors | {"people": self.people, "network": self.network.state_dict()}, path)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "auto") -> GroupReward:
        """Read what `save` wrote; nothing in the file is executed. Raises PrefenvsError for anything else."""
        with saved_state(path, FORMAT, cls.__name__) as state:
            observations, actions = state["sizes"]
            model = cls(observations, actions, GroupRewardConfig(**state["config"]), state["seed"], device)
            model.network.load_state_dict(state["network"])
            model.people = list(state["people"])
            for name in ("shares", "latents", "centres"):
                setattr(model, name, state[name].to(model.device))
            model.scale = state["scale"]
        return model


@dataclass(frozen=True)
class _Labels:
    """N labels: normalised steps [N, 2, T, obs + act], the chance that the first is better [N], and who says so [N]."""

    steps: Tensor
    first: Tensor
    person: Tensor
    people: int


def maxmin_weights(weights: Array, returns: Array, rate: float = 0.1) -> Array:
    """Return group weights [K] after a step of mirror descent on the mixture that is worst for the policy.

    lambda_k in proportion to lambda_k exp(-rate J_k), for returns J_k [K] of the present policy by each group's reward.
    A policy that is trained on sum_k lambda_k r_k, in turn with these steps, approaches max_pi min_k J_k(pi) on
    average: the minimum of expectations, not the expectation of a minimum at each step.
    """
    logits = np.log(np.asarray(weights, np.float64)) - rate * np.asarray(returns, np.float64)
    raised: Array = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LeakyReLU(0.01),
        nn.Linear(width, width),
        nn.LeakyReLU(0.01),
        nn.Linear(width, outputs),
    )


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def _cluster(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return k-means centres [K, d] of points [U, d], begun with farthest points, and one-hot clusters [U, K]."""
    centres = points[:1]
    while len(centres) < count:
        centres = torch.cat([centres, points[torch.cdist(points, centres).amin(1).argmax()][None]])
    for _ in range(50):
        nearest = torch.cdist(points, centres).argmin(1)
        centres = torch.stack(
            [points[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(count)]
        )
    return centres, functional.one_hot(nearest, count).float()
