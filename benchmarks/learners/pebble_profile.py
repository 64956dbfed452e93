"""Where the processor time of a PEBBLE run goes, part by part, beside that of the plain way, and the floor of it.

The parts are timed by the processor time of the training thread, each without what it calls of the others. The floor
of a gradient step is the operations of its matrix products over the rate of one 1024 x 1024 product; nothing that
multiplies those matrices in float32 can be faster. `pebble_run` says what the plain way is.

Run: python -m benchmarks.learners.pebble_profile [--steps 10000]     (the first steps of a run on door-close)
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.interleaved import machine
from benchmarks.learners import pebble_run
from benchmarks.learners.pebble_run import PlainPEBBLE, make_agent, settings_of
from prefenvs.agents import PEBBLE
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.online import pebble
from prefenvs.agents.online.exploration import StateEntropy
from prefenvs.agents.online.feedback import Feedback
from prefenvs.agents.online.learner import PreferenceLearner
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.registry import Settings

# Part of the run, and the functions whose time it is made of.
PARTS: list[tuple[str, Any, str]] = [
    ("gradient steps", pebble, "update"),
    ("gradient steps", SAC, "train"),
    ("batches", RelabelBuffer, "draw"),
    ("batches", RelabelBuffer, "_get_samples"),
    ("state entropy", StateEntropy, "__call__"),
    ("state entropy", pebble_run, "distances_by_differences"),
    ("actions", PEBBLE, "_sample_action"),
    ("actions", PlainPEBBLE, "_sample_action"),
    ("environment", DummyVecEnv, "step_wait"),
    ("rewards", PreferenceLearner, "learned_reward"),
    ("rewards", PlainPEBBLE, "learned_reward"),
    ("queries and fits", Feedback, "run"),
]


class Clock:
    """Adds up seconds by part; what a part spends in another one counts for the other."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.thread_time()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.thread_time() - begin
                self.seconds[part] += spent - self._inner.pop()
                self._inner[-1] += spent

        return timed


def profile(kind: type[PEBBLE], task_id: str, settings: Settings) -> tuple[dict[str, float], float, int]:
    """Train and return seconds by part, in all, and the number of gradient steps."""
    agent, clock = make_agent(kind, task_id, settings), Clock()
    patches = [mock.patch.object(owner, name, clock.wrap(part, vars(owner)[name])) for part, owner, name in PARTS]
    for patch in patches:
        patch.start()
    begin = time.thread_time()
    agent.learn(settings.steps)
    total = time.thread_time() - begin
    for patch in patches:
        patch.stop()
    clock.seconds["the rest"] = total - sum(clock.seconds.values())
    return clock.seconds, total, agent._n_updates


def operations(agent: PEBBLE) -> int:
    """Floating point operations of the matrix products of one gradient step."""

    def weights(module: torch.nn.Module) -> list[int]:
        """Sizes of the matrices, layer after layer; the critics' are stacked."""
        return [p.numel() for name, p in module.named_parameters() if name.endswith("weight")]

    critic, actor = weights(agent.critic), weights(agent.actor)
    # Target and online critics forward, their gradients by weights and inner layers, then by the action.
    passes = 3 * sum(critic) + sum(critic) + sum(critic[1:]) + sum(critic)
    # The actor twice forward, and its gradient by weights and inner layers.
    passes += 3 * sum(actor) + sum(actor[1:])
    return 2 * agent.batch_size * passes


def product_rate() -> float:
    """Operations a second in a product of 1024 x 1024 matrices, the best of several."""
    x, w = torch.randn(2, 1024, 1024)
    seconds = []
    for _ in range(20):
        begin = time.thread_time()
        x @ w
        seconds.append(time.thread_time() - begin)
    return 2 * 1024**3 / min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    args = parser.parse_args()
    task_id = "metaworld-door-close-v3"
    settings = settings_of(task_id, 25_000)
    steps = min(args.steps, settings.steps)
    settings = dataclasses.replace(settings, steps=steps)
    torch.set_num_threads(1)
    print(machine())
    plain, before, _ = profile(PlainPEBBLE, task_id, settings)
    ours, after, count = profile(PEBBLE, task_id, settings)
    print("| part | plain way, ms a step | prefenvs, ms a step | share of prefenvs |\n|---|---:|---:|---:|")
    for part in sorted(plain | ours, key=lambda name: -plain[name]):
        share = ours[part] / after
        print(f"| {part} | {1e3 * plain[part] / steps:.2f} | {1e3 * ours[part] / steps:.2f} | {share:.0%} |")
    print(f"| in all | {1e3 * before / steps:.2f} | {1e3 * after / steps:.2f} | 100% |")
    work = operations(make_agent(PEBBLE, task_id, settings))
    default = product_rate()
    with products():
        fast = product_rate()
    print(f"a gradient step: {work / 1e6:.0f} million operations, {1e3 * ours['gradient steps'] / count:.2f} ms;")
    print(f"its floor: {1e3 * work / fast:.2f} ms at {fast / 1e9:.0f} GFLOP/s,", end=" ")
    print(f"{1e3 * work / default:.2f} ms at the {default / 1e9:.0f} GFLOP/s of PyTorch's default kernels")


if __name__ == "__main__":
    main()
