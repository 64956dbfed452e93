"""Soft actor-critic as PEBBLE has it: the policy, and its update as one function (Haarnoja et al. 2018)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.type_aliases import PyTorchObs, ReplayBufferSamples, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn
from torch.nn import functional

from prefenvs.agents.nets.mlp import BatchedLinear, BatchedMLP, initialise, round_inner
from prefenvs.agents.nets.residual import BatchedLayerNorm, Body, NormalisedObservations, ResidualBody
from prefenvs.agents.nets.spaces import WithinBounds
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    AtLeastMinusOne,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_settings,
)

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0
LOG_2, HALF_LOG_2_PI = math.log(2.0), 0.5 * math.log(2.0 * math.pi)
# Fields of `SACConfig` that are the policy's.
NETWORKS = ("layer_norm", "body", "pessimism")
# Of a critic of the return's distribution.
QUANTILES = 32
# Of residual bodies: the decay of weights, SimBa's, and the least deviation of an observation's entry by the largest.
DECAY, FLOOR = 1e-2, 1e-2


@dataclass(frozen=True)
class SACConfig:
    """SAC's arguments; the defaults are B-Pref's for DeepMind Control."""

    learning_rate: PositiveFloat = 5e-4
    """Learning rate of actor and critics (Adam)."""
    batch_size: PositiveInt = 1_024
    """Transitions in a batch."""
    hidden: tuple[PositiveInt, ...] = (1024, 1024)
    """Sizes of the hidden layers of actor and critics (ReLU)."""
    layer_norm: bool = False
    """Layer normalisation in the critics, which then bear more updates than steps (Ball et al. 2023); the bodies simba
    and bro always have it."""
    body: Body = "mlp"
    """Architecture of actor and critics: mlp; simba (Lee et al. 2025) or bro (Nauman et al. 2024), residual blocks on
    normalised observations, in the critics one for each number in `hidden`, in the actor one, trained by AdamW."""
    pessimism: NonNegativeFloat | None = None
    """Learn one distributional critic, and subtract this many of its standard deviations from the next state's value
    (STAC, without its dropout); None: the smaller of two critics."""
    buffer_size: PositiveInt = 1_000_000
    """Size of the replay buffer, in transitions."""
    learning_starts: NonNegativeInt = 1_000
    """Steps of random actions at the beginning."""
    train_freq: PositiveInt = 1
    """Steps of each environment between two rounds of updates."""
    gradient_steps: AtLeastMinusOne = -1
    """Updates in a round; -1 makes as many as environment steps were made."""
    gamma: Fraction = 0.99
    """Discount factor."""
    tau: Fraction = 0.005
    """Polyak coefficient of the target critics."""
    target_update_interval: PositiveInt = 2
    """Updates between two updates of the target critics."""
    ent_coef: str = "auto_0.1"
    """Entropy coefficient: a number, auto to learn it, or auto_0.1 to begin with 0.1."""
    ent_coef_learning_rate: PositiveFloat = 1e-4
    """Learning rate of the entropy coefficient (Adam)."""
    envs: PositiveInt = 1
    """Environments stepped side by side; one update for each environment step in any case."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.gradient_steps:
            raise PrefenvsError("gradient_steps=0 makes no updates, so that nothing is learned: -1 makes one a step")
        text = str(self.ent_coef)
        number = "1" if text == "auto" else text.removeprefix("auto_")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not (0.0 < weight < math.inf or (weight == 0.0 and number == text)):
            raise PrefenvsError(
                f"ent_coef={text!r} is no weight of the entropy: give a number, auto to learn it, or auto_0.1 to begin "
                "with 0.1"
            )

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of the learner's constructor."""
        names = {field.name for field in dataclasses.fields(SACConfig)} - {"hidden", *NETWORKS, "envs"}
        networks = {"net_arch": list(self.hidden)} | {name: getattr(self, name) for name in NETWORKS}
        return {name: getattr(self, name) for name in names} | {"policy_kwargs": networks}


@dataclass(frozen=True)
class CerConfig:
    """PoLiCER's resets where the critics exploit the reward; defaults are its scripts' for DeepMind Control.

    For rewards within [-1, 1] and a discount of 0.99, by which no value is above 100.
    """

    threshold: PositiveFloat = 25.0
    """The value above which reward and critics start anew."""
    rise: NonNegativeFloat = 5.0
    """How much the threshold rises with the first reset (7.5 on Meta-World)."""
    decay: Fraction = 0.9
    """Factor on that with each reset."""
    highest: PositiveFloat = 100.0
    """Where the threshold stops."""
    most_updates: PositiveInt = 4
    """Each reset makes one update more for each one, up to so many, until the last session."""

    def __post_init__(self) -> None:
        check_settings(self)


class ValueResets:
    """When critics and reward start anew: the critic-exploited reset of PoLiCER (2026).

    M is the largest batch mean of min Q(s, pi(s)) since the last reset. A session after the first one ends in a reset
    if M is above the threshold.
    """

    def __init__(self, config: CerConfig) -> None:
        self.config = config
        self.threshold, self.rise, self.updates = config.threshold, config.rise, 1
        self.largest: Tensor | None = None

    def see(self, value: Tensor) -> None:
        """Take in the mean of a batch's values."""
        self.largest = value if self.largest is None else torch.maximum(self.largest, value)

    def forget(self) -> None:
        """Forget the values of the critics so far."""
        self.largest = None

    def due(self) -> bool:
        """Tell whether a reset is due, and if so raise the threshold and the updates, and forget the values."""
        if self.largest is None or float(self.largest) <= self.threshold:
            return False
        self.threshold = min(self.threshold + self.rise, self.config.highest)
        self.rise *= self.config.decay
        self.updates = min(self.updates + 1, self.config.most_updates)
        self.forget()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        largest = None if self.largest is None else float(self.largest)
        return {"threshold": self.threshold, "rise": self.rise, "updates": self.updates, "largest": largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.threshold, self.rise, self.updates = state["threshold"], state["rise"], state["updates"]
        self.largest = None if state["largest"] is None else torch.tensor(state["largest"])


class BoundedActor(Actor):
    """SAC's squashed Gaussian with log-std = an affine map of tanh into [-5, 2], as B-Pref has it."""

    def __init__(self, *args: Any, body: Body = "mlp", **kwargs: Any) -> None:
        """body: what stands before the last layers; everything else is Stable-Baselines3's."""
        super().__init__(*args, **kwargs)
        if body != "mlp":
            self.latent_pi = nn.Sequential(ResidualBody(body, self.features_dim, self.net_arch))

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return mean and log-std of the Gaussian before squashing, [B, act] each."""
        latent = self.latent_pi(self.extract_features(obs, self.features_extractor))
        raw = torch.tanh(self.log_std(latent))  # type: ignore[operator]
        return self.mu(latent), LOG_STD_MIN + 0.5 * (LOG_STD_MAX - LOG_STD_MIN) * (raw + 1.0), {}


class StackedCritic(BaseModel):
    """K critics Q(s, a), each layer of which is one batched product; `forward` is `ContinuousCritic`'s.

    layer_norm: normalise each hidden layer before its ReLU, without learned scales: such critics stay sane with more
    updates than steps (Ball et al. 2023, RLPD; Lee et al. 2025, SimBa). body: residual blocks in place of the layers.
    pessimism: see `SACConfig`; each critic then gives `QUANTILES` values, the quantiles of the return.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 2,
        share_features_extractor: bool = True,
        layer_norm: bool = False,
        body: Body = "mlp",
        pessimism: float | None = None,
    ) -> None:
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.n_critics, self.share_features_extractor = n_critics, share_features_extractor
        self.pessimism = pessimism
        sizes = [features_dim + get_action_dim(action_space), *net_arch, 1 if pessimism is None else QUANTILES]
        self.q_networks: nn.Sequential = (
            BatchedMLP(n_critics, sizes, activation_fn, initialise, layer_norm=layer_norm)
            if body == "mlp"
            else nn.Sequential(
                ResidualBody(body, sizes[0], net_arch, n_critics),
                BatchedLinear(n_critics, net_arch[-1], sizes[-1], initialise),
            )
        )

    def forward(self, observations: PyTorchObs, actions: Tensor) -> tuple[Tensor, ...]:
        """Return each critic's values [B, 1] or quantiles; an extractor shared with the actor gets no gradient."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(observations, self.features_extractor)  # type: ignore[arg-type]
        values: Tensor = self.q_networks(torch.cat([features, actions], 1))
        return values.unbind()

    def reset_parameters(self) -> None:
        """Draw new weights for all layers of the critics."""
        for layer in self.q_networks.modules():
            if isinstance(layer, BatchedLinear | BatchedLayerNorm):
                layer.reset_parameters()


class PebblePolicy(WithinBounds, SACPolicy):
    """Stable-Baselines3's SAC policy with `BoundedActor`, `StackedCritic`, orthogonal initialisation and fused Adam."""

    def __init__(
        self,
        *args: Any,
        layer_norm: bool = False,
        body: Body = "mlp",
        pessimism: float | None = None,
        **kwargs: Any,
    ) -> None:
        """layer_norm, body, pessimism: see `SACConfig`; everything else is Stable-Baselines3's.

        Residual bodies see normalised observations and learn by AdamW with SimBa's decay; the critics have a block for
        each number in net_arch, the actor has one (Lee et al. 2025, "SimBa", table of hyperparameters).
        """
        if kwargs.get("use_sde"):
            raise PrefenvsError("this actor's noise is no function of the state (gSDE): leave use_sde out")
        self.layer_norm, self.body, self.pessimism = layer_norm, body, pessimism
        if pessimism is not None:
            kwargs["n_critics"] = 1
        if body not in get_args(Body):
            raise PrefenvsError(f"body={body!r} is unknown: choose {', '.join(get_args(Body))}")
        if body != "mlp":
            kwargs = {"features_extractor_class": NormalisedObservations, "optimizer_class": torch.optim.AdamW} | kwargs
            if kwargs["features_extractor_class"] is NormalisedObservations:
                kwargs.setdefault("features_extractor_kwargs", {"floor": FLOOR})
            kwargs["optimizer_kwargs"] = {"weight_decay": DECAY} | (kwargs.get("optimizer_kwargs") or {})
            widths = kwargs.get("net_arch")
            if isinstance(widths, list):
                kwargs["net_arch"] = {"pi": widths[:1], "qf": widths}
        if kwargs.get("optimizer_class", torch.optim.Adam) in (torch.optim.Adam, torch.optim.AdamW):
            kwargs["optimizer_kwargs"] = {"fused": True} | (kwargs.get("optimizer_kwargs") or {})
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for part in (self.actor,) if self.body == "mlp" else (self.actor.mu, self.actor.log_std):
            initialise(part)  # type: ignore[arg-type]
        normaliser = self.actor.features_extractor
        if isinstance(normaliser, NormalisedObservations):
            # It has statistics and no weights, so that one serves all.
            self.critic.features_extractor = self.critic_target.features_extractor = normaliser

    def see(self, observations: Any) -> None:
        """Take observations [N, *shape] into the statistics by which they are normalised, where they are."""
        normaliser = self.actor.features_extractor
        if isinstance(normaliser, NormalisedObservations):
            normaliser.see(torch.as_tensor(observations, device=self.device))

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        """Return the actor network."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return BoundedActor(**kwargs, body=self.body).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """Return the critic networks."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        own = {name: getattr(self, name) for name in NETWORKS}
        return StackedCritic(**kwargs, **own).to(self.device)  # type: ignore[return-value]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {name: getattr(self, name) for name in NETWORKS}

    def round_inner(self) -> None:
        """Let the layers between the first and the last multiply in bfloat16, for as long as this object lives.

        Raises PrefenvsError for residual bodies.
        """
        if self.body != "mlp":
            raise PrefenvsError(f"precision=bfloat16 is for plain layers: leave it out, or body={self.body}")
        round_inner(self.actor.latent_pi, last=True)
        for critic in (self.critic, self.critic_target):
            critic.q_networks.round_inner()  # type: ignore[attr-defined]

    def reset_critic(self, learning_rate: float) -> None:
        """Forget the critics: new weights, a new target and a new optimiser; the actor stays."""
        self.critic.reset_parameters()  # type: ignore[operator]
        self.critic_target.load_state_dict(self.critic.state_dict())
        make_optimizer: Any = self.optimizer_class
        self.critic.optimizer = make_optimizer(self.critic.parameters(), lr=learning_rate, **self.optimizer_kwargs)


class PebbleCnnPolicy(PebblePolicy):
    """`PebblePolicy` on pictures: actor and critics have a convolutional network each (`NatureCNN`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **({"features_extractor_class": NatureCNN} | kwargs))


def squashed_sample(actor: Actor, observations: Tensor) -> tuple[Tensor, Tensor]:
    """Draw an action [B, act] in [-1, 1] for each observation [B, obs]; return it and its log-probability [B, 1]."""
    mean, log_std, _ = actor.get_action_dist_params(observations)
    noise = torch.randn_like(mean)
    raw = mean + log_std.exp() * noise
    # log(1 - tanh(x)^2) in its stable form 2 (log 2 - x - softplus(-2x)).
    terms = 2.0 * (raw + functional.softplus(-2.0 * raw)) - log_std - 0.5 * noise.square()
    return raw.tanh(), terms.sum(-1, keepdim=True) - mean.shape[-1] * (HALF_LOG_2_PI + 2.0 * LOG_2)


def quantile_loss(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Return the quantile Huber loss of quantiles [B, N] by targets [B, M] (QR-DQN, Dabney et al. 2018, eq. 10)."""
    count = quantiles.shape[1]
    levels = (torch.arange(count, device=quantiles.device) + 0.5) / count
    errors = targets[:, None] - quantiles[..., None]
    huber = functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")
    return ((levels[:, None] - (errors < 0).float()).abs() * huber).mean(2).sum(1).mean()


def update(
    agent: SAC,
    batch: ReplayBufferSamples,
    move_target: bool = True,
    move_actor: bool = True,
    penalty: Callable[[Tensor], Tensor | None] | None = None,
) -> dict[str, Tensor]:
    """Take one gradient step on critics, actor and temperature, and move the target critics by tau.

    move_actor: False leaves actor and temperature as they are. penalty: of observations [B, obs], added to the actor's
    loss. Returns detached scalars (critic_loss, and with the actor's step actor_loss, ent_coef, entropy and value) that
    stay on the device.
    """
    actor, critic, critic_target = agent.actor, agent.critic, agent.critic_target
    # One critic's values are quantiles where it is pessimistic by their spread.
    pessimism: float | None = getattr(critic, "pessimism", None)
    temperature = agent.ent_coef_tensor if agent.log_ent_coef is None else agent.log_ent_coef.detach().exp()

    with torch.no_grad():
        actions, log_prob = squashed_sample(actor, batch.next_observations)
        next_values = torch.stack(critic_target(batch.next_observations, actions)).amin(0)
        if pessimism is not None:
            next_values = next_values - pessimism * next_values.std(1, correction=0, keepdim=True)
        target = batch.rewards + agent.gamma * (1.0 - batch.dones) * (next_values - temperature * log_prob)
    values = torch.stack(critic(batch.observations, batch.actions))
    if pessimism is None:
        critic_loss = 0.5 * (values - target).square().mean((1, 2)).sum()
    else:
        critic_loss = quantile_loss(values[0], target)
    critic.optimizer.zero_grad()
    critic_loss.backward()  # type: ignore[no-untyped-call]
    critic.optimizer.step()
    metrics = {"critic_loss": critic_loss.detach()}

    if move_actor:
        actions, log_prob = squashed_sample(actor, batch.observations)
        best_values = torch.stack(critic(batch.observations, actions)).amin(0)
        if pessimism is not None:
            best_values = best_values.mean(1, keepdim=True)
        actor_loss = (temperature * log_prob - best_values).mean()
        extra = None if penalty is None else penalty(batch.observations)
        actor_loss = actor_loss if extra is None else actor_loss + extra
        # By the actor's parameters alone: the critics' gradient by their weights would be a tenth of the update's time.
        parameters = list(actor.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(actor_loss, parameters), strict=True):
            parameter.grad = gradient
        actor.optimizer.step()

        entropy = -log_prob.detach().mean()
        if agent.log_ent_coef is not None and agent.ent_coef_optimizer is not None:
            # The loss of the temperature is linear in its logarithm, so this is its gradient.
            agent.log_ent_coef.grad = (entropy - float(agent.target_entropy)).view_as(agent.log_ent_coef)
            agent.ent_coef_optimizer.step()
        metrics |= {"actor_loss": actor_loss.detach(), "ent_coef": temperature, "entropy": entropy}
        metrics["value"] = best_values.detach().mean()

    if move_target:
        polyak_update(critic.parameters(), critic_target.parameters(), agent.tau)
    return metrics
