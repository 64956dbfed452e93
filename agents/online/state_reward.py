"""SAC on a reward of the simulator's states that comes from outside, such as CLIP's view of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from prefenvs.agents.nets.mlp import Precision
from prefenvs.agents.online.learner import LearnedReturns
from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig
from prefenvs.agents.online.sac import PebblePolicy, SACConfig
from prefenvs.agents.registry import Algorithm, Online, Settings
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.envs.vectors import make_envs, seed_environments
from prefenvs.errors import PrefenvsError
from prefenvs.frames.rewards import StateReward, reward_steps
from prefenvs.limits import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from prefenvs.segments import Array
from prefenvs.tasks import Task
from prefenvs.trajectories import Trajectories


class ReachedStates(VecEnvWrapper):
    """Keep the states that steps have led to until somebody takes them.

    The state is taken from the step's own `info`. At the end of an episode that is the last state of this episode,
    although the environment has been reset meanwhile and returns the first observation of the next one.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._states: list[Array] = []
        self._scenes: list[Array] = []

    def reset(self) -> VecEnvObs:
        """Reset all environments."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step and keep the states that it led to."""
        observations, rewards, dones, infos = self.venv.step_wait()
        if "state" not in infos[0]:
            raise PrefenvsError('the environment does not tell its state: make it with prefenvs.make("<task>")')
        # Copies, because an environment may write the next state into the same array.
        self._states += [np.array(info["state"]) for info in infos]
        self._scenes += [np.array(info["scene"]) for info in infos if "scene" in info]
        return observations, rewards, dones, infos

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give each environment a seed of its own for the next `reset`; the runs of two seeds share none."""
        return seed_environments(self.venv, seed)

    def take(self) -> tuple[Array, Array | None]:
        """Return and forget the states [steps * envs, s], a step's environments side by side, and their scenes."""
        states, scenes = self._states, self._scenes
        self._states, self._scenes = [], []
        return np.asarray(states, np.float64), np.asarray(scenes, np.float64) if scenes else None


@dataclass(frozen=True)
class StateRewardConfig(SACConfig):
    """SAC's arguments; the defaults are VLM-RM's (Rocamonde et al. 2024): 100 steps, then as many updates."""

    learning_rate: PositiveFloat = 6e-4
    """Learning rate of actor and critics (Adam)."""
    batch_size: PositiveInt = 512
    """Transitions in a batch."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Sizes of the hidden layers of actor and critics (ReLU)."""
    learning_starts: NonNegativeInt = 50_000
    """Steps of random actions at the beginning."""
    train_freq: PositiveInt = 100
    """Steps of each environment that are scored together, before as many updates."""
    gamma: Fraction = 0.95
    """Discount factor."""
    target_update_interval: PositiveInt = 1
    """Updates between two updates of the target critics."""
    ent_coef: str = "auto"
    """Entropy coefficient: a number, auto to learn it, or auto_0.1 to begin with 0.1."""
    ent_coef_learning_rate: PositiveFloat = 6e-4
    """Learning rate of the entropy coefficient (Adam)."""
    precision: Precision = "float32"
    """bfloat16 multiplies in that type between the first and the last layers of actor and critics."""


class StateRewardSAC(PEBBLE):
    """PEBBLE's SAC on a given reward of states instead of a learned one: no rater, no exploration phase.

    After each `train_freq` steps their states are scored in one call, and the rewards put into the replay buffer. A
    step's reward belongs to the state after its action. The defaults are VLM-RM's (Rocamonde et al. 2024): 100 steps,
    then as many updates, with gamma 0.95.
    """

    # That of `prefenvs train clip`.
    name = "clip"

    def __init__(
        self,
        policy: str | type[PebblePolicy],
        env: GymEnv | str | None,
        reward: StateReward | None = None,
        config: PebbleConfig | None = None,
        learning_rate: float = StateRewardConfig.learning_rate,
        learning_starts: int = StateRewardConfig.learning_starts,
        batch_size: int = StateRewardConfig.batch_size,
        gamma: float = StateRewardConfig.gamma,
        train_freq: int = StateRewardConfig.train_freq,
        ent_coef: str | float = StateRewardConfig.ent_coef,
        ent_coef_learning_rate: float = StateRewardConfig.ent_coef_learning_rate,
        target_update_interval: int = StateRewardConfig.target_update_interval,
        policy_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """`reward`: scores states; everything else is `PEBBLE`'s."""
        self.reward = reward
        super().__init__(
            policy,
            env,
            config=replace(config or PebbleConfig(), unsupervised_steps=0),
            learning_rate=learning_rate,
            learning_starts=learning_starts,
            batch_size=batch_size,
            gamma=gamma,
            train_freq=train_freq,
            ent_coef=ent_coef,
            ent_coef_learning_rate=ent_coef_learning_rate,
            target_update_interval=target_update_interval,
            policy_kwargs={"net_arch": list(StateRewardConfig.hidden)} | (policy_kwargs or {}),
            **kwargs,
        )

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        venv = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return venv if isinstance(venv, TrajectoryRecorder) else TrajectoryRecorder(ReachedStates(venv))

    def _setup_model(self) -> None:
        super()._setup_model()
        # The reward needs no learning: updates read what the replay buffer holds.
        self.reward_learned = True

    @property
    def learns_from(self) -> str:
        """What the agent learns from, in words."""
        return "a reward of states"

    def check_run(self, total_steps: int) -> None:
        """Raise a PrefenvsError where there is no reward, or all steps would be random ones."""
        if self.reward is None:
            raise PrefenvsError("there is no reward to learn from: pass reward=..., such as oracles.CLIPReward(...)")
        if self.learning_starts >= total_steps:
            raise PrefenvsError(
                f"learning starts after {self.learning_starts} random steps, but the run ends after {total_steps}: "
                "train for longer or lower learning_starts"
            )

    def start_feedback(self, total_steps: int) -> None:
        """Check that there is a reward; nobody is asked anything."""
        self.check_run(total_steps)

    def collect_rollouts(self, env: VecEnv, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Collect `train_freq` steps and give them their rewards, all in one call."""
        rollout = super().collect_rollouts(env, *args, **kwargs)
        assert self.reward is not None
        reached = self.recorder.venv
        assert isinstance(reached, ReachedStates)
        states, scenes = reached.take()
        scores = np.asarray(self.reward.score(states, scenes), np.float32)
        if scores.shape != (len(states),) or not np.all(np.isfinite(scores)):
            raise PrefenvsError(f"the reward of {len(states)} states came out as {scores.shape}, or not finite")
        self.replay_buffer.write_last(scores.reshape(-1, env.num_envs))
        self.logger.record("reward/score", float(scores.mean()))
        return rollout

    def learned_returns(self, trajectories: Trajectories) -> Array:
        """Return the mean return [1] of episodes by the reward that is learned from."""
        assert self.reward is not None
        return np.array([reward_steps(self.reward, trajectories).sum(dtype=np.float64) / len(trajectories)])

    def keep_learned_returns(self) -> LearnedReturns:
        """Return `learned_returns`: this reward never changes."""
        return self.learned_returns

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reward"]


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return VLM-RM's settings (Rocamonde et al. 2024); small: learning starts earlier, smaller batches, for a CPU."""
    total = 10_000_000 if steps is None else steps
    config = StateRewardConfig(buffer_size=min(total, StateRewardConfig.buffer_size))
    if name == "small":
        config = dataclasses.replace(config, learning_starts=1_000, batch_size=256)
    return Settings(config, total)


def _make(settings: Settings, given: Online) -> StateRewardSAC:
    config = settings.config
    return StateRewardSAC(
        "MlpPolicy",
        make_envs(given.task.id, config.envs, given.seed),
        given.reward,
        PebbleConfig(precision=config.precision),
        seed=given.seed,
        device=given.device,
        **config.keywords(),
    )


ALGORITHM = Algorithm(
    name="clip",
    title="SAC on the CLIP reward",
    source="online",
    learner=StateRewardSAC,
    config=StateRewardConfig,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    signal="states",
)
