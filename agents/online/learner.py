"""What every agent that learns online from preferences has in common, on top of a Stable-Baselines3 algorithm."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from gymnasium import Env, spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, TrainFreq

from prefenvs.agents.nets.mlp import Precision
from prefenvs.agents.nets.spaces import check_spaces
from prefenvs.agents.online.exploration import StateEntropy
from prefenvs.agents.online.feedback import Feedback, FeedbackConfig
from prefenvs.agents.online.saved_agent import SavedAgent
from prefenvs.agents.registry import Online, Settings, find_algorithm
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig
from prefenvs.agents.rewards.image.observed import PixelReward
from prefenvs.agents.rewards.kinds import ENSEMBLE, make_reward_model
from prefenvs.agents.rewards.options.surf import CroppingOracle
from prefenvs.agents.rewards.segment import SegmentReward
from prefenvs.envs.spaces import is_picture
from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, PositiveInt
from prefenvs.preferences import Oracle
from prefenvs.protocols import RewardModel, SequenceRewardModel, predict_rewards
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array
from prefenvs.tasks import Task, ends_by_time_alone, find_task, has_reward
from prefenvs.tasks.own import own_task
from prefenvs.trajectories import Trajectories

FEW_LABELS = 10
ENSEMBLE_ONLY = ("surf", "rime", "reed", "restart", "bootstrap", "flip_rate", "agent_weight", "stop", "score")
"""Settings of `RewardConfig` that no other reward model has, and no preset changes but the flags of their names."""
OF_PICTURES = ("members", "output", "learning_rate", "epochs", "stop_accuracy", "validation_share")
"""Settings of `RewardConfig` that a reward of pictures has too."""
GivenRewardModel = RewardModel | Callable[..., RewardModel] | str | None
"""A reward model of one's own, what makes one, either's `module:NAME`, or the name of a kind."""
AnyTask = str | Task | Env[Any, Any] | Callable[..., Env[Any, Any]]
"""What `prefenvs.make` takes."""
AnyConfig = TypeVar("AnyConfig", bound="LearnerConfig")
LearnedReturns = Callable[[Trajectories], Array]
"""Maps episodes to each member's mean return [M]."""


@dataclass(frozen=True)
class LearnerConfig(FeedbackConfig):
    """Settings of state-entropy exploration and of the reward ensemble; B-Pref's defaults."""

    unsupervised_steps: NonNegativeInt = 9_000
    """Steps of state-entropy exploration before the first session."""
    neighbour: PositiveInt = 5
    """k of the k-nearest-neighbour estimate of state entropy."""
    entropy_states: PositiveInt | None = None
    """Compare with at most so many states, drawn anew for each batch; None compares with all that were seen."""
    entropy_normalised: bool = False
    """Measure novelty between states of mean 0 and deviation 1, clipped to 5: else what moves fast drowns the rest."""
    true_reward: bool = False
    """Learn from the true reward instead: the upper bound, labelled as such wherever it appears."""
    exploration_only: bool = False
    """Explore for the whole run and ask nobody: the control without labels."""
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
        super().__post_init__()
        if self.true_reward and self.exploration_only:
            raise PrefenvsError("true_reward and exploration_only are two controls: choose one")
        share, first = self.reward.validation_share, self.per_session
        if round(share * first) == first:
            raise PrefenvsError(
                f"validation_share={share} holds out all {first} labels of the first session, which leaves none to "
                "learn from: raise per_session or lower the share"
            )


class PreferenceLearner(SavedAgent):
    """The part of an agent that deals with its rater; to be put before a Stable-Baselines3 algorithm in the bases."""

    # Kinds of actions: `prefenvs.agents.nets.spaces.TAKERS`.
    takes: ClassVar[tuple[str, ...]]
    sees_pictures: ClassVar[bool] = False
    oracle: Oracle | None
    config: LearnerConfig
    feedback: Feedback | None
    reward_model: RewardModel
    reward_learned: bool

    def __init__(
        self, policy: Any, env: GymEnv | str | None, reward_model: GivenRewardModel = None, **kwargs: Any
    ) -> None:
        """reward_model: one of your own in place of the ensemble; everything else is Stable-Baselines3's."""
        own = not (isinstance(reward_model, str) and reward_model in ENSEMBLE)
        self._given_reward_model = reward_model if own else None
        if env is not None:
            env = maybe_make_env(env, kwargs.get("verbose", 0))
            check_spaces(type(self).__name__, self.takes, env, self.sees_pictures)
            check_policy(policy, env.observation_space)
            if kwargs.get("use_sde") and not isinstance(env.action_space, spaces.Box):
                raise PrefenvsError(
                    f"gSDE is noise for continuous actions, not for {env.action_space}: leave use_sde out"
                )
        super().__init__(policy, env, **kwargs)

    @classmethod
    def for_task(
        cls,
        task: AnyTask,
        rater: AnyRater | None = None,
        preset: str | None = None,
        *,
        steps: int | None = None,
        seed: int = 0,
        device: str = "auto",
        reward_model: GivenRewardModel = None,
        **given: Any,
    ) -> Self:
        """Return an agent as `prefenvs train` makes it, with a preset's settings for the task.

        task: whatever `prefenvs.make` takes. preset: "published" by default, "small" for a CPU, or PEBBLE's "reliable".
        steps: how many will be trained, to which a preset fits its schedule. reward_model: as the constructor's.
        given: fields of the configuration and arguments of the constructor in place of the preset's. Raises
        PrefenvsError for an unknown preset or name.
        """
        algorithm = dataclasses.replace(find_algorithm(cls.name), learner=cls)
        if preset not in (None, *algorithm.presets):
            raise PrefenvsError(f"unknown preset {preset!r} of {cls.name}: choose {' or '.join(algorithm.presets)}")
        row = find_task(task) if isinstance(task, str) else own_task(task)
        settings = algorithm.settings(row, preset, steps=steps, **given)
        parts = [part for part in (settings.config, settings.options) if part is not None]
        known = {field.name for part in parts for field in dataclasses.fields(part)}
        for name in given:
            if name not in known:
                raise PrefenvsError(f"{cls.name} has no setting {name!r}.{near_matches(name, known)}")
        made = [
            dataclasses.replace(
                part, **{field.name: given[field.name] for field in dataclasses.fields(part) if field.name in given}
            )
            for part in parts
        ]
        settings = Settings(made[0], settings.steps, made[1] if len(made) > 1 else None)
        oracle = None if rater is None else as_oracle(rater)
        agent: Self = algorithm.make_online(settings, Online(row, oracle, seed, device, reward_model=reward_model))
        return agent

    def _setup_model(self) -> None:
        super()._setup_model()  # type: ignore[safe-super]
        sizes = spaces.flatdim(self.observation_space), spaces.flatdim(self.action_space)
        seed = self.seed or 0
        if self._given_reward_model is not None:
            self.reward_model = make_reward_model(self._given_reward_model, *sizes, seed=seed)
        elif is_picture(self.observation_space):
            settings = picture_settings(self.config.reward)
            self.reward_model = PixelReward(self.observation_space.shape or (), settings, seed, self.device)
        else:
            self.reward_model = RewardEnsemble(*sizes, config=self.config.reward, seed=seed, device=self.device)
        c = self.config
        self.state_entropy = StateEntropy(
            c.neighbour, c.entropy_states, self.seed or 0, normalised=c.entropy_normalised
        )

    @property
    def learns_from(self) -> str:
        """What the agent learns from, in words."""
        if self.config.exploration_only:
            return "state entropy alone (no labels)"
        return "true reward (upper bound)" if self.config.true_reward else "preferences"

    @property
    @abstractmethod
    def first_session(self) -> int:
        """Environment steps after which the first feedback session is held."""

    @property
    def session_steps(self) -> int:
        """Environment steps between two moments at which a session can be held."""
        every = getattr(self, "train_freq", None)
        return self.n_envs * (every.frequency if isinstance(every, TrainFreq) else 1)

    def check_run(self, total_steps: int) -> None:
        """Raise a PrefenvsError if a run of `total_steps` environment steps could not ask anybody anything."""
        if self.config.true_reward:
            if not has_reward(self.recorder.buffer.task):
                raise PrefenvsError(f"task {self.recorder.buffer.task!r} has no true reward that could be learned from")
            return
        if self.config.exploration_only:
            return
        if self.oracle is None:
            raise PrefenvsError(f"{self.name} needs a rater: pass oracle=..., or set true_reward for the upper bound")
        cropped = self._cropped(self.oracle).margin
        length = self.config.segment_length + 2 * cropped
        horizon, task = self.recorder.horizon, self.recorder.buffer.task
        if horizon is not None and length > horizon:
            margin = " with SURF's margins" if cropped else ""
            raise PrefenvsError(
                f"a segment of {length} steps{margin} is longer than the horizon of {task}, {horizon} steps: "
                "choose a smaller segment_length"
            )
        self._check_reward_model()
        if self.first_session >= total_steps:
            raise PrefenvsError(
                f"the first session comes after {self.first_session} steps, but the run ends after {total_steps}: "
                "train for longer or lower unsupervised_steps"
            )
        self._check_episodes(total_steps, length)

    def _check_episodes(self, total_steps: int, length: int) -> None:
        """Refuse a run in which no episode of `length` steps can end, since segments are cut from finished ones."""
        horizon, task = self.recorder.horizon, self.recorder.buffer.task
        steps = total_steps // self.recorder.num_envs
        too_few = (
            f"{total_steps} steps in {self.recorder.num_envs} environments are {steps} in each, "
            f"{{}} of {task}: no segment of {length} steps could be asked about; raise the steps"
        )
        if steps < length:
            raise PrefenvsError(too_few.format("too few for one segment"))
        if horizon is not None and steps < horizon and ends_by_time_alone(task):
            raise PrefenvsError(too_few.format(f"less than one episode of {horizon} steps"))

    def _warn_of_run(self, total_steps: int) -> None:
        """Warn of what a run may never come to, or not to the end."""
        horizon, task = self.recorder.horizon, self.recorder.buffer.task
        steps = total_steps // self.recorder.num_envs
        if horizon is not None and steps < horizon:
            warnings.warn(
                f"{steps} steps in each environment are less than one episode of {horizon} steps of {task}: questions "
                "are asked only if the task ends episodes earlier",
                stacklevel=4,
            )
        if self.config.labels < FEW_LABELS:
            warnings.warn(
                f"a budget of {self.config.labels} labels teaches little: the smallest published ones are 50 and 100; "
                "raise labels",
                stacklevel=4,
            )
        c, share = self.config, self.config.reward.validation_share
        if c.reward.stop == "validation" and not round(share * c.per_session):
            warnings.warn(
                f"validation_share={share} holds out none of the first session's {c.per_session} labels, by which its "
                "fit is to end: raise per_session or the share",
                stacklevel=4,
            )
        every = self.session_steps
        most = self.feedback.count_most(every) if self.feedback is not None else self.config.labels
        if most < c.labels:
            apart = -(-c.interact // every) * every
            warnings.warn(
                f"at most {most} of {c.labels} labels can be asked: {total_steps} steps leave room for sessions of "
                f"{c.per_session} every {apart} steps from step {self.first_session} on; lower interact or raise "
                "per_session",
                stacklevel=4,
            )

    def _setup_learn(
        self, total_timesteps: int, callback: MaybeCallback = None, reset_num_timesteps: bool = True, *args: Any
    ) -> tuple[int, BaseCallback]:
        made = self.num_timesteps if reset_num_timesteps else 0
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args)
        if self.feedback is not None:
            # Sessions are due by the count of steps, which may have begun anew.
            self.feedback.go_on(made, self._total_timesteps)
        return result

    def start_feedback(self, total_steps: int) -> None:
        """Get ready to ask the rater; called at the start of `learn`."""
        self.recorder.reveal = self.config.true_reward
        if self.config.true_reward or self.config.exploration_only:
            self.check_run(total_steps)
            return
        if self.feedback is not None:
            return
        if self.reward_learned:
            raise PrefenvsError(
                "a saved agent has no reward model, replay or answers to learn on from: make the agent as before and "
                "call resume(folder) with a checkpoint"
            )
        self.check_run(total_steps)
        self.feedback = self.make_feedback(total_steps)
        self._warn_of_run(total_steps)

    def make_feedback(self, total_steps: int) -> Feedback:
        """Return the rater's side of a run of `total_steps` environment steps, as it is at the beginning."""
        assert self.oracle is not None
        self.oracle.follow(self)
        rater, buffer = self._cropped(self.oracle), self.recorder.buffer
        first, seed = self.first_session, self.seed
        return Feedback(self.config, rater, self.reward_model, buffer, first, total_steps, seed, self.log_likelihood)

    @abstractmethod
    def log_likelihood(self, observations: Array, actions: Array) -> Array:
        """Return log pi(a | s) [N] of actions [N, act], in the task's units, for observations [N, obs]."""

    def _cropped(self, rater: Oracle) -> Oracle:
        surf = self.config.reward.surf
        return rater if surf is None else CroppingOracle(rater, surf.margin)

    def update_reward(self) -> bool:
        """Run the preference loop if it is due (see `Feedback.run`); returns whether the learned reward changed."""
        if self.feedback is None or not self.feedback.due(self.num_timesteps):
            return False
        metrics = self.feedback.run(self.num_timesteps)
        self.logger.record("feedback/asked", self.feedback.asked)
        self.logger.record("feedback/labels", self.feedback.labels)
        for name, value in (metrics or {}).items():
            self.logger.record(f"reward/{name}", value)
        return metrics is not None

    def learned_reward(self, observations: Array, actions: Array, ends: Array | None = None) -> tuple[Array, Array]:
        """Return the reward that the agent maximises and the standard deviation of the model's members, [B] each.

        observations: [B, obs]; actions: [B, act] in the task's units; ends: [E] rows before which episodes end, for a
        model of sequences. The reward is the members' `aggregate`.
        """
        model, aggregate = self.reward_model, self.config.aggregate
        if isinstance(model, RewardEnsemble) and aggregate != "min":
            mean, spread = model.mean_and_std(observations, actions)
        else:
            members = predict_rewards(model, observations, actions, ends)
            mean, spread = members.min(axis=0) if aggregate == "min" else members.mean(axis=0), members.std(axis=0)
        if aggregate == "mean-std":
            mean = mean - np.float32(self.config.std_weight) * spread
        return mean, spread

    @property
    def reward_context(self) -> int:
        """How many steps of its episode a learned reward depends on."""
        return self.reward_model.context if isinstance(self.reward_model, SequenceRewardModel) else 1

    def learned_returns(self, trajectories: Trajectories) -> Array:
        """Return each member's mean return [M] of episodes by the learned reward."""
        return mean_returns(self.reward_model, trajectories)

    def keep_learned_returns(self) -> LearnedReturns:
        """Return `learned_returns` of the reward as it is now, whatever is learned later."""
        model = self.reward_model
        kept = model.copy() if isinstance(model, RewardEnsemble) else copy.deepcopy(model)
        return lambda trajectories: mean_returns(kept, trajectories)

    def load_reward_model(self, path: Path) -> None:
        """Read what the reward model's `save` wrote; raises PrefenvsError where that gives no such model."""
        kind = type(self.reward_model)
        on_device = isinstance(self.reward_model, RewardEnsemble | SegmentReward | PixelReward)
        loaded = kind.load(path, **({"device": self.device} if on_device else {}))
        if not isinstance(loaded, kind):
            raise PrefenvsError(
                f"{kind.__name__}.load returned {loaded!r}: it is a class method that returns the model"
            )
        self.reward_model = loaded

    def _check_reward_model(self) -> None:
        """Raise a PrefenvsError where the reward model does not fit this configuration, before anything is learned."""
        model, members = self.reward_model, self.config.reward.members
        if not isinstance(model, RewardEnsemble):
            for name in ENSEMBLE_ONLY:
                if getattr(self.config.reward, name) != getattr(RewardConfig, name):
                    other = "a reward of pictures" if isinstance(model, PixelReward) else "reward_model=..."
                    raise PrefenvsError(f"{name} is about the reward ensemble, {other} has none of it: leave one out")
            seen, size = self.observation_space, spaces.flatdim(self.action_space)
            observations = np.zeros((2, *(seen.shape or ())), seen.dtype)
            members = len(predict_rewards(model, observations, np.zeros((2, size), np.float32)))
        settings = self._compare_members()
        if members == 1 and settings:
            raise PrefenvsError(
                f"{settings[0]} compares a reward model's members, and {type(model).__name__} has one: choose another "
                "(the selectors uniform, entropy and k-center need one member)"
            )

    def _compare_members(self) -> list[str]:
        """Return the settings that have an effect only where the reward model has several members."""
        selector, aggregate = self.config.selector, self.config.aggregate
        names = [f"selector={selector!r}"] if str(selector).endswith(("disagreement", "bald")) else []
        return names + ([f"aggregate={aggregate!r}"] if aggregate == "mean-std" else [])

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
        return [
            *super()._excluded_save_params(),
            *("oracle", "feedback", "reward_model", "_given_reward_model", "state_entropy"),
        ]


def fit_schedule(config: AnyConfig, steps: int, learning_starts: int = 1_000, given: Collection[str] = ()) -> AnyConfig:
    """Fit a schedule into a short run: explore for a sixth at most, and hold the sessions within four fifths of it.

    given: which of unsupervised_steps and interact are to stay as they are.
    """
    exploration, interact = config.unsupervised_steps, config.interact
    if "unsupervised_steps" not in given:
        exploration = min(exploration, 4 * steps // 25)
    if "interact" not in given:
        sessions = math.ceil(config.labels / config.per_session)
        room = 4 * steps // 5 - learning_starts - exploration
        interact = min(interact, max(room // max(sessions - 1, 1), 1))
    return dataclasses.replace(config, unsupervised_steps=exploration, interact=interact)


def check_policy(policy: Any, space: spaces.Space[Any]) -> None:
    """Raise a PrefenvsError where the policy named is not for such observations."""
    pictures = is_picture(space)
    if policy == ("MlpPolicy" if pictures else "CnnPolicy"):
        what, other = ("pictures", "CnnPolicy") if pictures else ("vectors", "MlpPolicy")
        raise PrefenvsError(f"the environment shows {what}, and {policy} is not for them: choose {other}")


def picture_settings(config: RewardConfig) -> ImageRewardConfig:
    """Return the settings of a reward on pictures that a reward ensemble's stand for."""
    return ImageRewardConfig(**{name: getattr(config, name) for name in OF_PICTURES})


def mean_returns(model: RewardModel, trajectories: Trajectories) -> Array:
    """Return each member's mean return [M] of episodes."""
    rewards = predict_rewards(model, trajectories.observations, trajectories.actions, trajectories.ends)
    returns: Array = rewards.sum(axis=1, dtype=np.float64) / len(trajectories)
    return returns
