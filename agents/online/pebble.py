"""PEBBLE: off-policy preference learning with relabelling and unsupervised pre-training (Lee, Smith, Abbeel 2021)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online.checkpoint import WAY_OUT
from prefenvs.agents.online.exploration import Candidates
from prefenvs.agents.online.learner import GivenRewardModel, LearnerConfig, PreferenceLearner, fit_schedule
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.online.sac import (
    CerConfig,
    PebbleCnnPolicy,
    PebblePolicy,
    SACConfig,
    ValueResets,
    squashed_sample,
    update,
)
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.options.reed import ReedConfig
from prefenvs.agents.rewards.options.rime import RimeConfig
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array
from prefenvs.tasks import Task


@dataclass(frozen=True)
class PebbleConfig(LearnerConfig):
    """PEBBLE's settings beside those of SAC; B-Pref's defaults."""

    reset_updates: NonNegativeInt = 100
    """Updates right after the first session, when the critic starts afresh."""
    explore_first: bool = False
    """With true_reward: explore for `unsupervised_steps` before it, and start with a fresh critic, as with labels."""
    policy_delay: PositiveInt = 1
    """Updates of the critics for one of the actor and the temperature."""
    recent_share: Fraction = 0.0
    """Share of each batch that comes from the newest `recent_steps` steps, once a reward is learned: the hybrid replay
    of QPA (Hu et al. 2024), which has 0.5 and 10 episodes; 0: uniform, as PEBBLE."""
    recent_steps: PositiveInt = 10_000
    """How many steps are recent, over all environments."""
    value_resets: CerConfig | None = None
    """Start reward and critics anew where values overestimate (PoLiCER, 2026); None never does."""
    bonus: NonNegativeFloat = 0.0
    """RUNE's weight beta_0 of the ensemble's standard deviation in the reward (0.05 in its paper; 0: plain PEBBLE)."""
    bonus_decay: Fraction = 1e-5
    """RUNE's rho: the weight at step t is bonus * (1 - bonus_decay)^t."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_resets is not None and self.reward.output not in ("tanh", "sigmoid"):
            raise PrefenvsError(f"value_resets need bounded rewards; output={self.reward.output!r} has no bounds")


class PEBBLE(PreferenceLearner, SAC):
    """SAC on a reward learned from preferences between segments of its own behaviour.

    The environment must hide its reward (`prefenvs.make`); an oracle or a function (`prefenvs.raters`) judges pairs of
    segments. Arguments beside `oracle` and `config` are Stable-Baselines3's, with B-Pref's values for DeepMind Control.

    Timeline (Lee et al. 2021, algorithm 2): random actions for `learning_starts` steps; SAC on the state-entropy reward
    for `unsupervised_steps`; the first session, of uniform queries, then relabelling and a fresh critic; from there SAC
    on the learned reward, with a session every `interact` steps until the budget is spent.
    """

    name = "pebble"
    takes = ("bounded",)
    sees_pictures = True
    config_type = PebbleConfig
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": PebblePolicy, "CnnPolicy": PebbleCnnPolicy}
    policy: PebblePolicy
    config: PebbleConfig
    replay_buffer: RelabelBuffer

    def __init__(
        self,
        policy: str | type[PebblePolicy],
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: PebbleConfig | None = None,
        learning_rate: float | Schedule = SACConfig.learning_rate,
        buffer_size: int = SACConfig.buffer_size,
        learning_starts: int = SACConfig.learning_starts,
        batch_size: int = SACConfig.batch_size,
        tau: float = SACConfig.tau,
        gamma: float = SACConfig.gamma,
        gradient_steps: int = SACConfig.gradient_steps,
        ent_coef: str | float = SACConfig.ent_coef,
        ent_coef_learning_rate: float = SACConfig.ent_coef_learning_rate,
        target_update_interval: int = SACConfig.target_update_interval,
        policy_kwargs: dict[str, Any] | None = None,
        reward_model: GivenRewardModel = None,
        **kwargs: Any,
    ) -> None:
        """reward_model: one of your own in place of the ensemble (see `prefenvs.protocols.RewardModel`)."""
        self.oracle = None if oracle is None else as_oracle(oracle)
        self.config = config or PebbleConfig()
        self.ent_coef_learning_rate = ent_coef_learning_rate
        self.feedback = None
        self.reward_learned = False
        self._resets = None if self.config.value_resets is None else ValueResets(self.config.value_resets)
        super().__init__(
            policy,
            env,
            reward_model=reward_model,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            gradient_steps=gradient_steps,
            ent_coef=ent_coef,
            target_update_interval=target_update_interval,
            policy_kwargs={"net_arch": list(SACConfig.hidden)} | (policy_kwargs or {}),
            replay_buffer_class=RelabelBuffer,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.state_entropy.bounded = self._intrinsic_steps > 0
        if self.config.precision == "bfloat16":
            self.policy.round_inner()
        if self.log_ent_coef is not None:
            self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.ent_coef_learning_rate)

    @property
    def first_session(self) -> int:
        """Environment steps of random actions and of state-entropy exploration."""
        return self.learning_starts + self.config.unsupervised_steps

    @property
    def exploring(self) -> bool:
        """Whether state entropy is the reward now."""
        if self.config.true_reward:
            return self.config.explore_first and self.num_timesteps < self.first_session
        return not self.reward_learned

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "PEBBLE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for `total_timesteps` environment steps; arguments are Stable-Baselines3's."""
        self.start_feedback(total_timesteps if reset_num_timesteps else self.num_timesteps + total_timesteps)
        widths = (parameter.shape[-1] for parameter in self.critic.parameters())
        with products(max(widths)):
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._fill()
        return self

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Run the preference loop if it is due, relabel, and take gradient steps.

        `Feedback.run` is the loop's other part: sample, select, ask, collect, fit. New transitions get their rewards
        when they are drawn.
        """
        if self.update_reward():
            self.replay_buffer.context = self.reward_context
            self.replay_buffer.relabel(self.learned_reward)
            if not self.reward_learned:
                self.reward_learned = True
                self._start_afresh(batch_size, keep_critic=self._intrinsic_steps > 0)
            elif self._resets is not None and self._resets.due():
                self._learn_anew()
                self.logger.record("train/reset_threshold", self._resets.threshold)
        if self.config.true_reward:
            self.replay_buffer.keep_rewards()
            steps = self.n_envs * self.train_freq.frequency  # type: ignore[union-attr]
            if self.config.explore_first and 0 <= self.num_timesteps - self.first_session < steps:
                self._start_afresh(batch_size)
        elif self.reward_learned:
            self.replay_buffer.bonus = self.config.bonus * (1.0 - self.config.bonus_decay) ** self.num_timesteps
        if self._resets is not None and self.feedback is not None and self.feedback.asked < self.config.labels:
            gradient_steps *= self._resets.updates
        self._update(gradient_steps, batch_size)

    def check_run(self, total_steps: int) -> None:
        """As every learner; raises PrefenvsError too where the true reward would come after the run's end, or never."""
        super().check_run(total_steps)
        if self.config.explore_first and not self.config.true_reward:
            raise PrefenvsError("explore_first goes with true_reward; before labels there is exploration in any case")
        if self._resets is not None and not isinstance(self.reward_model, RewardEnsemble):
            raise PrefenvsError("value_resets start the reward ensemble anew: leave out reward_model=... or cer")
        if self.config.true_reward and self.config.explore_first and self.first_session >= total_steps:
            raise PrefenvsError(
                f"the true reward comes after {self.first_session} steps of exploration, but the run ends after "
                f"{total_steps}: train for longer or lower unsupervised_steps"
            )

    @property
    def _intrinsic_steps(self) -> int:
        """Gradient steps of the reward model on the intrinsic reward for each step of exploration (RIME)."""
        rime = self.config.reward.rime
        return 0 if rime is None or self.config.true_reward or self.config.exploration_only else rime.intrinsic_steps

    def _start_afresh(self, batch_size: int, keep_critic: bool = False) -> None:
        """Replace the critic that valued state entropy, unless its values are the reward model's, and fit it."""
        if not keep_critic:
            self.policy.reset_critic(self.lr_schedule(self._current_progress_remaining))
        if self._resets is not None:
            self._resets.forget()
        self._update(self.config.reset_updates, batch_size)

    def _learn_anew(self) -> None:
        """Learn the reward anew from all labels, and forget the critics; actor and temperature stay (PoLiCER)."""
        assert self.feedback is not None
        self.feedback.refit()
        self.replay_buffer.relabel(self.learned_reward)
        self.policy.reset_critic(self.lr_schedule(self._current_progress_remaining))

    def actor_penalty(self, observations: torch.Tensor) -> torch.Tensor | None:
        """Return what is added to the actor's loss for a batch of observations [B, obs]; None: nothing."""
        return None

    @torch.no_grad()
    def log_likelihood(self, observations: Array, actions: Array) -> Array:
        """Return log pi(a | s) [N]; actions at the bounds, where the density has a pole, count as just inside."""
        scaled = torch.as_tensor(self.policy.scale_action(actions), dtype=torch.float32, device=self.device)
        scaled = scaled.clamp(-1.0 + 1e-4, 1.0 - 1e-4)
        states, _ = self.policy.obs_to_tensor(observations)
        mean, log_std, _ = self.actor.get_action_dist_params(states)
        normal = torch.distributions.Normal(mean, log_std.exp())
        density = normal.log_prob(torch.atanh(scaled)) - torch.log1p(-scaled.square())  # type: ignore[no-untyped-call]
        result: Array = density.sum(1).cpu().numpy()
        return result

    def save_memory(self, folder: Path) -> None:
        """Write the replay buffer as it is: rewards that wait to be filled in wait in the file too."""
        self.replay_buffer.save(folder / "replay.npz")
        if self._resets is not None:
            (folder / "resets.json").write_text(json.dumps(self._resets.state_dict()))

    def load_memory(self, folder: Path) -> None:
        """Read the replay buffer."""
        with damage_told(folder / "replay.npz", WAY_OUT):
            self.replay_buffer.restore(folder / "replay.npz")
        self.replay_buffer.context = self.reward_context
        if self._resets is not None:
            with damage_told(folder / "resets.json", WAY_OUT):
                self._resets.load_state_dict(json.loads((folder / "resets.json").read_text()))

    def _compare_members(self) -> list[str]:
        return super()._compare_members() + (["RUNE's bonus"] if self.config.bonus else [])

    def _fill(self) -> None:
        """Give all transitions their learned reward."""
        if self.reward_learned:
            self.replay_buffer.fill(self.learned_reward)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        """Return actions for the environments and, scaled to [-1, 1], for the buffer; quicker than by `predict`."""
        self.policy.see(self._last_obs)
        if self.num_timesteps < learning_starts or action_noise is not None:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        with torch.no_grad():
            observations = torch.as_tensor(np.asarray(self._last_obs), device=self.device)
            scaled: Array = squashed_sample(self.actor, observations)[0].cpu().numpy()
        scaled = scaled.reshape(n_envs, *self.action_space.shape)  # type: ignore[misc]
        return self.policy.unscale_action(scaled), scaled

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        buffer, seen = self.replay_buffer, None
        if self.exploring:
            ring = buffer.all_observations
            seen = self.state_entropy.seen.update(ring, buffer.added * buffer.n_envs, self.device)
            if self._intrinsic_steps:
                self._warm_start(batch_size, seen)
        metrics: dict[str, torch.Tensor] = {}
        recent = 0 if self.exploring else int(self.config.recent_share * batch_size)
        newest = max(self.config.recent_steps // self.n_envs, 1)
        for _ in range(gradient_steps):
            batch = buffer.draw(batch_size, self.learned_reward if self.reward_learned else None, (recent, newest))
            if seen is not None:
                batch = batch._replace(rewards=self.state_entropy(batch.observations, seen)[:, None])
            target, actor = (self._n_updates % n == 0 for n in (self.target_update_interval, self.config.policy_delay))
            metrics |= update(self, batch, target, actor, self.actor_penalty)
            if self._resets is not None and "value" in metrics:
                self._resets.see(metrics["value"])
            self._n_updates += 1
        # Reading a metric waits for the device, so only every hundredth update is logged.
        if self._n_updates // 100 > (self._n_updates - gradient_steps) // 100:
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            for name, value in metrics.items():
                self.logger.record(f"train/{name}", float(value))

    def _warm_start(self, batch_size: int, seen: Candidates) -> None:
        """Let the reward model learn the intrinsic reward, some gradient steps for each environment step (RIME)."""
        buffer, model = self.replay_buffer, self.reward_model
        assert isinstance(model, RewardEnsemble)
        if not self.state_entropy.std.count:
            return
        if model.config.normalise:
            held = buffer.all_observations[: buffer.size() * buffer.n_envs]
            model.trainer.normalise_by(torch.from_numpy(held).to(self.device, torch.float32))
        for _ in range(self._intrinsic_steps * self.n_envs * self.train_freq.frequency):  # type: ignore[union-attr]
            batch = buffer.draw(batch_size)
            actions = torch.from_numpy(buffer.task_actions(batch.actions.cpu().numpy())).to(self.device)
            model.regress(batch.observations, actions, self.state_entropy.predictable(batch.observations, seen))


@dataclass(frozen=True)
class PebbleOptions(SACConfig):
    """SAC's arguments, and PEBBLE's relatives."""

    surf: bool = False
    """Semi-supervised reward learning with augmentation (SURF); --reward.surf... then has its settings."""
    rune: bool = False
    """Reward bonus for the ensemble's uncertainty (RUNE): --bonus 0.05."""
    rime: bool = False
    """Leave out or flip labels that the reward contradicts, and warm-start the reward (RIME); --reward.rime... then has
    its settings."""
    reed: bool = False
    """Let the reward network predict the next state too (REED); --reward.reed... then has its settings."""
    cer: bool = False
    """Start reward and critics anew where values overestimate (PoLiCER); --value-resets... then has its settings."""
    horizon_discount: bool = False
    """Discount by the task's horizon T in the place of gamma: 1 - 5 / T within [0.95, 0.995] (SimBa)."""


def preset(
    task: Task,
    name: str = "published",
    *,
    labels: int | None = None,
    steps: int | None = None,
    per_session: int | None = None,
    interact: int | None = None,
    unsupervised_steps: int | None = None,
    learning_starts: int = SACConfig.learning_starts,
    gamma: float | None = None,
    surf: bool = False,
    rune: bool = False,
    rime: bool = False,
    reed: bool = False,
    cer: bool = False,
    horizon_discount: bool = False,
    envs: int = SACConfig.envs,
    **_: Any,
) -> Settings:
    """Return B-Pref's settings for a task (its scripts, 2021), or others for a CPU.

    small: smaller networks and batches. reliable: what was found since, for runs of up to some 100,000 steps: critics
    with layer norm and two updates a step, the actor's every second of them; half of each batch from the newest steps
    (QPA); uniform queries in at least 25 small sessions; normalised reward inputs; members' mean less their deviation.
    Of another paper's budget (`LabelBudget.source`) the numbers are taken, all else from B-Pref. A task without one has
    walker-walk's.

    labels: which of the task's published budgets to take, or a budget of one's own; the smallest published by default.
    steps: if not the published ones; fewer get a schedule that fits. Raises PrefenvsError for two discounts.
    """
    discount = min(max(1.0 - 5.0 / task.horizon, 0.95), 0.995) if horizon_discount else PebbleOptions.gamma
    # A resumed run has kept both.
    if horizon_discount and gamma not in (None, discount):
        raise PrefenvsError(f"horizon_discount and gamma={gamma} are two discounts: leave one of them out")
    budget, manipulation = task.budget(labels), task.family == "metaworld"
    most = max(budget.labels // 25, 1) if name == "reliable" else budget.labels
    size = min(budget.per_session, most) if per_session is None else per_session
    rate = budget.interact / budget.per_session
    config = PebbleConfig(
        labels=budget.labels,
        per_session=size,
        interact=(round(rate * size) if name == "reliable" else budget.interact) if interact is None else interact,
        segment_length=task.segment_length,
        unsupervised_steps=PebbleConfig.unsupervised_steps if unsupervised_steps is None else unsupervised_steps,
        reward=RewardConfig(
            epochs=budget.epochs,
            stop_accuracy=0.98 if rime else RewardConfig.stop_accuracy,
            surf=SurfConfig() if surf else None,
            rime=(RimeConfig(beta_passes=600, least_passes=5) if manipulation else RimeConfig()) if rime else None,
            reed=ReedConfig() if reed else None,
        ),
        bonus=0.05 if rune else 0.0,
        value_resets=CerConfig(rise=7.5 if manipulation else 5.0) if cer else None,
    )
    total = budget.steps if steps is None else steps
    if total < budget.steps:
        given = {"interact": interact, "unsupervised_steps": unsupervised_steps}
        kept = [key for key, value in given.items() if value is not None]
        config = fit_schedule(config, total, learning_starts, kept)
    options = PebbleOptions(
        learning_rate=budget.lr,
        batch_size=512 if manipulation else 1024,
        hidden=(256, 256, 256) if manipulation else (1024, 1024),
        buffer_size=max(total, 1),
        learning_starts=learning_starts,
        surf=surf,
        rune=rune,
        rime=rime,
        reed=reed,
        cer=cer,
        horizon_discount=horizon_discount,
        gamma=discount,
    )
    settings = Settings(config, total, options)
    return settings if name == "published" else _fit_to_cpu(settings, name == "reliable", envs)


def _fit_to_cpu(settings: Settings, reliable: bool, envs: int) -> Settings:
    """Return the settings with smaller networks and batches, and what was found since the publication."""
    smaller: dict[str, Any] = {"batch_size": 256, "hidden": (128, 128), "target_update_interval": 1}
    options = replace(settings.options, learning_rate=1e-3, ent_coef_learning_rate=1e-3, **smaller)
    reward = replace(settings.config.reward, width=128, normalise=reliable)
    config = replace(settings.config, entropy_states=8_192, reward=reward)
    if reliable:
        options = replace(
            options, learning_rate=5e-4, batch_size=128, layer_norm=True, gradient_steps=2 * envs, envs=envs
        )
        config = replace(config, selector="uniform", aggregate="mean-std", policy_delay=2, recent_share=0.5)
    return replace(settings, config=config, options=options)


CONTROLS = ("pebble-coin", "pebble-no-labels")
"""What PEBBLE's figures are held against: the same steps, seeds and exploration."""

ALGORITHM = Algorithm(
    name="pebble",
    title="PEBBLE",
    source="online",
    learner=PEBBLE,
    config=PebbleConfig,
    options=PebbleOptions,
    preset=preset,
    presets=("published", "small", "reliable"),
    rows=(
        *(
            Row(name, title, options, rewards=True, controls=CONTROLS, bound="pebble-true-reward-explored")
            for name, title, options in (
                ("pebble", "PEBBLE", {}),
                ("pebble-published", "PEBBLE as published, at a CPU's size", {"preset": "small"}),
                ("pebble-surf", "PEBBLE + SURF", {"surf": True}),
                ("pebble-rune", "PEBBLE + RUNE", {"rune": True}),
                ("pebble-min", "PEBBLE, worst case of the ensemble", {"aggregate": "min"}),
                ("pebble-mean", "PEBBLE, mean of the ensemble", {"aggregate": "mean"}),
                ("pebble-mean-std", "PEBBLE, mean less one standard deviation", {"aggregate": "mean-std"}),
            )
        ),
        *(
            Row(name, f"PEBBLE, {title}", options, rewards=True)
            for name, title, options in (
                ("pebble-no-layer-norm", "plain critics", {"layer_norm": False}),
                ("pebble-one-update", "one update a step", {"gradient_steps": 1, "policy_delay": 1}),
                ("pebble-large-batches", "larger batches and steps", {"batch_size": 256, "learning_rate": 1e-3}),
                ("pebble-uniform-replay", "uniform replay", {"recent_share": 0.0}),
                ("pebble-disagreement", "queries by disagreement", {"selector": "disagreement"}),
                ("pebble-likelihood", "likely actions asked about (PoLiCER)", {"selector": "policy-likelihood"}),
                ("pebble-raw-inputs", "raw reward inputs", {"reward.normalise": False}),
                ("pebble-simba", "SimBa's residual blocks", {"body": "simba"}),
                ("pebble-bro", "BRO's residual blocks", {"body": "bro"}),
                ("pebble-rime", "labels denoised (RIME)", {"rime": True}),
                ("pebble-reed", "self-prediction (REED)", {"reed": True}),
                ("pebble-cer", "resets of reward and critics (PoLiCER)", {"cer": True}),
                ("pebble-stac", "one critic, pessimistic by its spread (STAC)", {"pessimism": 0.1}),
                ("pebble-restart", "rewards learned anew at each session", {"reward.restart": True}),
                ("pebble-horizon-discount", "the discount by the horizon", {"horizon_discount": True}),
                ("pebble-normalised-entropy", "novelty of normalised states", {"entropy_normalised": True}),
                ("pebble-lire", "ranked lists (LiRE)", {"lists": "lire"}),
                ("pebble-seqrank", "ranked lists (SeqRank)", {"lists": "seqrank"}),
            )
        ),
        Row("pebble-true-reward", "SAC on the true reward (upper bound)", {"true_reward": True}, asks=False),
        Row("pebble-coin", "PEBBLE on coin flips (control)", rewards=True, rater="coin"),
        Row("pebble-no-labels", "exploration alone (control)", {"exploration_only": True}, asks=False),
        Row(
            "pebble-true-reward-explored",
            "SAC on the true reward after exploration (upper bound)",
            {"true_reward": True, "explore_first": True},
            asks=False,
            upper="pebble-true-reward-explored",
            keeps=("unsupervised_steps",),
        ),
    ),
    upper="pebble-true-reward",
)
