"""The imitation library's preference comparisons as a baseline on our tasks; reward models shared with it.

Importing this module needs imitation, as `prefenvs.agents.baselines.imitation_nets` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

import prefenvs
from prefenvs.agents.baselines.imitation_nets import EnsembleRewardNet, ImitationRewardModel, as_reward_net, open_logger
from prefenvs.envs.hidden_reward import TrueReward
from prefenvs.envs.vectors import IndependentEnvs
from prefenvs.errors import PrefenvsError
from prefenvs.limits import check_settings

# isort: split
from imitation.algorithms import preference_comparisons as theirs
from imitation.policies.base import FeedForward32Policy, NormalizeFeaturesExtractor
from imitation.rewards.reward_nets import BasicRewardNet
from imitation.util.networks import RunningNorm

__all__ = [
    "Comparisons",
    "ComparisonsConfig",
    "EnsembleRewardNet",
    "ImitationRewardModel",
    "RevealReward",
    "as_reward_net",
    "train_preference_comparisons",
]


@dataclass(frozen=True)
class ComparisonsConfig:
    """Settings of imitation's preference comparisons; its own defaults unless said otherwise."""

    iterations: int = 5
    """Rounds of asking, fitting the reward net and training the agent."""
    fragment_length: int | None = None
    """Steps in one fragment; None takes the task's segment length, so that raters of all methods see the same."""
    initial_share: float = 0.1
    """Share of the comparisons made before training, on the untrained agent."""
    initial_epoch_multiplier: float = 200.0
    """How many times `epochs` the reward net is trained on those."""
    epochs: int = 3
    """Passes over all comparisons in each later round (its command line's default)."""
    schedule: Literal["constant", "hyperbolic", "inverse_quadratic"] | Callable[[float], float] = "hyperbolic"
    """How the comparisons are spread over the rounds; a function maps the share done, 0 to 1, to a weight above 0."""
    exploration: float = 0.05
    """Share of the fragments from a partly random policy (its documentation's Pendulum example)."""
    environments: int = 8
    """Copies of the environment (the same example)."""
    allow_variable_horizon: bool = False
    """Accept episodes of different lengths, though their ends tell the learner about the reward."""

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            check_settings(self)


class Comparisons(NamedTuple):
    """What `train_preference_comparisons` returns: the trained agent, its reward net, and the last metrics."""

    agent: BaseAlgorithm
    reward_model: ImitationRewardModel
    metrics: dict[str, float]


class RevealReward(TrueReward):
    """Give the true reward back as the environment's, and count steps: imitation's synthetic rater takes it from there.

    Its trajectory generator records this reward for the rater and hands the agent the reward net's instead.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance by one step and count it."""
        self.steps += 1
        return super().step(action)


def train_preference_comparisons(
    task_id: str,
    total_timesteps: int,
    total_comparisons: int,
    seed: int = 0,
    config: ComparisonsConfig | None = None,
    make_agent: Callable[[VecEnv, int], BaseAlgorithm] | None = None,
    folder: str | Path | None = None,
) -> Comparisons:
    """Run imitation's `preference_comparisons` on a task, as a baseline.

    make_agent: called with the environments and the seed; by default PPO as in imitation's Pendulum example. folder:
    where its log and progress.csv go; None keeps none. The global random seeds are set.

    imitation needs episodes of one length, so a task that can end early (Hopper, Walker2d, Ant, Humanoid, CartPole) is
    refused when its first short episode comes, unless `allow_variable_horizon` is set. It samples further steps for
    its fragments beyond `total_timesteps`; metrics["env_steps"] counts them all. It cannot resume a run. Its log
    holds figures made from the true reward (preferences/entropy, gt_reward_loss), which train nothing. Raises
    PrefenvsError for fragments longer than the horizon.
    """
    config = config or ComparisonsConfig()
    task = prefenvs.find_task(task_id)
    length = config.fragment_length or task.segment_length
    if length > task.horizon:
        raise PrefenvsError(f"fragment_length={length} is longer than the horizon of {task.id}, {task.horizon} steps")
    set_random_seed(seed)
    rng = np.random.default_rng(seed)
    # No Monitor: its episode returns would carry the true reward into the agent's log.
    venv = IndependentEnvs([lambda: RevealReward(prefenvs.make(task.id))] * config.environments)
    venv.seed(seed)
    net = BasicRewardNet(venv.observation_space, venv.action_space, normalize_input_layer=RunningNorm)
    model = ImitationRewardModel(net, epochs=config.epochs, seed=seed)
    agent = (make_agent or _make_ppo)(venv, seed)
    with open_logger(folder) as logger:
        model.trainer.logger = logger
        comparisons = theirs.PreferenceComparisons(
            theirs.AgentTrainer(agent, net, venv, rng, exploration_frac=config.exploration, custom_logger=logger),
            net,
            num_iterations=config.iterations,
            fragmenter=theirs.RandomFragmenter(rng, warning_threshold=0, custom_logger=logger),
            preference_gatherer=theirs.SyntheticGatherer(rng=rng, custom_logger=logger),
            reward_trainer=model.trainer,
            fragment_length=length,
            initial_comparison_frac=config.initial_share,
            initial_epoch_multiplier=config.initial_epoch_multiplier,
            custom_logger=logger,
            allow_variable_horizon=config.allow_variable_horizon,
            query_schedule=config.schedule,
        )
        metrics = _train(comparisons, total_timesteps, total_comparisons, task.id)
    steps = float(sum(venv.get_attr("steps")))
    return Comparisons(agent, model, metrics | {"env_steps": steps})


def _train(comparisons: theirs.PreferenceComparisons, steps: int, labels: int, task_id: str) -> dict[str, float]:
    try:
        metrics = comparisons.train(steps, labels)
    except ValueError as error:
        if "Episodes of different length" not in str(error):
            raise
        raise PrefenvsError(
            f"the episodes of {task_id} have different lengths and imitation needs one: choose a task without early "
            "ends (HalfCheetah-v5, Pendulum-v1, the dmc- and metaworld- tasks) or set allow_variable_horizon"
        ) from error
    return {name: float(value) for name, value in metrics.items()}


def _make_ppo(venv: VecEnv, seed: int) -> PPO:
    return PPO(
        FeedForward32Policy,
        venv,
        seed=seed,
        policy_kwargs={
            "features_extractor_class": NormalizeFeaturesExtractor,
            "features_extractor_kwargs": {"normalize_class": RunningNorm},
        },
        n_steps=max(2048 // venv.num_envs, 2),
        batch_size=64,
        ent_coef=0.01,
        learning_rate=2e-3,
        clip_range=0.1,
        gae_lambda=0.95,
        gamma=0.97,
        n_epochs=10,
    )
