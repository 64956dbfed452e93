"""What every agent that learns online from preferences has in common, on top of a Stable-Baselines3 algorithm."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm, maybe_make_env
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from prefenvs.agents.nets.mlp import Precision, check_precision
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.nets.spaces import check_spaces
from prefenvs.agents.online.exploration import StateEntropy
from prefenvs.agents.online.feedback import Feedback, FeedbackConfig
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, PositiveInt
from prefenvs.preferences import Oracle
from prefenvs.segments import Array
from prefenvs.tasks import has_reward
from prefenvs.trajectories import Trajectories

AGGREGATES = ("mean", "min", "mean-std")
LearnedReturns = Callable[[Trajectories], Array]
"""Maps episodes to each member's mean return [M]."""


@dataclass(frozen=True)
class LearnerConfig(FeedbackConfig):
    """Settings of state-entropy exploration and of the reward ensemble; B-Pref's defaults."""

    unsupervised_steps: NonNegativeInt = 9_000
    """Steps of state-entropy exploration before the first session."""
    neighbour: PositiveInt = 5
    """Which nearest neighbour measures the novelty of a state."""
    entropy_states: PositiveInt | None = None
    """Compare with at most so many states, drawn anew for each batch; None compares with all that were seen."""
    true_reward: bool = False
    """Learn from the true reward instead: the upper bound, labelled as such wherever it appears."""
    aggregate: Literal["mean", "min", "mean-std"] = "mean"
    """What the ensemble's members become for the agent: their mean, or against over-optimisation the worst case (min)
    or the mean less their spread (Coste et al. 2024, section 3, which subtracts the variance)."""
    std_weight: NonNegativeFloat = 1.0
    """How many standard deviations mean-std subtracts."""
    precision: Precision = "float32"
    """bfloat16 multiplies in that type between the first and the last layers of actor, critics and value function."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """The reward ensemble."""

    def __post_init__(self) -> None:
        check_precision(self.precision)
        super().__post_init__()
        if self.aggregate not in AGGREGATES:
            raise PrefenvsError(f"aggregate={self.aggregate!r} is unknown: choose one of {', '.join(AGGREGATES)}")
        if not self.std_weight >= 0.0:
            raise PrefenvsError(f"std_weight={self.std_weight} must be at least 0")


class PreferenceLearner(BaseAlgorithm):
    """The part of an agent that deals with its rater; to be put before a Stable-Baselines3 algorithm in the bases."""

    name: ClassVar[str]
    # Kinds of actions: `prefenvs.agents.nets.spaces.TAKERS`.
    takes: ClassVar[tuple[str, ...]]
    oracle: Oracle | None
    config: LearnerConfig
    feedback: Feedback | None
    reward_model: RewardEnsemble
    reward_learned: bool

    def __init__(self, policy: Any, env: GymEnv | str | None, **kwargs: Any) -> None:
        if env is not None:
            env = maybe_make_env(env, kwargs.get("verbose", 0))
            check_spaces(type(self).__name__, self.takes, env)
            if kwargs.get("use_sde") and not isinstance(env.action_space, spaces.Box):
                raise PrefenvsError(
                    f"gSDE is noise for continuous actions, not for {env.action_space}: leave use_sde out"
                )
        super().__init__(policy, env, **kwargs)

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        venv = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return venv if isinstance(venv, TrajectoryRecorder) else TrajectoryRecorder(venv)

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Self:
        """Read an agent that `save` wrote, to act or to explore on; arguments are Stable-Baselines3's."""
        way_out = "save it again with this version, and load it with an environment of the same spaces"
        with damage_told(path, way_out):
            agent: Self = super().load(path, *args, **kwargs)
        return agent

    def _setup_model(self) -> None:
        super()._setup_model()  # type: ignore[safe-super]
        sizes = spaces.flatdim(self.observation_space), spaces.flatdim(self.action_space)
        self.reward_model = RewardEnsemble(*sizes, config=self.config.reward, seed=self.seed or 0, device=self.device)
        self.state_entropy = StateEntropy(self.config.neighbour, self.config.entropy_states, seed=self.seed or 0)

    @property
    def recorder(self) -> TrajectoryRecorder:
        """The wrapper that records this agent's episodes for raters."""
        if not isinstance(self.env, TrajectoryRecorder):
            raise PrefenvsError(
                "the agent has no environment: pass env=prefenvs.make(...) to the constructor or to load"
            )
        return self.env

    @property
    def task(self) -> str:
        """Id of the task that the agent is trained on."""
        return self.recorder.buffer.task

    @property
    def learns_from(self) -> str:
        """What the agent learns from, in words."""
        return "true reward (upper bound)" if self.config.true_reward else "preferences"

    @property
    @abstractmethod
    def first_session(self) -> int:
        """Environment steps after which the first feedback session is held."""

    def check_run(self, total_steps: int) -> None:
        """Raise a PrefenvsError if a run of `total_steps` environment steps could not ask anybody anything."""
        if self.config.true_reward:
            if not has_reward(self.recorder.buffer.task):
                raise PrefenvsError(f"task {self.recorder.buffer.task!r} has no true reward that could be learned from")
            return
        if self.oracle is None:
            raise PrefenvsError(f"{self.name} needs a rater: pass oracle=..., or set true_reward for the upper bound")
        surf = self.config.reward.surf
        length = self.config.segment_length + (2 * surf.margin if surf is not None else 0)
        horizon, task = self.recorder.horizon, self.recorder.buffer.task
        if horizon is not None and length > horizon:
            margin = " with SURF's margins" if surf is not None else ""
            raise PrefenvsError(
                f"a segment of {length} steps{margin} is longer than the horizon of {task}, {horizon} steps: "
                "choose a smaller segment_length"
            )
        if self.first_session >= total_steps:
            raise PrefenvsError(
                f"the first session comes after {self.first_session} steps, but the run ends after {total_steps}: "
                "train for longer or lower unsupervised_steps"
            )

    def start_feedback(self, total_steps: int) -> None:
        """Get ready to ask the rater; called at the start of `learn`."""
        self.recorder.reveal = self.config.true_reward
        if self.config.true_reward or self.feedback is not None:
            return
        if self.reward_learned:
            raise PrefenvsError(
                "a saved agent has no reward model, replay or answers to learn on from: make the agent as before and "
                "call resume(folder) with a checkpoint"
            )
        self.check_run(total_steps)
        assert self.oracle is not None
        self.feedback = Feedback(
            self.config,
            self.oracle,
            self.reward_model,
            self.recorder.buffer,
            self.first_session,
            total_steps,
            self.seed,
        )

    def hold_session(self) -> bool:
        """Hold a feedback session if one is due; returns whether the learned reward changed."""
        if self.feedback is None or not self.feedback.due(self.num_timesteps):
            return False
        metrics = self.feedback.hold(self.num_timesteps)
        self.logger.record("feedback/asked", self.feedback.asked)
        self.logger.record("feedback/labels", self.feedback.labels)
        for name, value in (metrics or {}).items():
            self.logger.record(f"reward/{name}", value)
        return metrics is not None

    def learned_reward(self, observations: Array, actions: Array) -> tuple[Array, Array]:
        """Return the reward that the agent maximises and the ensemble's standard deviation, [B] each.

        observations: [B, obs]; actions: [B, act] in the task's units. The reward is the members' `aggregate`.
        """
        if self.config.aggregate == "min":
            members = self.reward_model.predict(observations, actions)
            return members.min(axis=0), members.std(axis=0)
        mean, spread = self.reward_model.mean_and_std(observations, actions)
        if self.config.aggregate == "mean-std":
            mean = mean - np.float32(self.config.std_weight) * spread
        return mean, spread

    def learned_returns(self, trajectories: Trajectories) -> Array:
        """Return each member's mean return [M] of episodes by the learned reward."""
        return mean_returns(self.reward_model, trajectories)

    def keep_learned_returns(self) -> LearnedReturns:
        """Return `learned_returns` of the reward as it is now, whatever is learned later."""
        model = self.reward_model.copy()
        return lambda trajectories: mean_returns(model, trajectories)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log, without the episode rewards that a hidden-reward environment reports as 0."""
        if self.ep_info_buffer:
            self.logger.record("rollout/ep_len_mean", float(np.mean([episode["l"] for episode in self.ep_info_buffer])))
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("time/episodes", self.recorder.buffer.episodes_seen, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    @abstractmethod
    def save_memory(self, folder: Path) -> None:
        """Write the experience that this algorithm learns from, beyond the recorded episodes."""

    @abstractmethod
    def load_memory(self, folder: Path) -> None:
        """Read what `save_memory` wrote."""

    def save_checkpoint(self, folder: str | Path) -> Path:
        """Write all that `resume` needs: model, reward model, replay, recorded episodes, answers and counters."""
        from prefenvs.agents.online.checkpoint import save_checkpoint

        return save_checkpoint(self, Path(folder))

    def resume(self, folder: str | Path) -> None:
        """Continue from a checkpoint of the same task; call `learn(..., reset_num_timesteps=False)` after it."""
        from prefenvs.agents.online.checkpoint import load_checkpoint

        load_checkpoint(self, Path(folder))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "oracle", "feedback", "reward_model", "state_entropy"]


def mean_returns(model: RewardEnsemble, trajectories: Trajectories) -> Array:
    """Return each member's mean return [M] of episodes."""
    rewards = model.predict(trajectories.observations, trajectories.actions)
    returns: Array = rewards.sum(axis=1, dtype=np.float64) / len(trajectories)
    return returns
