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

from prefenvs.agents.nets.mlp import BatchedMLP, initialise
from prefenvs.agents.offline.actor import TanhActor, make_adam
from prefenvs.agents.offline.single_loss import Drawn, SingleLossConfig, SingleLossLearner
from prefenvs.agents.offline.tables import check_answers
from prefenvs.agents.registry import Algorithm, Offline, OfflineOptions, Row, Settings
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble, fit_ensembles
from prefenvs.agents.rewards.image.ensemble import ImageRewardEnsemble
from prefenvs.agents.rewards.kinds import ENSEMBLE, KINDS, KindConfig, check_kind, fit_kind, kind_settings
from prefenvs.agents.rewards.relabel import relabel
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.limits import FractionBelowOne, Number, OpenFraction, PositiveFloat, PositiveFraction, PositiveInt
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel
from prefenvs.segments import Array
from prefenvs.tasks import Task

# Rows that go through the networks at once outside of training.
CHUNK = 65_536

RewardRule = Literal["none", "range", "range_from_min"]


@dataclass(frozen=True)
class IQLConfig(SingleLossConfig):
    """Settings of IQL; the defaults are those of Kostrikov et al. (2022) for locomotion."""

    expectile: OpenFraction = 0.7
    """tau: which expectile of Q over the data's actions V estimates; 0.5 is the mean, towards 1 the maximum."""
    inv_temperature: PositiveFloat = 3.0
    """Factor on the advantage in the actor's weights, exp(inv_temperature * A); 1 / beta where others divide by it."""
    weight_clip: PositiveFloat = 100.0
    """Largest weight of a transition in the actor's loss."""
    discount: PositiveFraction = 0.99
    """gamma."""
    target_rate: PositiveFraction = 0.005
    """rho: Polyak coefficient of the target critics."""
    batch_size: PositiveInt = 256
    """Transitions in a batch."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate of all networks (Adam); the actor's decays to 0 along a cosine if `cosine` is set."""
    cosine: bool = True
    """Let the actor's learning rate fall along a cosine over the whole of training."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers of every network (ReLU)."""
    dropout: FractionBelowOne = 0.0
    """Share of the actor's hidden units dropped while training (0.1 on Adroit and Kitchen)."""
    deterministic: bool = False
    """Learn an actor without noise, by weighted squared errors, instead of a Gaussian."""
    orthogonal: bool = False
    """Start all networks with orthogonal weights and zero biases, as CPL's P-IQL does."""
    reward_rule: RewardRule = "range"
    """range: rewards times `return_range` / (highest - lowest return of an episode); none: as they are; range_from_min:
    shifted before, so that the lowest return is 0, as Preference Transformer does for AntMaze."""
    return_range: PositiveFloat | None = None
    """How far the returns of episodes lie apart after that: by default 1000 for rewards that are given (Kostrikov et
    al. 2022, locomotion), and the time limit in steps for learned ones (Kim et al. 2023)."""
    reward_shift: Number = 0.0
    """Added to each reward after that: -1 on AntMaze."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward ensemble that is fitted where preferences but no reward model are given."""


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

        The shift of rewards is taken off as that of an episode without end; raises PrefenvsError where that has no sum.
        """
        shift, left = self.config.reward_shift, 1.0 - self.config.discount
        if shift and not left:
            raise PrefenvsError("values of shifted rewards are endless with discount=1: set reward_shift=0")
        return (self._measure(observations, None) - (shift / left if shift else 0.0)) / self.reward_scale

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


@dataclass(frozen=True)
class IQLOptions(OfflineOptions):
    """Where IQL's rewards come from."""

    true_reward: bool = False
    """Upper bound: learn from the data's true rewards instead of preferences."""
    constant_reward: bool = False
    """Control: learn from a reward of 1 for every step instead of preferences."""
    interventions: bool = False
    """Learn from recorded interventions alone: -1 for the step before each, 0 for all others (RLIF)."""
    reward_model: str = "ensemble"
    """ensemble (or mlp): small networks; transformer: Preference Transformer; gaussian: PEARL's robust reward; image:
    an ensemble on frames rendered from the data set's states; groups: raters who disagree (VPL, PAL, MaxMin); or
    module:NAME of your own."""
    encoder: str | None = None
    """With --reward-model image: a CLIP model, by folder or hub name, whose frozen features take the place of
    convolutions."""
    model: KindConfig | None = None
    """Settings of a kind of reward model other than the ensemble."""

    def __post_init__(self) -> None:
        check_kind(self.reward_model, (*ENSEMBLE, *KINDS))
        if self.encoder is not None and self.reward_model != "image":
            raise PrefenvsError(f"--encoder goes with --reward-model image, not with {self.reward_model!r}")
        if self.true_reward + self.constant_reward + self.interventions > 1:
            raise PrefenvsError("--true-reward, --constant-reward and --interventions exclude one another: choose one")

    def needs_labels(self, config: IQLConfig) -> bool:
        """Not on true or constant rewards, nor on interventions."""
        return not (self.true_reward or self.constant_reward or self.interventions)

    def unused(self) -> tuple[str, ...]:
        """The ensemble's settings, where no ensemble is fitted."""
        return () if self.needs_labels(IQLConfig()) and self.reward_model in ENSEMBLE else ("reward",)

    def signal(self, rater: str, config: IQLConfig) -> str:
        """The rater, or which rewards there are instead."""
        if self.constant_reward:
            return "constant-reward"
        if self.interventions:
            return "interventions"
        return "true-reward" if self.true_reward else rater


def preset(
    task: Task,
    name: str = "published",
    *,
    true_reward: bool = False,
    constant_reward: bool = False,
    interventions: bool = False,
    reward_model: str = "ensemble",
    steps: int | None = None,
    **_: Any,
) -> Settings:
    """Return IQL's settings for data of a task.

    Locomotion, AntMaze, Adroit and Kitchen have those of Kostrikov et al. (2022); there learned rewards are scaled and
    shifted as by Preference Transformer (Kim et al. 2023). Meta-World has those of CPL's P-IQL (Hejna et al. 2024):
    batches of as many transitions as 96 pairs of segments of 64 steps have, and the raw reward of one network. That
    network is fitted first here, by as many batches as theirs in the first 50,000 steps of 10,000 labels, with
    LeakyReLU; transitions are drawn from all of the data. True rewards there, other reward models there, and all
    families that were not named are this project's choice: locomotion's settings.

    small: networks of 2x128 and batches of 256 transitions.
    """
    learned, small = not (true_reward or interventions), name == "small"
    config, total = IQLConfig(reward_shift=0.5 if learned else 0.0), 1_000_000
    if task.domain == "antmaze":
        rule: RewardRule = "range_from_min" if learned else "none"
        config = IQLConfig(expectile=0.9, inv_temperature=10.0, reward_rule=rule, reward_shift=-1.0)
    elif task.domain in ("adroit", "kitchen"):
        config = IQLConfig(inv_temperature=0.5, dropout=0.1, reward_rule="range" if learned else "none")
    elif task.family == "metaworld":
        config, total = IQLConfig(), 500_000
        if not small:
            config = _piql(raw=learned and reward_model in ENSEMBLE)
    if small:
        config, total = dataclasses.replace(config, hidden=(128, 128), learning_rate=1e-3, target_rate=0.01), 20_000
        config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, width=128))
    if constant_reward or interventions:
        # Equal returns have no range to be scaled by, and what interventions cost is as it is.
        config = dataclasses.replace(config, reward_rule="none", reward_shift=0.0)
    model = kind_settings(reward_model, small) if learned and reward_model in KINDS else None
    options = IQLOptions(true_reward, constant_reward, interventions, reward_model, model=model)
    return Settings(config, total if steps is None else steps, options)


def _piql(raw: bool) -> IQLConfig:
    network = RewardConfig(members=1, layers=2, width=512, output="identity", batch_size=96, epochs=480, stop="never")
    return IQLConfig(
        hidden=(512, 512),
        dropout=0.25,
        deterministic=True,
        orthogonal=True,
        batch_size=2 * 96 * 64,
        reward_rule="none" if raw else "range",
        reward=network,
    )


def _make_on_given_rewards(config: IQLConfig, given: Offline, options: IQLOptions) -> IQL:
    data, rewards = given.dataset, given.rewards
    if options.constant_reward:
        rewards = np.ones(len(data.trajectories.observations), np.float32)
    elif options.interventions:
        rewards = data.intervention_rewards()
    if rewards is None:
        raise PrefenvsError(f"data set {data.name!r} holds no true rewards: leave --true-reward out")
    learner = IQL(data, None, config, rewards=rewards, seed=given.seed, device=given.device)
    controls = {"constant-reward": "a constant reward (control)", "interventions": "interventions"}
    learner.learns_from = controls.get(options.signal("", config), "true reward (upper bound)")
    return learner


def _make(settings: Settings, each: Sequence[Offline]) -> list[IQL]:
    """Return learners whose reward models are fitted, those of the seeds together where they are ensembles."""
    config, options = settings.config, settings.options
    if not options.needs_labels(config):
        return [_make_on_given_rewards(config, one, options) for one in each]
    labels = [one.preferences or [] for one in each]
    fitted: list[tuple[Any, dict[str, float]]]
    if options.reward_model in ENSEMBLE:
        fitted = list(fit_reward_models(each[0].dataset, config, labels, [one.seed for one in each], each[0].device))
    else:
        for own in labels:
            check_answers(own)
        kind, task, encoder = options.reward_model, each[0].dataset.task, options.encoder
        fitted = [
            (fit_kind(kind, options.model, own, task, encoder, one.seed, one.device, one.folder), {})
            for one, own in zip(each, labels, strict=True)
        ]
    made = []
    for one, own, (model, figures) in zip(each, labels, fitted, strict=True):
        learner = IQL(one.dataset, None, config, reward_model=model, seed=one.seed, device=one.device)
        learner.labels, learner.reward_figures = sum(not answer.skipped for answer in own), dict(figures)
        made.append(learner)
    return made


ALGORITHM = Algorithm(
    name="iql",
    title="IQL",
    source="offline",
    learner=IQL,
    config=IQLConfig,
    options=IQLOptions,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    together=True,
    rows=(
        Row(
            "iql",
            "IQL on a learned reward",
            rewards=True,
            controls=("iql-shuffled", "iql-constant"),
            bound="iql-true-reward",
        ),
        Row(
            "iql-transformer",
            "IQL on Preference Transformer's reward",
            {"reward_model": "transformer"},
            controls=("iql-shuffled", "iql-constant"),
            bound="iql-true-reward",
        ),
        Row("iql-shuffled", "IQL on shuffled labels (control)", {"shuffle_labels": True}, rewards=True),
        Row("iql-constant", "IQL on a constant reward (control)", {"constant_reward": True}, asks=False),
        Row("iql-true-reward", "IQL on the true reward (upper bound)", {"true_reward": True}, asks=False),
    ),
    upper="iql-true-reward",
)
