"""PEBBLE: off-policy preference learning with relabelling and unsupervised pre-training (Lee, Smith, Abbeel 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online.checkpoint import WAY_OUT
from prefenvs.agents.online.learner import GivenRewardModel, LearnerConfig, PreferenceLearner
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.online.sac import PebblePolicy, squashed_sample, update
from prefenvs.errors import PrefenvsError
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array

SelfPEBBLE = TypeVar("SelfPEBBLE", bound="PEBBLE")


@dataclass(frozen=True)
class PebbleConfig(LearnerConfig):
    """PEBBLE's settings beside those of SAC; B-Pref's defaults."""

    reset_updates: int = 100
    """Updates right after the first session, when the critic starts afresh."""
    explore_first: bool = False
    """With true_reward: explore for `unsupervised_steps` before it, and start with a fresh critic, as with labels."""
    bonus: float = 0.0
    """RUNE's weight beta_0 of the ensemble's standard deviation in the reward (0.05 in its paper; 0: plain PEBBLE)."""
    bonus_decay: float = 1e-5
    """RUNE's rho: the weight at step t is bonus * (1 - bonus_decay)^t."""


class PEBBLE(PreferenceLearner, SAC):
    """SAC on a reward learned from preferences between segments of its own behaviour.

    The environment must hide its reward (`prefenvs.make`); the oracle answers queries about recorded segments; a
    function of two segments will do (see `prefenvs.raters`).
    Arguments beside `oracle` and `config` are Stable-Baselines3's, with B-Pref's values for DeepMind Control.

    Timeline (Lee et al. 2021, algorithm 2): random actions for `learning_starts` steps; SAC on the state-entropy reward
    for `unsupervised_steps`; the first session, of uniform queries, then relabelling and a fresh critic; from there SAC
    on the learned reward, with a session every `interact` steps until the budget is spent.
    """

    name = "pebble"
    takes = ("bounded",)
    config_type = PebbleConfig
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": PebblePolicy}
    policy: PebblePolicy
    config: PebbleConfig
    replay_buffer: RelabelBuffer

    def __init__(
        self,
        policy: str | type[PebblePolicy],
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: PebbleConfig | None = None,
        learning_rate: float | Schedule = 5e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 1_000,
        batch_size: int = 1_024,
        tau: float = 0.005,
        gamma: float = 0.99,
        gradient_steps: int = -1,
        ent_coef: str | float = "auto_0.1",
        ent_coef_learning_rate: float = 1e-4,
        target_update_interval: int = 2,
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
            policy_kwargs={"net_arch": [1024, 1024]} | (policy_kwargs or {}),
            replay_buffer_class=RelabelBuffer,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
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
        self: SelfPEBBLE,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "PEBBLE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPEBBLE:
        """Train for `total_timesteps` environment steps; arguments are Stable-Baselines3's."""
        self.start_feedback(total_timesteps)
        with products():
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
                self._start_afresh(batch_size)
        if self.config.true_reward:
            self.replay_buffer.keep_rewards()
            if self.config.explore_first and 0 <= self.num_timesteps - self.first_session < self.n_envs:
                self._start_afresh(batch_size)
        elif self.reward_learned:
            self.replay_buffer.bonus = self.config.bonus * (1.0 - self.config.bonus_decay) ** self.num_timesteps
        self._update(gradient_steps, batch_size)

    def check_run(self, total_steps: int) -> None:
        """As every learner; raises PrefenvsError too where the true reward would come after the run's end."""
        super().check_run(total_steps)
        if self.config.true_reward and self.config.explore_first and self.first_session >= total_steps:
            raise PrefenvsError(
                f"the true reward comes after {self.first_session} steps of exploration, but the run ends after "
                f"{total_steps}: train for longer or lower unsupervised_steps"
            )

    def _start_afresh(self, batch_size: int) -> None:
        """Replace the critic that valued state entropy, and fit the new one."""
        self.policy.reset_critic(self.lr_schedule(self._current_progress_remaining))
        self._update(self.config.reset_updates, batch_size)

    def save_memory(self, folder: Path) -> None:
        """Write the replay buffer as it is: rewards that wait to be filled in wait in the file too."""
        self.replay_buffer.save(folder / "replay.npz")

    def load_memory(self, folder: Path) -> None:
        """Read the replay buffer."""
        with damage_told(folder / "replay.npz", WAY_OUT):
            self.replay_buffer.restore(folder / "replay.npz")
        self.replay_buffer.context = self.reward_context

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
        metrics: dict[str, torch.Tensor] = {}
        for _ in range(gradient_steps):
            batch = buffer.draw(batch_size, self.learned_reward if self.reward_learned else None)
            if seen is not None:
                batch = batch._replace(rewards=self.state_entropy(batch.observations, seen)[:, None])
            metrics = update(self, batch, self._n_updates % self.target_update_interval == 0)
            self._n_updates += 1
        # Reading a metric waits for the device, so only every hundredth update is logged.
        if self._n_updates // 100 > (self._n_updates - gradient_steps) // 100:
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            for name, value in metrics.items():
                self.logger.record(f"train/{name}", float(value))
