"""DR-PO: episodes that begin in states of preferred segments (Chang et al. 2024), with PEBBLE as the learner.

"Dataset reset policy optimization for RLHF". There text is continued from a prefix of a labelled answer; here the
simulator is put into a labelled state. What share of the episodes, and how it falls, is this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv, RolloutReturn
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from prefenvs.agents.online.pebble import PEBBLE, PebbleConfig, PebbleOptions
from prefenvs.agents.registry import Algorithm, Row
from prefenvs.agents.variants.preset import derive_preset
from prefenvs.envs import make
from prefenvs.envs.recording import TrajectoryRecorder
from prefenvs.envs.states import goes_on
from prefenvs.envs.vectors import seed_environments
from prefenvs.errors import PrefenvsError
from prefenvs.limits import Fraction
from prefenvs.preferences import Preference
from prefenvs.segments import Segment


@dataclass(frozen=True)
class ResetsConfig(PebbleConfig):
    """PEBBLE's settings, and how often an episode begins elsewhere."""

    reset_share: Fraction = 0.5
    """Share of the episodes that begin in a state of a preferred segment, once there are labels."""
    reset_until: Fraction = 0.8
    """Share of the run over which that falls linearly to 0; evaluation always begins as the task does."""


class LabelledResets(VecEnvWrapper):
    """Begin a share of the episodes in states of `segments`, drawn uniformly; time limits count from there."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.segments: list[Segment] = []
        self.share = 0.0
        self.begun = 0

    def reset(self) -> VecEnvObs:
        """Reset all environments, as the task does."""
        return self.venv.reset()

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Give each environment a seed of its own for the next `reset`."""
        return seed_environments(self.venv, seed)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step; where that ended an episode, the next one may begin in a labelled state."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones).tolist():
            # The generator that SB3 seeds, which a checkpoint keeps.
            if self.segments and np.random.random() < self.share:  # noqa: NPY002
                segment = self.segments[np.random.randint(len(self.segments))]  # noqa: NPY002
                step = np.random.randint(len(segment))  # noqa: NPY002
                assert segment.states is not None
                self.venv.env_method("restore", segment.states[step], segment.scene, indices=i)
                observations[i] = segment.observations[step]  # type: ignore[index]
                told = {"state": segment.states[step]} | ({} if segment.scene is None else {"scene": segment.scene})
                self.venv.unwrapped.reset_infos[i] = self.venv.unwrapped.reset_infos[i] | told
                self.begun += 1
        return observations, rewards, dones, infos


class ResetPEBBLE(PEBBLE):
    """PEBBLE whose episodes begin, in part, where preferred segments have been.

    So good states that exploration seldom reaches are practised from. For tasks whose states hold all that the
    simulator goes on with, which is checked on a recorded step.
    """

    name = "resets"
    config_type = ResetsConfig
    config: ResetsConfig
    _checked: bool

    @staticmethod
    def _wrap_env(env: GymEnv, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        venv = BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)
        return venv if isinstance(venv, TrajectoryRecorder) else TrajectoryRecorder(LabelledResets(venv))

    def _setup_model(self) -> None:
        self._answers: list[Preference] = []
        self._checked = False
        super()._setup_model()

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> RolloutReturn:
        """As PEBBLE; before, note which states are preferred, and how many episodes are to begin there.

        Here and not after the updates, so that a resumed run knows both before its first episode ends.
        """
        resets = self.recorder.venv
        assert isinstance(resets, LabelledResets)
        if self.feedback is not None and self.feedback.preferences is not self._answers:
            self._answers = self.feedback.preferences
            resets.segments = [
                answer.query.segments[best] for answer in self._answers if (best := answer.best) is not None
            ]
            self._check_states(resets.segments)
        done, until = self.num_timesteps / self._total_timesteps, self.config.reset_until
        resets.share = self.config.reset_share * max(1.0 - done / until, 0.0) if until else 0.0
        self.logger.record("resets/begun", resets.begun)
        return super().collect_rollouts(*args, **kwargs)

    def _check_states(self, segments: Sequence[Segment]) -> None:
        """Raise a PrefenvsError unless the task can be gone on with from recorded states; done once."""
        if self._checked or not segments:
            return
        with closing(make(self.task)) as env:
            env.reset(seed=self.seed)
            if not goes_on(env, segments[0]):
                raise PrefenvsError(
                    f"episodes of {self.task} cannot begin in recorded states, which do not hold all that the "
                    "simulator goes on with: train pebble instead"
                )
        self._checked = True


ALGORITHM = Algorithm(
    name="resets",
    title="PEBBLE with resets to labelled states (DR-PO)",
    source="online",
    learner=ResetPEBBLE,
    config=ResetsConfig,
    options=PebbleOptions,
    preset=derive_preset(ResetsConfig),
    presets=("published", "small", "reliable"),
    rows=(Row("resets", "PEBBLE with resets to labelled states", rewards=True),),
    upper="pebble-true-reward",
)
