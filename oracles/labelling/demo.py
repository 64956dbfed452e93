"""Something to label at once: short episodes of a cheetah that moves by random gaits."""

from __future__ import annotations

import numpy as np

import prefenvs
from prefenvs.queries import Selector
from prefenvs.segments import Array
from prefenvs.store import Store
from prefenvs.trajectories import TrajectoryBuffer

DEMO_TASK = "HalfCheetah-v5"
DEMO_RUN = "demo"
EPISODES, STEPS, SEGMENT = 20, 160, 50


def fill_demo(store: Store, pairs: int = 100, seed: int = 0) -> int:
    """Ask `pairs` comparisons of 2.5 s clips under the run "demo", unless it has been done; return how many are new.

    Each episode swings the joints by sines of its own frequency, phases and strength, so that some cheetahs run, some
    hop and some fall over: differences that a newcomer sees. It takes a few seconds.
    """
    before = store.stats().queries
    rng = np.random.default_rng(seed)
    buffer = TrajectoryBuffer(task=DEMO_TASK, source="demo", max_episodes=None)
    env = prefenvs.make(DEMO_TASK)
    joints = int(np.prod(env.action_space.shape or ()))
    try:
        for _ in range(EPISODES):
            observation, info = env.reset(seed=int(rng.integers(2**31)))
            gait = _Gait(rng, joints)
            for step in range(STEPS):
                action, state = gait(step), info["state"]
                following, _, _, _, info = env.step(action)
                done = step == STEPS - 1
                buffer.add_step(0, observation, action, info["true_reward"], state, done=done, scene=info.get("scene"))
                observation = following
    finally:
        env.close()
    uniform = Selector.named("uniform")
    store.add_queries(uniform.select(buffer.trajectories(), pairs, SEGMENT, None, (), rng), run=DEMO_RUN)
    return store.stats().queries - before


class _Gait:
    """Joint torques [joints] that swing at one frequency, in units of the action space."""

    def __init__(self, rng: np.random.Generator, joints: int) -> None:
        self.turn = 2 * np.pi * rng.uniform(0.5, 3.0) * 0.05
        self.phases, self.strength = rng.uniform(0, 2 * np.pi, joints), rng.uniform(0.2, 1.0)
        self.lean = rng.uniform(-0.3, 0.3, joints)

    def __call__(self, step: int) -> Array:
        swing = self.strength * np.sin(self.turn * step + self.phases) + self.lean
        return np.clip(swing, -1, 1).astype(np.float32)
