"""RLIF: reinforcement learning in which a person's interventions are the only reward (Luo et al. 2024).

"RLIF: interactive imitation learning as reinforcement learning". The learner is SAC with normalised critics and not the
paper's RLPD of ten critics, and the person judges the action that was taken rather than the one about to be taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv

from prefenvs.agents.direct.learner import DirectLearner
from prefenvs.agents.experts import LearnedAdvantage
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.saved import damage_told
from prefenvs.agents.online.checkpoint import WAY_OUT
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.online.sac import PebblePolicy, SACConfig, update
from prefenvs.agents.registry import Algorithm, Online, Settings
from prefenvs.datasets.sources import ScriptedPolicy
from prefenvs.envs.vectors import make_envs
from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.internal.loading import import_object
from prefenvs.limits import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, check_settings
from prefenvs.protocols import Advantage, Policy
from prefenvs.segments import Array
from prefenvs.tasks import Task


@dataclass(frozen=True)
class RLIFConfig:
    """Who takes over, when, and for how long."""

    expert: str = "scripted"
    """Who takes over: scripted (Meta-World's own), a run folder on the true reward, a .zip of Stable-Baselines3, or
    module:NAME, an object with `predict`, and with `advantage` for the trigger value."""
    trigger: Literal["value", "action", "random"] = "value"
    """What makes the expert take over: value, an action that its advantages call bad; action, one far from its own;
    random, chance alone (a control)."""
    threshold: NonNegativeFloat = 0.0
    """How bad an action must be: value, -A(s, a); action, its distance from the expert's own, root mean square, in
    halves of the range."""
    mistakes: Fraction = 0.05
    """Chance that the expert lets a bad action pass, and that it takes over after a good one."""
    rate: Fraction = 0.1
    """Chance of a takeover at each step, for the trigger random."""
    takeover: PositiveInt = 4
    """Steps that the expert acts for."""
    expert_steps: PositiveInt = 10_000
    """Steps that the expert may act for in all; learning ends with them."""
    demonstrations: NonNegativeInt = 0
    """Steps at the beginning in which the expert acts alone, of those; they have a reward of 0, as all it does."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.demonstrations >= self.expert_steps:
            raise PrefenvsError(
                f"{self.demonstrations} steps of demonstrations leave none of {self.expert_steps} for interventions: "
                "raise --expert-steps or lower --demonstrations"
            )


class RLIF(DirectLearner, SAC):
    """SAC on the reward -1 for the step before each intervention and 0 for all others, the expert's own among them.

    The agent acts. After a step (s, a) of it by which the expert is triggered, the expert acts for the next `takeover`
    steps, and r(s, a) = -1; the expert's steps go into the same replay buffer. So the agent learns to act such that
    nobody takes over, which may be better than the expert acts (Luo et al. 2024, algorithm 1).

    expert_steps: steps that the expert has acted for; interventions: how often it began to. Nobody is asked anything.
    """

    name = "rlif"
    takes = ("bounded",)
    learns_from = "interventions"
    config_type = RLIFConfig
    config: RLIFConfig
    policy: PebblePolicy
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": PebblePolicy}
    replay_buffer: RelabelBuffer

    def __init__(
        self,
        policy: str | type[PebblePolicy],
        env: GymEnv | str | None,
        expert: Policy | None = None,
        config: RLIFConfig | None = None,
        ent_coef_learning_rate: float = SACConfig.ent_coef_learning_rate,
        **kwargs: Any,
    ) -> None:
        """expert: who takes over, with `advantage` for the trigger value; everything else is Stable-Baselines3's."""
        self.expert, self.ent_coef_learning_rate = expert, ent_coef_learning_rate
        super().__init__(policy, env, None, config, replay_buffer_class=RelabelBuffer, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.expert_steps = self.interventions = 0
        self._left = np.zeros(self.n_envs, np.int64)
        self._own = np.zeros(self.n_envs, bool)
        if self.log_ent_coef is not None:
            self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.ent_coef_learning_rate)

    def check_run(self, total_steps: int) -> None:
        """Raise a PrefenvsError where nobody could take over, or nothing would be learned."""
        if self.expert is None:
            raise PrefenvsError("rlif needs somebody who takes over: --expert, or expert=...")
        if self.config.trigger == "value" and not isinstance(self.expert, Advantage):
            raise PrefenvsError(
                f"the trigger value needs an expert with advantages, which {type(self.expert).__name__} has not: "
                "choose --trigger action"
            )
        if self.learning_starts >= total_steps:
            raise PrefenvsError(
                f"learning starts after {self.learning_starts} random steps, but the run ends after {total_steps}: "
                "train for longer or lower --learning-starts"
            )

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "RLIF",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train until the budget of environment steps or of the expert's is spent; as Stable-Baselines3's."""
        self.check_run(total_timesteps if reset_num_timesteps else self.num_timesteps + total_timesteps)
        widths = (parameter.shape[-1] for parameter in self.critic.parameters())
        with products(max(widths)):
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        return self

    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, *args: Any, **kwargs: Any) -> RolloutReturn:
        """Collect steps, or none where the expert's are spent."""
        if self.expert_steps >= self.config.expert_steps:
            return RolloutReturn(0, 0, continue_training=False)
        return super().collect_rollouts(env, callback, *args, **kwargs)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[Array, Array]:
        """Return what is done in the environments and, scaled to [-1, 1], what the buffer is told of it."""
        self.policy.see(self._last_obs)
        actions, scaled = super()._sample_action(learning_starts, action_noise, n_envs)
        taken = self._take_over()
        if taken.any():
            assert self.expert is not None
            actions, scaled = actions.copy(), scaled.copy()
            actions[taken] = self._expert_actions(np.asarray(self._last_obs)[taken])
            scaled[taken] = self.policy.scale_action(actions[taken])
        self._own = ~taken
        self.expert_steps += int(taken.sum())
        self.logger.record("interventions/expert_steps", self.expert_steps)
        self.logger.record("interventions/count", self.interventions)
        return actions, scaled

    def _take_over(self) -> Array:
        """Return where the expert acts now, [envs] bool, and punish the steps that made it begin."""
        if self.num_timesteps < self.config.demonstrations:
            return np.ones(self.n_envs, bool)
        buffer = self.replay_buffer
        last = (buffer.pos - 1) % buffer.buffer_size
        # Nothing is taken over by what was done in an episode that has ended.
        going = ~buffer.dones[last].astype(bool) if buffer.size() else np.zeros(self.n_envs, bool)
        self._left[~going] = 0
        begins = going & self._own & (self._left == 0)
        if begins.any():
            seen, done = buffer.observations[last][begins], self.policy.unscale_action(buffer.actions[last][begins])
            begins[begins] = self._is_triggered(seen, done)
            buffer.rewards[last, begins] = -1.0
            self._left[begins] = self.config.takeover
            self.interventions += int(begins.sum())
        taken = self._left > 0
        self._left[taken] -= 1
        return taken

    def _is_triggered(self, observations: Array, actions: Array) -> Array:
        """Return after which of the agent's steps [N] the expert takes over, [N] bool."""
        c, count = self.config, len(observations)
        # The generator that SB3 seeds, which a checkpoint keeps.
        draws = np.random.random(count)  # noqa: NPY002
        if c.trigger == "random":
            return draws < c.rate
        if c.trigger == "value":
            expert: Any = self.expert
            fault = -np.asarray(expert.advantage(observations, actions))
        else:
            own = self.policy.scale_action(self._expert_actions(observations))
            fault = np.sqrt(np.square(own - self.policy.scale_action(actions)).reshape(count, -1).mean(1))
        bad: Array = np.asarray(fault) > c.threshold
        return bad ^ (draws < c.mistakes)

    def _expert_actions(self, observations: Array) -> Array:
        assert self.expert is not None
        actions = np.asarray(self.expert.predict(observations, deterministic=True)[0], np.float32)
        expected = (len(observations), *(self.action_space.shape or ()))
        if actions.shape != expected or not np.isfinite(actions).all():
            raise PrefenvsError(
                f"the expert returned actions of shape {list(actions.shape)}, or not finite, where "
                f"{list(expected)} are due"
            )
        return np.clip(actions, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps on actor, critics and temperature."""
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        self.replay_buffer.keep_rewards()
        for _ in range(gradient_steps):
            metrics = update(
                self, self.replay_buffer.draw(batch_size), self._n_updates % self.target_update_interval == 0
            )
            self._n_updates += 1
        if self._n_updates // 100 > (self._n_updates - gradient_steps) // 100:
            for name, value in metrics.items():
                self.logger.record(f"train/{name}", float(value))

    def dump_logs(self) -> None:
        """Write the log, without the questions that nobody is asked."""
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    def state_dict(self) -> dict[str, Any]:
        """Return who acts in each environment, for how long, and how often the expert did."""
        counts = {"expert_steps": self.expert_steps, "interventions": self.interventions}
        return counts | {"left": self._left.tolist(), "own": self._own.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.expert_steps, self.interventions = int(state["expert_steps"]), int(state["interventions"])
        self._left, self._own = np.array(state["left"], np.int64), np.array(state["own"], bool)

    def save_memory(self, folder: Path) -> None:
        """Write the replay buffer."""
        self.replay_buffer.save(folder / "replay.npz")

    def load_memory(self, folder: Path) -> None:
        """Read it."""
        with damage_told(folder / "replay.npz", WAY_OUT):
            self.replay_buffer.restore(folder / "replay.npz")

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "expert"]


def load_expert_named(name: str, task: Task, device: str = "auto") -> Policy:
    """Return who takes over: scripted, module:NAME (an object, or what makes one), a run folder or a .zip.

    Raises PrefenvsError where there is none.
    """
    if name == "scripted":
        return ScriptedPolicy(task)
    if ":" not in name or Path(name).exists():
        return LearnedExpert(LearnedAdvantage.load(name, device))
    found: Any = import_object(name, "expert")
    if isinstance(found, type) or (callable(found) and not hasattr(found, "predict")):
        with failure_told(f"the expert {name!r} cannot be made"):
            found = found()
    if not callable(getattr(found, "predict", None)):
        raise PrefenvsError(f"the expert {name!r} has no predict(observations): see prefenvs.protocols.Policy")
    policy: Policy = found
    return policy


class LearnedExpert:
    """A trained agent as the one who takes over, with the advantages of its critics."""

    def __init__(self, values: LearnedAdvantage) -> None:
        self.predict, self.advantage = values.agent.predict, values.advantage


def preset(task: Task, name: str = "published", *, steps: int | None = None, **_: Any) -> Settings:
    """Return settings of SAC as RLPD has them, but for the number of critics; small: networks for a CPU."""
    options = SACConfig(
        learning_rate=3e-4,
        batch_size=256,
        hidden=(256, 256, 256),
        layer_norm=True,
        target_update_interval=1,
        ent_coef="auto",
        ent_coef_learning_rate=3e-4,
    )
    config = RLIFConfig(trigger="action", threshold=0.3) if task.family == "metaworld" else RLIFConfig()
    total = 1_000_000
    if name == "small":
        options = SACConfig(
            learning_rate=1e-3,
            batch_size=128,
            hidden=(64, 64),
            layer_norm=True,
            target_update_interval=1,
            ent_coef="auto_0.1",
            ent_coef_learning_rate=1e-3,
            learning_starts=200,
        )
        total = 20_000
    return Settings(config, total if steps is None else steps, options)


def _make(settings: Settings, given: Online) -> RLIF:
    expert = load_expert_named(settings.config.expert, given.task, given.device)
    return RLIF(
        "MlpPolicy",
        make_envs(given.task.id, settings.options.envs, given.seed),
        expert,
        settings.config,
        seed=given.seed,
        device=given.device,
        **settings.options.keywords(),
    )


ALGORITHM = Algorithm(
    name="rlif",
    title="RLIF",
    source="online",
    learner=RLIF,
    config=RLIFConfig,
    options=SACConfig,
    preset=preset,
    presets=("published", "small"),
    make=_make,
    signal="interventions",
)
