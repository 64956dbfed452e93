"""Where the time of a gradient step of IQL and CPL goes, part by part, beside a plain loop's, and the floor of it.

The floor is the operations of the matrix products over the rate of one 1024 x 1024 product, plus the bytes that have to
pass through memory (the batch once, Adam's four vectors read and three written) over the rate of a copy.

Run: python -m benchmarks.learners.offline_profile [--threads 1] [--steps 300]
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks.interleaved import machine
from benchmarks.learners.offline_updates import ACTIONS, OBSERVATIONS, PlainCPL, PlainIQL, make_data
from benchmarks.learners.pebble_profile import product_rate
from prefenvs.agents import CPL, IQL, CPLConfig, IQLConfig
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.offline.single_loss import SingleLossLearner
from prefenvs.preferences import Preference, make_pairs


def profile(learner: SingleLossLearner[Any], steps: int) -> dict[str, float]:
    """Return the seconds of each part of `SingleLossLearner._update`, whose lines these are."""
    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(part: str, function: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = function()
        seconds[part] += time.perf_counter() - begin
        return result

    learner._total_timesteps = 1_000_000
    for step in range(steps + 20):
        if step == 20:
            seconds.clear()
        learner._before_update()
        drawn = timed("draw the batch", learner._draw)
        loss, _ = timed("forward", lambda: learner._loss(drawn))  # noqa: B023
        learner.optimiser.zero_grad(set_to_none=True)
        timed("backward", loss.backward)
        timed("Adam", learner.optimiser.step)
        timed("targets", learner._after_update)
        learner.num_timesteps += 1
    return seconds


def mlp_operations(sizes: list[int], rows: int) -> int:
    """Multiplications and additions of one forward pass."""
    return 2 * rows * sum(a * b for a, b in pairwise(sizes))


def iql_work(config: IQLConfig) -> tuple[int, int]:
    """Return a step's operations and the parameters it updates; a backward pass costs twice a forward one."""
    hidden, rows = list(config.hidden), config.batch_size
    critic = mlp_operations([OBSERVATIONS + ACTIONS, *hidden, 1], rows)
    value = mlp_operations([OBSERVATIONS, *hidden, 1], rows)
    actor = mlp_operations([OBSERVATIONS, *hidden, ACTIONS], rows)
    # Two critics forward and backward, two targets forward; V at s with, at s' without gradients; the actor.
    operations = 2 * (3 * critic + critic) + 3 * value + value + 3 * actor
    return operations, (2 * critic + value + actor) // (2 * rows)


def cpl_work(config: CPLConfig, length: int) -> tuple[int, int]:
    rows = 2 * config.batch_size * length
    actor = mlp_operations([OBSERVATIONS, *config.hidden, ACTIONS], rows)
    return 3 * actor, actor // (2 * rows)


def copy_rate() -> float:
    """Bytes a second that a copy reads and writes, of arrays larger than the caches; the best of 10."""
    source = torch.zeros(2**25)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        begin = time.perf_counter()
        target.copy_(source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - begin))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300, help="of IQL; CPL makes a twentieth")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    dataset = make_data(50_000)
    rewards = dataset.trajectories.true_rewards
    pairs = make_pairs(dataset.trajectories.sample(2_000, 64, np.random.default_rng(0)))
    preferences = [Preference(query, np.array([1.0, 0.0])) for query in pairs]
    config = CPLConfig(pretrain_updates=0, warmup_updates=0)
    iql, cpl = IQL(dataset, rewards=rewards, device="cpu"), CPL(dataset, preferences, config, device="cpu")
    few = max(args.steps // 20, 5)
    bytes_per_second = copy_rate()
    for name, learner, plain, steps, (operations, parameters), batch in (
        ("IQL", iql, PlainIQL(dataset, IQLConfig(), "cpu"), args.steps, iql_work(iql.config), 256),
        ("CPL", cpl, PlainCPL(preferences, config, "cpu"), few, cpl_work(config, 64), 96 * 2 * 64),
    ):
        begin = time.perf_counter()
        for _ in range(steps):
            plain.step()
        plain_seconds = (time.perf_counter() - begin) / steps
        with products():
            seconds, rate = profile(learner, steps), product_rate()
        moved = 4 * (7 * parameters + batch * (2 * OBSERVATIONS + ACTIONS))
        total = sum(seconds.values()) / steps
        print(f"\n{name}: {1e3 * total:.2f} ms a gradient step, plain loop {1e3 * plain_seconds:.2f} ms")
        for part, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            print(f"  {part:16} {1e3 * spent / steps:6.2f} ms  {spent / steps / total:4.0%}")
        print(f"  floor {1e3 * operations / rate:.2f} ms of products ({operations / 1e6:.0f} million operations at "
              f"{rate / 1e9:.0f} GFLOP/s) and {1e3 * moved / bytes_per_second:.2f} ms of memory "
              f"({moved / 1e6:.1f} MB at {bytes_per_second / 1e9:.0f} GB/s)")  # fmt: skip


if __name__ == "__main__":
    main()
