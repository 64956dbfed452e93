"""What the pages take for given: names that a reader has already, and files beside the script. Small, made on use."""

from __future__ import annotations

import shutil
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import prefenvs
from prefenvs import Preference, Query, Segment, Trajectories
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig, RewardEnsemble
from prefenvs.datasets import CollectionPlan, OfflineDataset, collect, parse_mix, write_npz
from prefenvs.evaluate import random_policy
from prefenvs.oracles import PartialReturnOracle
from prefenvs.preferences import make_pairs

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
OWN = '''
gymnasium.register("Reach-v0", Reach)


class MyEnv(Reach):
    """The dot moves to the square."""


REACH = prefenvs.Task(
    "PageReach", "own", "The dot moves to the square.", horizon=50, segment_length=25, fps=20, source="my_robots:Reach"
)
'''
LABELS = """episode_1,start_1,episode_2,start_2,length,choice
0,0,1,0,25,1
2,0,3,5,25,2
"""


def forget_own_modules() -> None:
    """Let the modules that pages take for the reader's own be imported anew, from wherever they lie next."""
    beside = [path.stem for path in (EXAMPLES.parent / "docs").rglob("*.py")]
    for name in ("my_robots", "my_module", "own_environment", *beside):
        sys.modules.pop(name, None)


class World:
    """Twelve episodes of Reacher by random actions, and what follows from them; each attribute is a name of a page."""

    np, prefenvs, task, n, length = np, prefenvs, "Reacher-v5", 4, 25

    def __init__(self, folder: Path) -> None:
        self.folder, self.rng = folder, np.random.default_rng(0)
        (folder / "my_robots.py").write_text((EXAMPLES / "own_environment.py").read_text() + OWN)
        shutil.copy(EXAMPLES / "own_environment.py", folder)
        (folder / "mine.csv").write_text(LABELS)
        self.dataset: OfflineDataset = collect(CollectionPlan(self.task, parse_mix(["random=12"])), folder / "episodes")
        for name in ("drawer", "reacher"):
            write_npz(self.dataset, folder / "data" / name)
        self.trajectories: Trajectories = self.dataset.trajectories
        self.pool = self.trajectories

    @cached_property
    def segments(self) -> list[Segment]:
        return list(self.trajectories.sample(80, self.length, self.rng))

    @cached_property
    def segment(self) -> Segment:
        return self.trajectories.sample(1, 50, self.rng)[0]

    @cached_property
    def queries(self) -> list[Query]:
        return make_pairs(self.trajectories.sample(40, self.length, self.rng))

    @cached_property
    def query(self) -> Query:
        return self.queries[0]

    @property
    def oracle(self) -> PartialReturnOracle:
        return PartialReturnOracle("oracle", seed=0)

    @cached_property
    def preferences(self) -> list[Preference]:
        oracle = PartialReturnOracle("oracle", seed=0)
        oracle.ask(self.queries)
        return oracle.collect()

    @cached_property
    def answers(self) -> list[Preference]:
        return self.preferences

    @cached_property
    def observations(self) -> Any:
        return self.segment.observations

    @cached_property
    def actions(self) -> Any:
        return self.segment.actions

    @cached_property
    def env(self) -> gymnasium.Env[Any, Any]:
        return prefenvs.make(self.task)

    @cached_property
    def policy(self) -> Any:
        return random_policy(self.env.action_space)

    @cached_property
    def returns(self) -> Any:
        return self.trajectories.returns

    @cached_property
    def config(self) -> PebbleConfig:
        return PebbleConfig()

    @cached_property
    def model(self) -> RewardEnsemble:
        return RewardEnsemble(10, 2, RewardConfig(epochs=2), seed=0)

    @cached_property
    def agent(self) -> PEBBLE:
        return PEBBLE("MlpPolicy", self.env, self.oracle, self.config)

    @property
    def true_reward(self) -> Any:
        return lambda observations, actions, following: -np.linalg.norm(observations[:, 8:10], axis=1)

    @property
    def rater(self) -> Any:
        return lambda first, second: int(second.actions.sum() > first.actions.sum())

    @property
    def Reach(self) -> Any:
        import own_environment

        return own_environment.Reach

    @property
    def MyEnv(self) -> Any:
        import my_robots

        return my_robots.MyEnv

    costs = np.full(200, 0.1)
    first, second, scores, questions = np.array([0, 1, 0]), np.array([1, 0, 1]), np.array([1.0, 0.0, 0.5]), np.arange(3)
