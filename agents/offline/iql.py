"""Implicit Q-learning from a fixed data set, on rewards learned from preferences or on given ones."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from prefenvs.accuracy import label_accuracy
from prefenvs.agents.nets.mlp import BatchedMLP, initialise
from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.single_loss import Drawn, SingleLossConfig, SingleLossLearner
from prefenvs.agents.offline.tables import check_answers
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble, fit_ensembles
from prefenvs.agents.rewards.image.ensemble import ImageRewardEnsemble
from prefenvs.agents.rewards.relabel import relabel
from prefenvs.choices import check_choices
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel
from prefenvs.segments import Array

# Rows that go through the networks at once outside of training.
CHUNK = 65_536

RewardRule = Literal["none", "range", "range_from_min"]


@dataclass(frozen=True)
class IQLConfig(SingleLossConfig):
    """Settings of IQL; the defaults are those of Kostrikov et al. (2022) for locomotion."""

    expectile: float = 0.7
    """tau: which expectile of Q over the data's actions V estimates; 0.5 is the mean, towards 1 the maximum."""
    inv_temperature: float = 3.0
    """Factor on the advantage in the actor's weights, exp(inv_temperature * A); 1 / beta where others divide by it."""
    weight_clip: float = 100.0
    """Largest weight of a transition in the actor's loss."""
    discount: float = 0.99
    """gamma."""
    target_rate: float = 0.005
    """rho: how far the target critics go towards the critics after each step."""
    batch_size: int = 256
    """Transitions in a gradient step."""
    learning_rate: float = 3e-4
    """Adam's, for all networks; the actor's falls to 0 along a cosine if `cosine` is set."""
    cosine: bool = True
    """Let the actor's learning rate fall along a cosine over the whole of training."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of the ReLU layers of every network."""
    dropout: float = 0.0
    """Share of the actor's hidden units dropped while training (0.1 on Adroit and Kitchen)."""
    deterministic: bool = False
    """Learn an actor without noise, by weighted squared errors, instead of a Gaussian."""
    orthogonal: bool = False
    """Start all networks with orthogonal weights and zero biases, as CPL's P-IQL does."""
    reward_rule: RewardRule = "range"
    """range: rewards times `return_range` / (highest - lowest return of an episode); none: as they are; range_from_min:
    shifted before, so that the lowest return is 0, as Preference Transformer does for AntMaze."""
    return_range: float | None = None
    """How far the returns of episodes lie apart after that: by default 1000 for rewards that are given (Kostrikov et
    al. 2022, locomotion), and the time limit in steps for learned ones (Kim et al. 2023)."""
    reward_shift: float = 0.0
    """Added to each reward after that: -1 on AntMaze."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward ensemble that is fitted where preferences but no reward model are given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        if not 0.0 < self.expectile < 1.0:
            raise PrefenvsError(f"expectile={self.expectile} must lie in (0, 1)")
        if not 0.0 < self.discount <= 1.0:
            raise PrefenvsError(f"discount={self.discount} must lie in (0, 1]")
        if not 0.0 <= self.dropout < 1.0:
            raise PrefenvsError(f"dropout={self.dropout} must lie in [0, 1)")
        for name in ("inv_temperature", "weight_clip", "target_rate", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise PrefenvsError(f"{name}={getattr(self, name)} must be above 0")
        if self.return_range is not None and not self.return_range > 0:
            raise PrefenvsError(f"return_range={self.return_range} must be above 0")


class IQL(SingleLossLearner[IQLConfig]):
    """Implicit Q-learning (Kostrikov et al. 2022, "Offline RL with Implicit Q-Learning").

    With u = min of the target critics at (s, a) - V(s), r the reward and d = 1 where the task ended the episode:
    V minimises |tau - 1[u < 0]| u^2 (eq. 5), each critic (r + gamma (1 - d) V(s') - Q(s, a))^2 (eq. 6), the actor
    -min(exp(inv_temperature u), clip) log pi(a | s) (eq. 7). All three use V and the targets as they were before the
    step; the original updates V first and recomputes u for the actor.
    """

    name = "iql"
    reward_scale = 1.0
    # A learner that was loaded without data has none.
    reward_model: RewardModel | ImageRewardEnsemble | None = None
    config_type: ClassVar[type[IQLConfig]] = IQLConfig

    def __init__(
        self,
        dataset: OfflineDataset,
        preferences: Sequence[Preference] | None = None,
        config: IQLConfig | None = None,
        *,
        reward_model: RewardModel | ImageRewardEnsemble | None = None,
        rewards: Array | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        action_space: spaces.Box | None = None,
    ) -> None:
        """Make the learner, with rewards from one of three places.

        preferences: a reward ensemble is fitted to them, and labels the data. reward_model: labels the data as it is.
        rewards: [S], one for each step of the data set; handing over the true ones makes the upper bound, and
        `learns_from` then says that rewards were given.
        """
        self._give(preferences, reward_model, rewards)
        super().__init__(dataset, preferences, config, seed=seed, device=device, action_space=action_space)

    def _give(
        self,
        preferences: Sequence[Preference] | None,
        reward_model: RewardModel | ImageRewardEnsemble | None = None,
        rewards: Array | None = None,
    ) -> None:
        if sum(source is not None for source in (preferences, reward_model, rewards)) != 1:
            raise PrefenvsError("IQL needs one source of rewards: preferences, reward_model=... or rewards=...")
        self._rewards, self.reward_model = rewards, reward_model

    def _build(self) -> None:
        self.reward_figures: dict[str, float] = {}
        c, inputs = self.config, self.observation_size + self.action_size
        start = initialise if c.orthogonal else None
        self.critics = BatchedMLP(2, [inputs, *c.hidden, 1], initialise=start, precision=c.precision).to(self.device)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        sizes = [self.observation_size, *c.hidden, 1]
        self.value_network = BatchedMLP(1, sizes, initialise=start, precision=c.precision).to(self.device)
        self.actor = TanhActor(
            self.observation_size,
            self.action_size,
            c.hidden,
            c.dropout,
            gaussian=not c.deterministic,
            orthogonal=c.orthogonal,
            precision=c.precision,
        ).to(self.device)
        values = [*self.critics.parameters(), *self.value_network.parameters()]
        self.optimiser = make_adam([{"params": values}, {"params": list(self.actor.parameters())}], c.learning_rate)
        self._online: list[Tensor] = list(self.critics.parameters())
        self._target: list[Tensor] = list(self.targets.parameters())

    def _load(self, dataset: OfflineDataset, preferences: Sequence[Preference] | None) -> None:
        assert self.data is not None
        dataset.warn_of_unknown_ends()
        data, rewards, model = dataset.trajectories, self._rewards, self.reward_model
        if preferences is not None and model is None:
            fitted = fit_reward_models(dataset, self.config, [preferences], [self.seed], self.device)
            model, self.reward_figures = fitted[0]
            self.reward_model, self.labels = model, int(self.reward_figures["labels"])
        if model is not None:
            self.learns_from = "preferences"
            rewards = relabel(model, data)
        else:
            self.learns_from = "given rewards"
        assert rewards is not None
        if rewards.shape != (len(data.observations),):
            raise PrefenvsError(f"rewards have shape {rewards.shape}; the data set has {len(data.observations)} steps")
        c, spread = self.config, self.config.return_range
        if spread is None:
            spread = 1000.0 if model is None else float(dataset.time_limit)
        self.reward_scale = reward_scale(rewards, data.begins, c.reward_rule, spread)
        rewards = transform_rewards(rewards, data.begins, data.ends, c.reward_rule, c.reward_shift, spread)
        self.data.rewards = torch.from_numpy(rewards.astype(np.float32)).to(self.device)[self.data.rows]

    def _draw(self) -> Drawn:
        assert self.data is not None
        batch = self.data.draw(self.config.batch_size, self.generator)
        return {"batch": batch, "dropped": self.actor.draw_dropped((self.config.batch_size,), self.generator)}

    def _loss(self, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        c, batch = self.config, drawn["batch"]
        pairs = torch.cat([batch.observations, batch.actions], 1)
        with torch.no_grad():
            q_low = self.targets(pairs).amin(0).squeeze(-1)
            next_values = self.value_network(batch.next_observations).reshape(-1)
            targets = batch.rewards + c.discount * batch.continues * next_values
        values = self.value_network(batch.observations).reshape(-1)
        value_loss = expectile_loss(q_low - values, c.expectile).mean()
        critic_loss = (self.critics(pairs).squeeze(-1) - targets).square().mean()
        weights = advantage_weights(q_low - values.detach(), c.inv_temperature, c.weight_clip)
        actor_loss = -(weights * self.actor.log_prob(batch.observations, batch.actions, drawn["dropped"])).mean()
        # The three losses share no parameter, so that one backward pass and one optimiser serve them all.
        figures = {"value_loss": value_loss, "critic_loss": critic_loss, "actor_loss": actor_loss}
        return value_loss + critic_loss + actor_loss, figures | {"value": values.mean()}

    def _before_update(self) -> None:
        if self.config.cosine:
            progress = self.num_timesteps / self._total_timesteps
            rate = 0.5 * self.config.learning_rate * (1.0 + math.cos(math.pi * progress))
            self.optimiser.param_groups[1]["lr"] = rate

    def _after_update(self) -> None:
        torch._foreach_lerp_(self._target, self._online, self.config.target_rate)

    def preference_accuracy(self, preferences: Sequence[Preference]) -> float:
        """Return the share of decided labels whose segment has the higher sum of learned rewards; NaN without any."""
        model = self.reward_model
        if model is None:
            return math.nan
        if isinstance(model, ImageRewardEnsemble):
            return label_accuracy(preferences, model.score_one)
        return label_accuracy(preferences, lambda s: float(model.predict(s.observations, s.actions).mean(0).sum()))

    @property
    def gamma(self) -> float:
        """The discount, as other experts call it."""
        return self.config.discount

    def value(self, observations: Array) -> Array:
        """Return V(s), [...] float64, for observations [..., obs], in units of the reward before its transformation.

        The shift of rewards is taken off as that of an episode without end.
        """
        endless = self.config.reward_shift / (1.0 - self.config.discount) if self.config.reward_shift else 0.0
        return (self._measure(observations, None) - endless) / self.reward_scale

    def advantage(self, observations: Array, actions: Array) -> Array:
        """Return min Q(s, a) - V(s), [...] float64, in the units of `value`.

        Together they let a learner on true rewards serve a rater of regret as its expert.
        """
        return (self._measure(observations, actions) - self._measure(observations, None)) / self.reward_scale

    @torch.no_grad()
    def _measure(self, observations: Array, actions: Array | None) -> Array:
        """V where no actions are given, else the lower of the two target critics' Q."""
        states = torch.from_numpy(np.asarray(observations, np.float32).reshape(-1, self.observation_size))
        chosen = torch.zeros(len(states), self.action_size)
        if actions is not None:
            chosen = torch.from_numpy(np.asarray(actions, np.float32).reshape(-1, self.action_size))
        parts = []
        for pair in zip(torch.split(states, CHUNK), torch.split(chosen, CHUNK), strict=True):
            x, a = self._scale(*pair)
            values = self.value_network(x) if actions is None else self.targets(torch.cat([x, a], 1))
            parts.append(values.amin(0).squeeze(-1).double().cpu().numpy())
        shape = np.shape(observations)[:-1]
        return np.concatenate(parts).reshape(shape) if parts else np.zeros(shape)

    def _act(self, observations: Tensor, deterministic: bool) -> Tensor:
        return self.actor.act(observations, deterministic, self.generator)

    def state_dict(self) -> dict[str, Any]:
        """Return all that `save` writes, the scale of the rewards included."""
        return super().state_dict() | {"reward_scale": self.reward_scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        super().load_state_dict(state)
        self.reward_scale = float(state["reward_scale"])

    def _modules(self) -> dict[str, nn.Module]:
        return {"actor": self.actor, "value": self.value_network, "critics": self.critics, "targets": self.targets}


def fit_reward_models(
    dataset: OfflineDataset,
    config: IQLConfig,
    preferences: Sequence[Sequence[Preference]],
    seeds: Sequence[int],
    device: str | torch.device = "auto",
) -> list[tuple[RewardEnsemble, dict[str, float]]]:
    """Return the ensemble that IQL of each seed fits to its preferences, all of them fitted together, and its metrics.

    Raises PrefenvsError where one of them cannot be fitted.
    """
    settings, data = config.reward, dataset.trajectories
    if config.normalise_observations:
        settings = dataclasses.replace(settings, normalise=True)
    for given in preferences:
        check_answers(given)
    sizes = data.observations.shape[1], data.actions.shape[1]
    models = [RewardEnsemble(*sizes, settings, seed, device) for seed in seeds]
    fitted = []
    for model, figures in zip(models, fit_ensembles(models, preferences), strict=True):
        if isinstance(figures, PrefenvsError):
            raise figures
        fitted.append((model, figures))
    return fitted


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Return |tau - 1[u < 0]| u^2, elementwise, for errors u."""
    return torch.where(error < 0, 1.0 - expectile, expectile) * error.square()


def advantage_weights(advantage: Tensor, inv_temperature: float, clip: float) -> Tensor:
    """Return min(exp(inv_temperature * A), clip), elementwise."""
    return (inv_temperature * advantage).clamp_max(math.log(clip)).exp()


def reward_scale(rewards: Array, begins: Array, rule: RewardRule, spread: float = 1000.0) -> float:
    """Return the factor on rewards [S] that puts their episodes' returns `spread` apart; 1 for the rule "none".

    Raises PrefenvsError where all returns are equal.
    """
    if rule == "none":
        return 1.0
    returns = np.add.reduceat(np.asarray(rewards, np.float64), begins)
    lowest, highest = float(returns.min()), float(returns.max())
    if not highest > lowest:
        raise PrefenvsError(
            f'all {len(begins)} episodes have the same return, {lowest:g}: set reward_rule="none" or check the labels'
        )
    return spread / (highest - lowest)


def transform_rewards(
    rewards: Array, begins: Array, ends: Array, rule: RewardRule, shift: float = 0.0, spread: float = 1000.0
) -> Array:
    """Return rewards [S] scaled by the returns of the E episodes that they belong to, and shifted (see `IQLConfig`).

    Raises PrefenvsError where all returns are equal.
    """
    rewards = np.asarray(rewards, np.float64)
    scale = reward_scale(rewards, begins, rule, spread)
    if rule == "range_from_min":
        lengths = ends - begins
        rewards = rewards - np.repeat(np.add.reduceat(rewards, begins).min() / lengths, lengths)
    return rewards * scale + shift
