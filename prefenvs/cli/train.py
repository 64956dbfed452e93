"""`prefenvs train <algorithm>`."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

import prefenvs
from prefenvs.cli.raters import make_rater, rater_field, restore_options
from prefenvs.cli.run_options import RunOptions
from prefenvs.cli.seeds import check_resume, of_seeds
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeInt, PositiveInt, Seed
from prefenvs.runs import Run
from prefenvs.tasks import Task, find_task, has_reward

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from prefenvs.agents.online.learner import LearnerConfig, PreferenceLearner
    from prefenvs.agents.online.presets import PebbleSettings
    from prefenvs.preferences import Oracle
    from prefenvs.store import Store

# What has no effect where no rater is asked.
LABEL_OPTIONS = ("oracle", "labels", "per_session", "interact", "segment_length", "selector", "schedule")
AnyConfig = TypeVar("AnyConfig", bound="LearnerConfig")


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """What every online learner is told; settings that are not given are the published ones."""

    algorithm: ClassVar[str]

    task: str = ""
    """Task id; `prefenvs tasks` lists them."""
    oracle: str = "oracle"
    """Who answers: oracle, mistake, noisy, skip, myopic, equal or crowd-... (simulated), regret, coin, human, ratings,
    vlm, clip, hybrid (two of these), or module:NAME, a function or an oracle of your own.

    With options, NAME:key=value,key=value; the rater's options are flags, too, which --help shows beside its name.
    regret-noisy, clip-mistake, ...: with a simulated teacher's irrationalities.
    """
    steps: PositiveInt | None = None
    """Environment steps."""
    seeds: tuple[Seed, ...] = ()
    """Several seeds, one after the other, each with the result that it has alone.

    Each has a run folder of its own: {seed} in --folder becomes the seed, or else it is appended.
    """
    labels: PositiveInt | None = None
    """Label budget."""
    per_session: PositiveInt | None = None
    """Queries in a session."""
    interact: PositiveInt | None = None
    """Environment steps between sessions (pebble: closer together in a run shorter than published)."""
    segment_length: PositiveInt | None = None
    """Steps in a segment."""
    selector: str | None = None
    """uniform, disagreement, entropy, bald, k-center, k-center-disagreement, k-center-entropy or near-on-policy."""
    schedule: Literal["constant", "decreasing", "increasing"] | None = None
    """How the size of a session changes over the run; constant by default."""
    unsupervised_steps: NonNegativeInt | None = None
    """Steps of state-entropy exploration before the first session (pebble: at most a sixth of a short run)."""
    aggregate: Literal["mean", "min", "mean-std"] | None = None
    """What the ensemble's members become for the agent: mean, or against over-optimisation min or mean-std."""
    precision: Literal["float32", "bfloat16"] | None = None
    """bfloat16 multiplies in that type within the networks: faster where the processor has it, to two or three digits.

    SAC learned less with it in the one task that was tried (docs/performance.md).
    """
    true_reward: bool = False
    """Upper bound: learn from the true reward instead of preferences."""
    exploration_only: bool = False
    """Control: explore for the whole run, and ask nobody."""
    rater: Annotated[Any, rater_field()] = None
    """The rater's options."""

    def run(self) -> None:
        """Train, or continue to train, and print the returns before and after."""
        if self.resume is not None:
            check_resume(self.seeds)
            run = Run.resume(self.resume, f"train {self.algorithm}")
            rater = restore_options(run.config.get("oracle", "oracle"), run.config.get("rater"), self.rater)
            now = {"folder": run.folder, "progress": self.progress, "rater": rater}
            options = dataclasses.replace(self, **run.config | now)
            agent, steps = options._make_agent(options._find_task())
            options._train([agent], [run], steps, resume=True)
            return
        task = self._find_task()
        if self.seeds:
            self._check_seeds(task)
            for options in of_seeds(self, self.seeds):
                options.run()
            return
        # Settings are checked before a folder is made.
        agent, steps = self._make_agent(task)
        agent.check_run(steps)
        self._train([agent], [self._create_run(task)], steps)

    def _check_seeds(self, task: Task) -> None:
        from prefenvs.oracles import PartialReturnOracle, RegretOracle

        if len(self.seeds) > 1 and not isinstance(self._make_oracle(task), PartialReturnOracle | RegretOracle | None):
            raise PrefenvsError(f"--seeds goes with simulated raters, not with --oracle {self.oracle}: train one seed")

    def _create_run(self, task: Task) -> Run:
        rater = "true-reward" if self.true_reward else re.sub(r"[^A-Za-z0-9.-]+", "-", self.oracle)
        rater = "no-labels" if self.exploration_only else rater
        folder = self.folder or Path("runs") / f"{task.file_name}-{self.algorithm}-{rater}-{self.seed}"
        return Run.create(folder, f"train {self.algorithm}", dataclasses.asdict(self))

    def _train(
        self, agents: Sequence[PreferenceLearner], runs: Sequence[Run], steps: int, resume: bool = False
    ) -> None:
        import torch

        from prefenvs.agents.runs.train import train

        torch.set_num_threads(self.threads)
        with contextlib.ExitStack() as stack:
            for run in runs:
                stack.enter_context(run.locked())
            raters = [agent.oracle for agent in agents]
            for agent, run in zip(agents, runs, strict=True):
                self._attach(agent, run, stack)
                if resume and has_checkpoint(run):
                    agent.resume(run.checkpoint)
            schedule = self.evaluate_every, self.episodes, self.progress, self.evaluate_beside
            summaries = train(agents, runs, steps, *schedule)
        for summary, run, rater in zip(summaries, runs, raters, strict=True):
            report(summary, run, rater)

    def _attach(self, agent: PreferenceLearner, run: Run, stack: contextlib.ExitStack) -> None:
        """Let what the rater is asked and answers go into the run's store."""
        from prefenvs.oracles import HumanOracle, HybridOracle
        from prefenvs.store import Recorded, Store

        store = stack.enter_context(Store(run.path("preferences.sqlite")))
        rater = agent.oracle
        for one in (rater.cheap, rater.costly) if isinstance(rater, HybridOracle) else (rater,):
            self._connect(one, store, run, stack)
        if isinstance(rater, HybridOracle):
            rater.watch(lambda: agent.reward_model)
        # What people are asked and answer is in a store already.
        if rater is not None and not isinstance(rater, HumanOracle):
            agent.oracle = Recorded(rater, store)

    def _connect(self, rater: Oracle | None, store: Store, run: Run, stack: contextlib.ExitStack) -> None:
        """Give a rater that needs them the run's store and the run's name, which its questions go under."""
        from prefenvs.oracles import HumanOracle, RatingOracle, VLMOracle

        if isinstance(rater, VLMOracle):
            rater.store, rater.run = rater.store or store, run.folder.name
            # Calls under way when training ends have been paid for, and are written down.
            stack.enter_context(rater)
        if isinstance(rater, HumanOracle):
            rater.run = run.folder.name
            kind = " --kind rating" if isinstance(rater, RatingOracle) else ""
            page = f"prefenvs label --store {rater.store.location}{kind}"
            print(f"questions go to {rater.store.location}: label with `{page}`", flush=True)

    def _make_agent(self, task: Task) -> tuple[PreferenceLearner, int]:
        """Return the agent and how many environment steps it is to be trained for."""
        raise PrefenvsError("choose an algorithm: prefenvs train pebble or prefenvs train prefppo")

    def _make_oracle(self, task: Task) -> Oracle | None:
        """Return the rater, or none where nobody is asked; raises PrefenvsError where it has options of a rater."""
        if not (self.true_reward or self.exploration_only):
            return make_rater(self.oracle, self.rater, task.id, self.seed)
        control = "--true-reward" if self.true_reward else "--exploration-only"
        for flag in LABEL_OPTIONS:
            if getattr(self, flag) not in (None, "oracle"):
                raise PrefenvsError(
                    f"--{flag.replace('_', '-')} is about labels, of which {control} needs none: leave it out"
                )
        return None

    def _override(self, config: AnyConfig) -> AnyConfig:
        """Put what was given on the command line in place of the published settings."""
        names = ["per_session", "interact", "segment_length", "selector", "unsupervised_steps", "aggregate"]
        names += ["precision", "schedule"]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        controls: dict[str, Any] = {"true_reward": self.true_reward, "exploration_only": self.exploration_only}
        return dataclasses.replace(config, **given, **controls)

    def _find_task(self) -> Task:
        if not self.task:
            raise PrefenvsError("say which task to train on: --task ID (`prefenvs tasks` lists them)")
        if self.steps is not None and self.steps < 1:
            raise PrefenvsError(f"--steps must be at least 1, got {self.steps}")
        return find_task(self.task)


@dataclass(frozen=True)
class TrainPebble(TrainOptions):
    """Train PEBBLE: SAC on a reward learned online from a rater's preferences."""

    algorithm = "pebble"

    preset: Literal["published", "small"] = "published"
    """small: 2x128 networks, batches of 256 and larger steps, for a CPU."""
    surf: bool = False
    """Semi-supervised reward learning with augmentation (SURF)."""
    rune: bool = False
    """Reward bonus for the ensemble's uncertainty (RUNE)."""
    explore_first: bool = False
    """With --true-reward: explore first, as a learner from labels does."""
    learning_starts: NonNegativeInt = 1_000
    """Steps of random actions at the beginning."""
    envs: PositiveInt = 1
    """Environments stepped side by side; one update for each environment step in any case."""

    def settings(self, task: Task) -> PebbleSettings:
        """Return the task's settings with what was given in their place."""
        from prefenvs.agents.online.presets import PebbleSettings, fit_schedule, pebble_settings
        from prefenvs.agents.rewards.surf import SurfConfig

        published = pebble_settings(task, self.preset, self.labels)
        config, steps = self._override(published.config), published.steps if self.steps is None else self.steps
        if steps < published.steps:
            given = {name for name in ("unsupervised_steps", "interact") if getattr(self, name) is not None}
            config = fit_schedule(config, steps, self.learning_starts, given)
        if self.explore_first:
            if not self.true_reward:
                raise PrefenvsError("--explore-first goes with --true-reward: labels come after exploration anyway")
            config = dataclasses.replace(config, explore_first=True)
        if self.rune:
            config = dataclasses.replace(config, bonus=0.05)
        if self.surf:
            config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, surf=SurfConfig()))
        sac = published.sac | {"buffer_size": steps, "learning_starts": self.learning_starts}
        return PebbleSettings(config, sac, steps)

    def _make_agent(self, task: Task) -> tuple[PreferenceLearner, int]:
        from prefenvs.agents import PEBBLE

        config, sac, steps = self.settings(task)
        envs = make_envs(task.id, self.envs, self.seed)
        return PEBBLE("MlpPolicy", envs, self._make_oracle(task), config, seed=self.seed, **sac), steps


@dataclass(frozen=True)
class TrainPrefPPO(TrainOptions):
    """Train PrefPPO: PPO on a reward learned online from a rater's preferences."""

    algorithm = "prefppo"

    envs: PositiveInt | None = None
    """Environments stepped side by side; 16 or 32 by task, as published."""

    def _make_agent(self, task: Task) -> tuple[PreferenceLearner, int]:
        from prefenvs.agents import PrefPPO
        from prefenvs.agents.online.presets import prefppo_settings

        settings = prefppo_settings(task, self.labels)
        config = self._override(settings.config)
        envs = make_envs(task.id, settings.envs if self.envs is None else self.envs, self.seed)
        agent = PrefPPO("MlpPolicy", envs, self._make_oracle(task), config, seed=self.seed, **settings.ppo)
        return agent, self.steps or settings.steps


def make_envs(task: str, count: int, seed: int) -> VecEnv:
    """Make `count` environments that are stepped one after the other in this process."""
    from prefenvs.envs.vectors import IndependentEnvs

    if count < 1:
        raise PrefenvsError(f"--envs must be at least 1, got {count}")
    venv = IndependentEnvs([lambda: prefenvs.make(task)] * count)
    venv.seed(seed)
    return venv


def has_checkpoint(run: Run) -> bool:
    """Tell whether a run can go on from a checkpoint, and say so where it starts anew."""
    if not run.has_checkpoint:
        print(f"{run.folder} holds no checkpoint yet: the run starts anew", flush=True)
    return run.has_checkpoint


def report(summary: dict[str, Any], run: Run, rater: Oracle | None) -> None:
    """Print the figures of a finished run."""
    from prefenvs.oracles import HybridOracle

    first, last = summary["first"], summary["last"]
    print(f"{summary['task']}, {summary['algorithm']} on {summary['learns_from']}, a single seed ({summary['seed']})")
    print(f"labels: {summary['labels']} of {summary['queries']} queries; {summary['steps']} environment steps")
    if has_reward(summary["task"]):
        print(f"true return before: {first['mean_return']:.1f} +- {first['std_return']:.1f}")
        print(f"true return after:  {last['mean_return']:.1f} +- {last['std_return']:.1f}")
    else:
        print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
    if not math.isnan(last["success"]):
        print(f"success before and after: {first['success']:.0%}, {last['success']:.0%}")
    print(f"run folder: {run.folder}")
    if isinstance(rater, HybridOracle):
        print("\n".join(rater.summary()))
