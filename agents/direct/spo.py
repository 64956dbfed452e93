"""SPO: PPO on the share of the agent's own recent episodes that each episode wins against (Swamy et al. 2024).

"A minimaximalist approach to reinforcement learning from human feedback". No reward is fitted, so that preferences may
be noisy, may run in circles, and may be about whole episodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from prefenvs.agents.direct.learner import DirectLearner
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.residual import NormalisedObservations
from prefenvs.agents.online import ppo
from prefenvs.agents.online.prefppo import PPOConfig
from prefenvs.agents.registry import Algorithm, Settings
from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveInt, check_settings
from prefenvs.raters import AnyRater
from prefenvs.segments import Array
from prefenvs.tasks import Task, ends_by_time_alone


@dataclass(frozen=True)
class SPOConfig:
    """Settings of self-play beside those of PPO."""

    labels: PositiveInt = 100_000
    """Label budget: pairs of episodes that may be asked about; learning ends with it."""
    queue: PositiveInt = 64
    """Newest episodes among which opponents are drawn, those of the present rollout included."""
    opponents: PositiveInt = 8
    """Opponents of each new episode; its reward is the share of them that it wins against."""
    normalise_observations: bool = True
    """Normalise what the policy sees; raters see observations as they are."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.opponents >= self.queue:
            raise PrefenvsError(
                f"{self.opponents} opponents do not fit into a queue of {self.queue}, the episode itself among them: "
                "raise --queue or lower --opponents"
            )


class SPO(DirectLearner, PPO):
    """Self-play preference optimisation: PPO whose reward is an episode's share of wins over the agent's own episodes.

    Each rollout plays whole episodes. Episode x is compared with `opponents` others of the newest `queue`; it gets
    r(x) = mean P(x preferred to y) - 1/2, ties as 0.5, spread evenly over its steps. Without the 1/2, on which nothing
    depends where all episodes are equally long, a coin's answers teach an agent to last: early states have more
    reward before them than those in which episodes end. Steps after an environment's last whole episode teach nothing.
    In the limit that is the minimax winner of the preference game, a mixture where preferences run in circles (Swamy et
    al. 2024, algorithm 1, whose queue holds older episodes alone).
    """

    name = "spo"
    takes = ("bounded", "discrete", "several")
    config_type = SPOConfig
    config: SPOConfig
    policy: ActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        oracle: AnyRater | None = None,
        config: SPOConfig | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """As every `DirectLearner`, and PPO's arguments."""
        policy_kwargs = dict(policy_kwargs or {})
        if (config or SPOConfig()).normalise_observations:
            policy_kwargs.setdefault("features_extractor_class", NormalisedObservations)
        super().__init__(policy, env, oracle, config, policy_kwargs=policy_kwargs, **kwargs)

    @property
    def left(self) -> int:
        """Questions that the budget leaves."""
        return self.config.labels - self.asked

    def check_run(self, total_steps: int) -> None:
        """As every learner's; raises PrefenvsError too where no episode ends within a rollout."""
        super().check_run(total_steps)
        horizon = self.recorder.horizon
        if horizon is not None and self.n_steps < horizon and ends_by_time_alone(self.task):
            raise PrefenvsError(
                f"spo compares whole episodes, and one of {self.task} has {horizon} steps, more than a rollout's "
                f"{self.n_steps}: --n-steps {horizon}"
            )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "SPO",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until the budget of environment steps or of labels is spent; arguments are Stable-Baselines3's."""
        self.check_run(total_timesteps)
        self.start_asking()
        self.recorder.buffer.max_episodes = None
        with products():
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self.check_labels()
        return self

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Play whole episodes, let them be compared, and reward the steps of each by its share of wins."""
        if self.left <= 0:
            return False
        if not np.all(self._last_episode_starts):
            print("not number for number the unbroken run: it was stopped within a rollout, which begins anew")
            self._begin_episodes(env)
        before = self.recorder.buffer.episodes_seen
        if not super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps):
            return False
        assert self._last_episode_starts is not None
        spans = find_episodes(rollout_buffer.episode_starts, self._last_episode_starts)
        if not spans:
            raise PrefenvsError(
                f"no episode of {self.task} ended within {n_rollout_steps} steps, and spo compares whole ones: raise "
                "--n-steps"
            )
        assert len(spans) == self.recorder.buffer.episodes_seen - before
        shares = self._win_shares(len(spans))
        self._reward(rollout_buffer, spans, shares)
        decided = np.abs(2.0 * shares[np.isfinite(shares)] - 1.0)
        self.logger.record("feedback/decided", float(decided.mean()) if len(decided) else 0.0)
        self.recorder.buffer.keep_newest(self.config.queue)
        self._begin_episodes(env)
        return True

    def _begin_episodes(self, env: VecEnv) -> None:
        """Begin new episodes, as every rollout does."""
        self._last_obs = env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones(env.num_envs, bool)

    def _win_shares(self, new: int) -> Array:
        """Return the win shares [N] of the newest N = `new` episodes; NaN for one of which no question was answered."""
        assert self.oracle is not None
        pool = self.recorder.buffer.trajectories()
        self.oracle.observe(pool)
        first, count = len(pool) - new, len(pool)
        oldest = max(count - max(self.config.queue, new), 0)
        pairs: dict[tuple[int, int], None] = {}
        for own in range(first, count):
            others = np.setdiff1d(np.arange(oldest, count), own)
            # The generator that PPO's minibatches are drawn with, which a checkpoint keeps.
            drawn = np.random.permutation(others)[: self.config.opponents]  # noqa: NPY002
            pairs |= dict.fromkeys((min(own, other), max(own, other)) for other in drawn.tolist())
        asked = list(pairs)
        if len(asked) > self.left:
            asked = [asked[i] for i in np.random.permutation(len(asked))[: self.left]]  # noqa: NPY002
        answers = self.compare([(pool.episode(a), pool.episode(b)) for a, b in asked])
        wins, counts = np.zeros(count), np.zeros(count)
        for pair, chances in zip(asked, answers, strict=True):
            if chances is not None:
                wins[list(pair)] += chances
                counts[list(pair)] += 1.0
        shares = np.full(count, np.nan)
        np.divide(wins, counts, out=shares, where=counts > 0)
        return shares[first:]

    def _reward(self, buffer: RolloutBuffer, spans: Sequence[tuple[int, int, int]], shares: Array) -> None:
        """Write rewards, and from them returns and advantages, into a rollout; what has no reward teaches nothing."""
        rewarded = np.zeros(buffer.rewards.shape, bool)
        # Over what PPO put there for time limits: an episode's share is all that it is worth.
        buffer.rewards[:] = 0.0
        for (env, begin, end), share in zip(spans, shares, strict=True):
            if np.isfinite(share):
                buffer.rewards[begin:end, env] = (share - 0.5) / (end - begin)
                rewarded[begin:end, env] = True
        with torch.no_grad():
            last_values = self.policy.predict_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
        buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)  # type: ignore[arg-type]
        buffer.advantages[~rewarded] = 0.0
        buffer.returns[~rewarded] = buffer.values[~rewarded]

    def train(self) -> None:
        """Take PPO's epochs on the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        for name, value in ppo.train(self, self.n_epochs).items():
            self.logger.record(f"train/{name}", value)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        extractor, buffer = self.policy.features_extractor, self.rollout_buffer
        if isinstance(extractor, NormalisedObservations):
            extractor.see(torch.from_numpy(buffer.observations.reshape(-1, *buffer.obs_shape)).to(self.device))

    def load_memory(self, folder: Path) -> None:
        """Make room for the queue, which may be longer than what a recorder keeps by itself."""
        self.recorder.buffer.max_episodes = None

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log."""
        super().dump_logs()


def find_episodes(starts: Array, ended: Array) -> list[tuple[int, int, int]]:
    """Return environment, first step and end of each whole episode of a rollout, in the order in which they ended.

    starts: [steps, envs], whether an episode begins with a step; ended: [envs], whether the last step ended one.
    """
    spans = []
    for env in range(starts.shape[1]):
        bounds = np.flatnonzero(starts[:, env]).tolist() + ([len(starts)] if ended[env] else [])
        spans += [(env, begin, end) for begin, end in itertools.pairwise(bounds)]
    return sorted(spans, key=lambda span: (span[2], span[0]))


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return PPO's settings for small tasks on a CPU; a rollout has whole episodes of the task's horizon."""
    rollout = -(-256 // task.horizon) * task.horizon
    options = PPOConfig(
        learning_rate=3e-4,
        n_steps=rollout,
        n_epochs=10,
        hidden=(64, 64),
        gae_lambda=0.95,
        clip_range=0.2,
        envs=8,
    )
    return Settings(SPOConfig(), 1_000_000 if steps is None else steps, options)


ALGORITHM = Algorithm(
    name="spo",
    title="SPO",
    source="online",
    learner=SPO,
    config=SPOConfig,
    options=PPOConfig,
    preset=preset,
)
