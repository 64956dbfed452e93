"""PrefPPO: on-policy preference learning (Christiano et al. 2017), on PPO and with B-Pref's settings."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import LinearSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.mlp import round_inner
from prefenvs.agents.nets.residual import NormalisedObservations
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online import ppo
from prefenvs.agents.online.checkpoint import WAY_OUT
from prefenvs.agents.online.exploration import compared
from prefenvs.agents.online.learner import GivenRewardModel, LearnerConfig, PreferenceLearner
from prefenvs.agents.registry import Algorithm, Row, Settings
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.envs import make
from prefenvs.envs.spaces import action_choices, action_vectors
from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    AtLeastMinusOne,
    AtLeastTwo,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    check_settings,
)
from prefenvs.protocols import SequenceRewardModel
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array
from prefenvs.tasks import Task


@dataclass(frozen=True)
class PrefPPOConfig(LearnerConfig):
    """PrefPPO's settings beside those of PPO; B-Pref's defaults."""

    unsupervised_steps: NonNegativeInt = 32_000
    """Environment steps of state-entropy exploration before the first session."""
    entropy_states: PositiveInt | None = 32_000
    """Compare with the newest so many states."""
    unsupervised_epochs: PositiveInt = 50
    """PPO epochs for each rollout during exploration."""
    normalise_observations: bool = True
    """Normalise what the policy sees; recorded segments, reward model and exploration see observations as they are."""


@dataclass(frozen=True)
class PPOConfig:
    """PPO's arguments; the defaults are B-Pref's for walker-walk (32 environments of 500 steps there)."""

    learning_rate: PositiveFloat = 5e-5
    """Learning rate (Adam)."""
    n_steps: PositiveInt = 500
    """Steps of each environment in a rollout."""
    batch_size: AtLeastTwo = 64
    """Steps in a gradient step."""
    n_epochs: PositiveInt = 20
    """Passes over a rollout."""
    hidden: tuple[PositiveInt, ...] = (256, 256, 256)
    """Sizes of the hidden layers of policy and value function."""
    gamma: Fraction = 0.99
    """Discount factor."""
    gae_lambda: Fraction = 0.92
    """GAE's lambda."""
    clip_range: PositiveFloat = 0.4
    """Clipping range of the policy's probability ratio."""
    clip_range_falls: bool = False
    """Let the clip range fall to 0 over the run, as published."""
    ent_coef: NonNegativeFloat = 0.0
    """Entropy coefficient."""
    vf_coef: NonNegativeFloat = 0.5
    """Value function coefficient."""
    max_grad_norm: PositiveFloat = 0.5
    """Largest norm of a gradient."""
    use_sde: bool = False
    """Generalised state-dependent exploration (gSDE)."""
    sde_sample_freq: AtLeastMinusOne = -1
    """Steps after which that noise is drawn anew; -1 once for each rollout."""
    envs: PositiveInt = 32
    """Environments stepped side by side; 16 or 32 by task, as published."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.n_steps * self.envs < 2:
            raise PrefenvsError("a rollout of a single step has no spread of advantages: raise n_steps or envs")

    def keywords(self) -> dict[str, Any]:
        """Return the keyword arguments of the learner's constructor."""
        names = {field.name for field in dataclasses.fields(self)} - {"hidden", "envs", "clip_range_falls"}
        keywords = {name: getattr(self, name) for name in names} | {"policy_kwargs": {"net_arch": list(self.hidden)}}
        if self.clip_range_falls:
            keywords["clip_range"] = LinearSchedule(self.clip_range, 0.0, 1.0)
        return keywords


class PrefPPO(PreferenceLearner, PPO):
    """PPO on a reward learned from preferences; every rollout is rewarded by the reward model as it stands.

    Works for continuous and discrete actions. Arguments beside `oracle` and `config` are Stable-Baselines3's, with
    B-Pref's values for walker-walk as defaults (32 environments of 500 steps there).
    """

    name = "prefppo"
    takes = ("bounded", "discrete", "several")
    sees_pictures = True
    config_type = PrefPPOConfig
    config: PrefPPOConfig

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: PrefPPOConfig | None = None,
        learning_rate: float | Schedule = PPOConfig.learning_rate,
        n_steps: int = PPOConfig.n_steps,
        batch_size: int = PPOConfig.batch_size,
        n_epochs: int = PPOConfig.n_epochs,
        gae_lambda: float = PPOConfig.gae_lambda,
        clip_range: float | Schedule = PPOConfig.clip_range,
        policy_kwargs: dict[str, Any] | None = None,
        reward_model: GivenRewardModel = None,
        **kwargs: Any,
    ) -> None:
        """reward_model: one of your own in place of the ensemble (see `prefenvs.protocols.RewardModel`)."""
        self.oracle = None if oracle is None else as_oracle(oracle)
        self.config = config or PrefPPOConfig()
        self.feedback = None
        self.reward_learned = False
        self.states_seen: Array = np.zeros((0, 0), np.float32)
        adam = {"optimizer_kwargs": {"eps": 1e-5, "fused": True}}
        policy_kwargs = {"net_arch": list(PPOConfig.hidden)} | adam | (policy_kwargs or {})
        if self.config.normalise_observations and policy != "CnnPolicy":
            policy_kwargs.setdefault("features_extractor_class", NormalisedObservations)
        super().__init__(
            policy,
            env,
            reward_model=reward_model,
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            policy_kwargs=policy_kwargs,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.config.precision == "bfloat16":
            extractor = self.policy.mlp_extractor
            for layers in (extractor.policy_net, extractor.value_net):
                round_inner(layers, last=True)

    @property
    def first_session(self) -> int:
        """Environment steps of state-entropy exploration."""
        return self.config.unsupervised_steps

    @property
    def session_steps(self) -> int:
        """Steps of a rollout, at whose end sessions are held."""
        return self.n_steps * self.n_envs

    @property
    def exploring(self) -> bool:
        """True until the first answers are learned from."""
        return not (self.reward_learned or self.config.true_reward)

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PrefPPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for `total_timesteps` environment steps; arguments are Stable-Baselines3's."""
        self.start_feedback(total_timesteps if reset_num_timesteps else self.num_timesteps + total_timesteps)
        with products():
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Roll the policy out, run the preference loop if it is due, and reward the rollout.

        The rest of the loop (sample, select, ask, collect, fit) is `Feedback.run`.
        """
        before: dict[int, list[Any]] = {}
        if isinstance(self.reward_model, SequenceRewardModel):
            # Observations and actions alone, not the true rewards beside them.
            before = {i: [step[:2] for step in steps] for i, steps in self.recorder.buffer.open_steps.items()}
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        if self.config.true_reward:
            return True
        if self.update_reward() and not self.reward_learned:
            self.reward_learned = True
            self._reset_value_head()
        observations = rollout_buffer.observations.reshape(-1, *rollout_buffer.obs_shape)
        rewards = self._intrinsic(observations) if self.exploring else self._learned(observations, before)
        # The environment paid nothing, so what the buffer holds is the bootstrap value at time limits; keep it.
        rollout_buffer.rewards += rewards.reshape(rollout_buffer.rewards.shape)
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        rollout_buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)  # type: ignore[arg-type]
        return True

    def train(self) -> None:
        """Take PPO's epochs on the rollout, more of them while exploring."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        metrics = ppo.train(self, self.config.unsupervised_epochs if self.exploring else self.n_epochs)
        buffer = self.rollout_buffer
        metrics["explained_variance"] = float(explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        extractor = self.policy.features_extractor
        if isinstance(extractor, NormalisedObservations):
            # After the update, which has to see this rollout as it was collected.
            extractor.see(torch.from_numpy(buffer.observations.reshape(-1, *buffer.obs_shape)).to(self.device))

    @torch.no_grad()
    def log_likelihood(self, observations: Array, actions: Array) -> Array:
        """Return log pi(a | s) [N]; discrete actions are one-hot, as in segments."""
        actions = action_choices(self.action_space, actions)
        states, _ = self.policy.obs_to_tensor(observations)
        density = self.policy.get_distribution(states).log_prob(torch.as_tensor(actions, device=self.device))
        result: Array = density.cpu().numpy()
        return result

    def save_memory(self, folder: Path) -> None:
        """Write the states that exploration compares with, and whether a rollout was cut off."""
        np.save(folder / "states_seen.npy", self.states_seen, allow_pickle=False)
        if self.rollout_buffer.pos and not self.rollout_buffer.full:
            (folder / "rollout-cut-off").touch()

    def load_memory(self, folder: Path) -> None:
        """Read the states that exploration compares with."""
        path = folder / "states_seen.npy"
        with damage_told(path, WAY_OUT):
            seen: Array = np.load(path, allow_pickle=False)
            width = compared(np.zeros((1, *self.rollout_buffer.obs_shape), np.float32), self.device).shape[1]
            if seen.ndim != 2 or seen.shape[1] not in (0, width):
                raise ValueError(f"states of shape {seen.shape}")
        self.states_seen = seen
        if (folder / "rollout-cut-off").is_file():
            print("not number for number the unbroken run: it was stopped within a rollout, which begins anew")

    def _intrinsic(self, observations: Array) -> Array:
        observations = compared(observations, self.device).cpu().numpy()
        seen = np.concatenate([self.states_seen.reshape(-1, observations.shape[1]), observations])
        keep = max(self.config.entropy_states or len(seen), len(observations))
        self.states_seen = seen[-keep:]
        everything = torch.from_numpy(self.states_seen).to(self.device)
        parts = torch.split(torch.from_numpy(observations).to(self.device), 1024)
        rewards: Array = torch.cat([self.state_entropy(part, everything) for part in parts]).cpu().numpy()
        return rewards

    def _actions(self) -> Array:
        """Return the rollout's actions as segments hold them: clipped, or one-hot where they are discrete."""
        actions = self.rollout_buffer.actions
        if isinstance(self.action_space, spaces.Box):
            flat = actions.reshape(-1, *self.action_space.shape)
            clipped: Array = np.clip(flat, self.action_space.low, self.action_space.high).reshape(len(flat), -1)
            return clipped
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions[..., 0]
        rows = action_vectors(self.action_space, actions)
        return rows.reshape(-1, rows.shape[-1])

    def _learned(self, observations: Array, before: dict[int, list[Any]]) -> Array:
        """Return the learned rewards [steps * envs] of the rollout's observations [steps * envs, obs].

        before: the recorded steps of the episodes that were under way when it began, by environment; a reward that
        depends on earlier steps sees them.
        """
        back = self.reward_context - 1
        if not back:
            return self.learned_reward(observations, self._actions())[0]
        steps, envs = self.rollout_buffer.episode_starts.shape
        columns = [part.reshape(steps, envs, -1) for part in (observations, self._actions())]
        rewards = np.empty((steps, envs), np.float32)
        for i in range(envs):
            recent = before.get(i, [])[-back:]
            earlier = ([np.ravel(step[k]) for step in recent] for k in (0, 1))
            seen, done = (np.stack([*old, *new[:, i]]) for old, new in zip(earlier, columns, strict=True))
            ends = np.append(np.flatnonzero(self.rollout_buffer.episode_starts[:, i]) + len(recent), len(seen))
            rewards[:, i] = self.learned_reward(seen, done, ends[ends > 0])[0][len(recent) :]
        return rewards.reshape(-1)

    def _reset_value_head(self) -> None:
        """Start the value head afresh, as the scale of the reward changes with the first session."""
        self.policy.value_net.reset_parameters()


WALKER, BUTTON = PPOConfig(), PPOConfig(envs=16, batch_size=128)
PUBLISHED = {
    "dmc-walker-walk-v0": WALKER,
    "dmc-quadruped-walk-v0": PPOConfig(envs=16, batch_size=128, gae_lambda=0.9),
    "metaworld-button-press-v3": BUTTON,
    "metaworld-sweep-into-v3": PPOConfig(batch_size=256),
}
"""B-Pref's four tasks; on Meta-World its scripts also try 64 environments, and segments of 25 beside those of 50."""


def preset(
    task: Task, name: str = "published", *, labels: int | None = None, steps: int | None = None, **_: Any
) -> Settings:
    """Return B-Pref's settings of PrefPPO for a task (its scripts, 2021).

    Meta-World's other tasks have button-press's, all others walker-walk's; where actions are discrete there is no
    state-dependent exploration. When and how much is asked is PEBBLE's budget, since the scripts leave that to the
    user. What differs on Meta-World is that observations are not normalised: some of its entries hardly vary and then
    drown the others (on door-close with the true reward, 80,000 steps came to 400 with normalisation and to 4,311
    without, seed 0).
    """
    budget, manipulation = task.budget(labels), task.family == "metaworld"
    config = PrefPPOConfig(
        labels=budget.labels,
        per_session=min(budget.per_session, budget.labels),
        interact=budget.interact,
        segment_length=task.segment_length,
        normalise_observations=not manipulation,
        reward=RewardConfig(epochs=50 if manipulation else 100),
    )
    ppo = dataclasses.replace(PUBLISHED.get(task.id, BUTTON if manipulation else WALKER), clip_range_falls=True)
    if _acts_continuously(task):
        ppo = dataclasses.replace(ppo, use_sde=True, sde_sample_freq=4)
    if manipulation:
        ppo = dataclasses.replace(ppo, learning_rate=3e-4, n_steps=250)
    return Settings(config, steps or (3_000_000 if manipulation else 4_000_000), ppo)


def _acts_continuously(task: Task) -> bool:
    """Whether gSDE, noise that is a function of the state, can be added to a task's actions."""
    with closing(make(task.id)) as env:
        return isinstance(env.action_space, spaces.Box)


ALGORITHM = Algorithm(
    name="prefppo",
    title="PrefPPO",
    source="online",
    learner=PrefPPO,
    config=PrefPPOConfig,
    options=PPOConfig,
    preset=preset,
    rows=(
        Row("prefppo", "PrefPPO", rewards=True),
        Row("prefppo-true-reward", "PPO on the true reward (upper bound)", {"true_reward": True}, asks=False),
    ),
    upper="prefppo-true-reward",
)
