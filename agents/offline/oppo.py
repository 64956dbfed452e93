"""OPPO: a policy that follows a context, and the context that preferences call best (Kang et al. 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prefenvs.agents.nets.transformer import StepTransformer, Transformer, initialise
from prefenvs.agents.nets.windows import ragged_rows
from prefenvs.agents.offline.learner import OfflineConfig, OfflineLearner
from prefenvs.agents.offline.tables import build_pair_table
from prefenvs.agents.registry import Algorithm, Offline, Row, Settings
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed
from prefenvs.limits import (
    FractionBelowOne,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task


@dataclass(frozen=True)
class OPPOConfig(OfflineConfig):
    """Settings of OPPO; the defaults are those of its released code on D4RL's locomotion data sets.

    On labels of people the released code takes context 100, heads 2, context_size 16, preference_weight 10 and
    best_learning_rate 1e-2.
    """

    normalise_observations: bool = True
    """Give observations mean 0 and standard deviation 1 over the data set."""
    window: PositiveInt = 20
    """Steps that encoder and policy see at once (K)."""
    context_size: PositiveInt = 8
    """Numbers in a context z."""
    width: PositiveInt = 128
    """Width of tokens and hidden states of both transformers."""
    layers: PositiveInt = 3
    """Blocks of each."""
    heads: PositiveInt = 1
    """The policy's attention heads."""
    encoder_heads: PositiveInt = 2
    """The encoder's attention heads."""
    dropout: FractionBelowOne = 0.1
    """Dropout of embeddings, attention and both branches of a block."""
    positions: PositiveInt = 1000
    """Longest episode; each step's number in its episode is embedded."""
    batch_size: PositiveInt = 64
    """Windows of each of the two halves of a batch, and labelled pairs."""
    learning_rate: PositiveFloat = 1e-4
    """Learning rate of encoder and policy (AdamW)."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of encoder, policy and z* (AdamW)."""
    warmup_steps: NonNegativeInt = 10_000
    """Updates in which the policy's learning rate rises linearly."""
    best_learning_rate: PositiveFloat = 1e-3
    """Learning rate of the best context z* (AdamW)."""
    preference_weight: NonNegativeFloat = 0.1
    """Weight of the triplet loss in the encoder's step."""
    norm_weight: NonNegativeFloat = 0.1
    """Weight of (||z|| - 1)^2 in the encoder's step."""
    margin: NonNegativeFloat = 1.0
    """Margin of the triplet loss."""
    gradient_clip: PositiveFloat = 0.25
    """Largest gradient norm of encoder and of policy."""

    def __post_init__(self) -> None:
        check_settings(self)


class ContextEncoder(nn.Module):
    """A bidirectional transformer that turns a window of steps into a context z."""

    def __init__(self, observation_size: int, action_size: int, config: OPPOConfig) -> None:
        super().__init__()
        self.steps = StepTransformer(
            observation_size,
            action_size,
            config.width,
            config.layers,
            config.encoder_heads,
            config.dropout,
            config.positions,
            causal=False,
        )
        self.head = nn.Linear(config.width, config.context_size)

    def forward(self, inputs: Tensor, numbers: Tensor, inside: Tensor) -> Tensor:
        """Return z [B, context] of steps [B, T, obs + act] with numbers [B, T]; not `inside` [B, T] is padding."""
        hidden = self.steps(inputs, numbers, inside).sum(2)
        context: Tensor = self.head((hidden * inside[..., None]).sum(1))
        return context


class ContextPolicy(nn.Module):
    """A causal transformer over (z, observation, action) tokens that predicts the action after each observation."""

    def __init__(self, observation_size: int, action_size: int, config: OPPOConfig) -> None:
        super().__init__()
        self.observation_size = observation_size
        self.context = nn.Linear(config.context_size, config.width)
        self.observation = nn.Linear(observation_size, config.width)
        self.action = nn.Linear(action_size, config.width)
        self.position, self.norm = nn.Embedding(config.positions, config.width), nn.LayerNorm(config.width)
        self.transformer = Transformer(config.width, config.layers, config.heads, config.dropout, causal=True)
        self.head = nn.Linear(config.width, action_size)
        initialise(self)

    def forward(self, inputs: Tensor, numbers: Tensor, context: Tensor) -> Tensor:
        """Return actions [B, T, act] in [-1, 1], each from z [B, context], the observations so far, earlier actions."""
        observation = self.observation(inputs[..., : self.observation_size])
        action = self.action(inputs[..., self.observation_size :])
        tokens = torch.stack([self.context(context)[:, None].expand_as(observation), observation, action], 2)
        tokens = self.norm(tokens + self.position(numbers).unsqueeze(-2))
        hidden = self.transformer(tokens.flatten(1, 2)).view(*tokens.shape)
        actions: Tensor = self.head(hidden[:, :, 1]).tanh()
        return actions


def matching_loss(predicted: Tensor, actions: Tensor, inside: Tensor) -> Tensor:
    """Return the mean squared error of predicted actions [B, T, act] over the steps that are inside [B, T]."""
    errors = (predicted - actions).square().mean(-1)
    return (errors * inside).sum() / inside.sum()


def triplet_loss(best: Tensor, preferred: Tensor, other: Tensor, margin: float) -> Tensor:
    """Return the mean of max(0, ||z* - z+|| - ||z* - z-|| + margin) for contexts [B, context] and z* [context]."""
    nearer = torch.linalg.vector_norm(preferred - best, dim=-1)
    farther = torch.linalg.vector_norm(other - best, dim=-1)
    loss: Tensor = (nearer - farther + margin).clamp_min(0.0).mean()
    return loss


def norm_loss(contexts: Tensor) -> Tensor:
    """Return the mean of (||z|| - 1)^2 over contexts [B, context]."""
    loss: Tensor = (torch.linalg.vector_norm(contexts, dim=-1) - 1.0).square().mean()
    return loss


class BestContext(nn.Module):
    """The context z* that the policy is given when it acts."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(2.0 * torch.randn(size))


class OPPO(OfflineLearner[OPPOConfig]):
    """Offline preference-guided policy optimisation: no reward is learned.

    An encoder turns a window of steps into a context z. A policy predicts the actions of the window from z (L_HIM,
    hindsight information matching). One vector z* is drawn to the contexts of preferred segments and away from those of
    others (L_PM, triplet margin loss). Encoder and policy minimise L_HIM + 0.1 L_PM + 0.1 L_norm with z* held fixed,
    then z* minimises L_PM with the contexts held fixed. To act, the policy is given z* and the last `window` steps.

    A labelled segment longer than a window takes part by a window drawn anew each time; ties are left out. Differs from
    the released code in this: preferences are a fixed list, where that code labels every batch anew by the true return;
    windows for L_HIM are drawn from all data; z* learns from the contexts of the encoder's step, which are not computed
    a second time; padding does not enter the sum over steps that z is made of; the encoder's blocks normalise before
    attention, as the policy's do.
    """

    name = "oppo"
    config_type = OPPOConfig
    drops_ties = True

    def _build(self) -> None:
        config, sizes = self.config, (self.observation_size, self.action_size)
        self.encoder = ContextEncoder(*sizes, config).to(self.device).eval()
        self.policy = ContextPolicy(*sizes, config).to(self.device).eval()
        self.best = BestContext(config.context_size).to(self.device)
        rates = {"encoder": config.learning_rate, "policy": config.learning_rate, "best": config.best_learning_rate}
        self.optimisers = {
            name: torch.optim.AdamW(module.parameters(), rates[name], weight_decay=config.weight_decay, fused=True)
            for name, module in self._modules().items()
        }

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        trajectories = dataset.trajectories
        longest = int(trajectories.lengths.max())
        if longest > self.config.positions:
            raise PrefenvsError(f"an episode has {longest} steps: set OPPO's positions={self.config.positions} higher")
        table = build_pair_table(preferences or (), trajectories, self.device)
        decided = table.targets[:, 0] != table.targets[:, 1]
        self.labels = int(decided.sum())
        if not self.labels:
            raise PrefenvsError(f"all {len(table)} answered pairs are ties, from which OPPO cannot learn: label more")
        # [2, P]: first the preferred segments, then the others.
        order = table.targets[decided].argsort(1, descending=True)
        self.starts, self.lengths = table.starts[decided].gather(1, order).T, table.lengths[decided].gather(1, order).T
        begins, ends = (torch.from_numpy(part).to(self.device) for part in (trajectories.begins, trajectories.ends))
        self.begins, self.ends = (part.repeat_interleave(ends - begins) for part in (begins, ends))

    def _update(self) -> dict[str, Tensor]:
        # Dropout draws from PyTorch's global generator: seeded here by the step, so that a resumed run repeats it.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self.seed, "dropout", self.num_timesteps))
            return self._step()

    def _step(self) -> dict[str, Tensor]:
        """Make one step of encoder and policy, on windows of the data and of labelled pairs, and one of z*."""
        config, best = self.config, self.best.vector
        self._train(True)
        steps, numbers, inside = self._draw_windows()
        actions = steps[..., self.observation_size :]
        predicted = self.policy(steps, numbers, self.encoder(steps, numbers, inside))
        # The two halves of the batch count fully each, as the two windows of a pair do in the released code.
        matching = 2.0 * matching_loss(predicted, actions, inside)
        preferred, other = self.encoder(*self._draw_pairs()).chunk(2)
        preference = triplet_loss(best.detach(), preferred, other, config.margin)
        norm = norm_loss(preferred) + norm_loss(other)
        for name in ("encoder", "policy"):
            self.optimisers[name].zero_grad()
        total = matching + config.preference_weight * preference + config.norm_weight * norm
        total.backward()  # type: ignore[no-untyped-call]
        rate = config.learning_rate * min((self.num_timesteps + 1) / max(config.warmup_steps, 1), 1.0)
        self.optimisers["policy"].param_groups[0]["lr"] = rate
        for name, module in (("encoder", self.encoder), ("policy", self.policy)):
            nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip)
            self.optimisers[name].step()
        self.optimisers["best"].zero_grad()
        triplet_loss(best, preferred.detach(), other.detach(), config.margin).backward()  # type: ignore[no-untyped-call]
        self.optimisers["best"].step()
        figures = {"loss": total, "matching_loss": matching, "preference_loss": preference, "norm_loss": norm}
        return {name: figure.detach() for name, figure in figures.items()}

    def _draw_windows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw windows that begin at any step of the data set, cut off at their episode's end; see `_cut`."""
        starts = torch.randint(
            len(self.begins), (2 * self.config.batch_size,), device=self.device, generator=self.generator
        )
        return self._cut(starts, self.ends[starts])

    def _draw_pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw windows of labelled pairs: first those of the preferred segments, then those of the others."""
        pairs = torch.randint(self.labels, (self.config.batch_size,), device=self.device, generator=self.generator)
        starts, lengths = self.starts[:, pairs].flatten(), self.lengths[:, pairs].flatten()
        room = (lengths - self.config.window + 1).clamp_min(1)
        offsets = torch.rand(len(room), device=self.device, generator=self.generator) * room
        return self._cut(starts + offsets.long(), starts + lengths)

    def _cut(self, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return steps [B, window, obs + act], their numbers in the episode, and which are real, [B, window] each."""
        assert self.data is not None
        rows, inside = ragged_rows(starts, ends, self.config.window)
        steps = torch.cat([self.data.observations[rows], self.data.actions[rows]], -1)
        return steps, rows - self.begins[rows], inside

    def _train(self, mode: bool) -> None:
        if self.policy.training != mode:
            self.encoder.train(mode)
            self.policy.train(mode)

    def predict(
        self,
        observation: Array,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = True,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return actions [B, act] for observations [B, obs], or one for one, and the memory to hand back next time.

        state: for each of B environments the last `window` steps [B, window, obs + act], how many of them are there,
        and the number of the next one in its episode, [B] each; None begins. episode_start: [B], where to begin anew.
        Raises PrefenvsError for observations of another shape.
        """
        array = np.asarray(observation, np.float32)
        single = array.ndim == len(self.observation_space.shape)
        if array.size % self.observation_size or (not single and array.shape[1:] != self.observation_space.shape):
            raise PrefenvsError(f"the policy takes observations [{self.observation_size}], got {list(array.shape)}")
        rows = array.reshape(-1, self.observation_size)
        window, count = self.config.window, len(rows)
        if state is None:
            width = self.observation_size + self.action_size
            state = (np.zeros((count, window, width), np.float32), np.zeros(count, np.int64), np.zeros(count, np.int64))
        memory, held, number = (part.copy() for part in state)
        if episode_start is not None:
            held[np.asarray(episode_start, bool)] = number[np.asarray(episode_start, bool)] = 0
        full = held == window
        memory[full, :-1] = memory[full, 1:]
        at = np.where(full, window - 1, held)
        envs = np.arange(count)
        normalised = (torch.from_numpy(rows).to(self.device) - self.mean) / self.std
        memory[envs, at, : self.observation_size] = normalised.cpu().numpy()
        memory[envs, at, self.observation_size :] = 0.0
        numbers = np.minimum(np.maximum(number - at, 0)[:, None] + np.arange(window), self.config.positions - 1)
        actions = self._follow(memory, numbers, at)
        memory[envs, at, self.observation_size :] = actions
        shaped = self._unscale(actions).reshape(self.action_space.shape if single else (-1, *self.action_space.shape))
        return shaped, (memory, at + 1, number + 1)

    @torch.no_grad()
    def _follow(self, steps: Array, numbers: Array, at: Array) -> Array:
        """Return the actions [B, act] that z* leads to at step `at` [B] of the windows [B, window, obs + act]."""
        self._train(False)
        context = self.best.vector.expand(len(steps), -1)
        inputs, positions = torch.from_numpy(steps).to(self.device), torch.from_numpy(numbers).to(self.device)
        chosen = self.policy(inputs, positions, context)[torch.arange(len(steps)), torch.from_numpy(at)]
        actions: Array = chosen.cpu().numpy()
        return actions

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels whose segment has the context nearer to z*; NaN without any."""
        return label_accuracy(preferences, lambda segment: -self._distance(segment))

    @torch.no_grad()
    def _distance(self, segment: Segment) -> float:
        """Return the mean distance from z* of the contexts of a segment's windows, cut one after the other."""
        self._train(False)
        steps = (torch.from_numpy(np.asarray(part, np.float32)) for part in (segment.observations, segment.actions))
        inputs = torch.cat(self._scale(*steps), 1)
        starts = torch.arange(0, max(len(inputs) - self.config.window, 0) + 1, self.config.window, device=self.device)
        rows, inside = ragged_rows(starts, torch.full_like(starts, len(inputs)), self.config.window)
        numbers = (rows + max(segment.start, 0)).clamp_max(self.config.positions - 1)
        contexts = self.encoder(inputs[rows], numbers, inside)
        return float(torch.linalg.vector_norm(contexts - self.best.vector, dim=-1).mean())

    def _act(self, observations: Tensor, deterministic: bool) -> Tensor:
        inputs = torch.cat([observations, torch.zeros(len(observations), self.action_size, device=self.device)], 1)
        self._train(False)
        numbers = torch.zeros(len(inputs), 1, dtype=torch.int64, device=self.device)
        actions: Tensor = self.policy(inputs[:, None], numbers, self.best.vector.expand(len(inputs), -1))[:, 0]
        return actions

    def _modules(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "policy": self.policy, "best": self.best}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        return dict(self.optimisers)


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return OPPO's settings (Kang et al. 2023), whatever the task."""
    if name == "small":
        config = OPPOConfig(width=64, layers=2, batch_size=32, learning_rate=1e-3, warmup_steps=500)
        return Settings(config, steps or 10_000)
    return Settings(OPPOConfig(), steps or 100_000)


def _make(settings: Settings, each: Sequence[Offline]) -> list[OPPO]:
    """Return learners that know as many positions as the longest episode has steps."""
    made = []
    for one in each:
        longest = max(int(one.dataset.trajectories.lengths.max()), settings.config.positions)
        config = dataclasses.replace(settings.config, positions=longest)
        made.append(OPPO(one.dataset, one.preferences, config, seed=one.seed, device=one.device))
    return made


ALGORITHM = Algorithm(
    name="oppo",
    title="OPPO",
    source="offline",
    learner=OPPO,
    config=OPPOConfig,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    rows=(Row("oppo", "OPPO"),),
    upper="iql-true-reward",
)
