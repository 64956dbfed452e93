"""Relabelling a replay buffer: prefenvs against batches of 200 rows for each member with a NumPy round trip.

Both compute the mean reward of 3 networks of 3 x 256 hidden units for every transition, with HalfCheetah's sizes and
the same weights. The reference follows B-Pref's procedure: 200 rows at a time, observations and actions joined, each
member in turn, its output copied to NumPy, and the mean taken there. prefenvs computes the standard deviation as well.
The two must agree, or the script fails. Rounds alternate; printed are medians and their ratios.

Run: python -m benchmarks.rewards.relabelling [--rows 1000000] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from prefenvs.agents import RewardConfig, RewardEnsemble
from prefenvs.segments import Array

OBSERVATIONS, ACTIONS = 17, 6


def member_networks(model: RewardEnsemble) -> list[nn.Sequential]:
    """The ensemble's members as modules of their own, with the same weights."""
    members = []
    for m in range(model.config.members):
        layers: list[nn.Module] = []
        for weight, bias in zip(model.network.weights, model.network.biases, strict=True):
            linear = nn.Linear(weight.shape[1], weight.shape[2])
            with torch.no_grad():
                linear.weight.copy_(weight[m].T)
                linear.bias.copy_(bias[m, 0])
            layers += [linear, nn.LeakyReLU()]
        members.append(nn.Sequential(*layers[:-1], nn.Tanh()))
    return members


def relabel_in_batches(members: list[nn.Sequential], observations: Array, actions: Array) -> Array:
    rewards = np.empty(len(observations), np.float32)
    for start in range(0, len(observations), 200):
        rows = slice(start, start + 200)
        inputs = np.concatenate([observations[rows], actions[rows]], axis=-1)
        outputs = [member(torch.from_numpy(inputs).float()).detach().cpu().numpy() for member in members]
        rewards[rows] = np.mean(np.array(outputs), axis=0)[:, 0]
    return rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 1_000_000, "rounds": 5, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((args.rows, OBSERVATIONS), np.float32)
    actions = rng.uniform(-1, 1, (args.rows, ACTIONS)).astype(np.float32)
    model, rough = (
        RewardEnsemble(OBSERVATIONS, ACTIONS, RewardConfig(precision=precision), seed=0, device="cpu")
        for precision in ("float32", "bfloat16")
    )
    members = member_networks(model)
    sides: dict[str, Callable[[], Array]] = {
        "prefenvs": lambda: model.mean_and_std(observations, actions)[0],
        "prefenvs, bfloat16": lambda: rough.mean_and_std(observations, actions)[0],
        "batches of 200": lambda: relabel_in_batches(members, observations, actions),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    rewards = {}
    for _ in range(args.rounds):
        for name, run in sides.items():
            begin = time.perf_counter()
            rewards[name] = run()
            seconds[name].append(time.perf_counter() - begin)
    np.testing.assert_allclose(rewards["prefenvs"], rewards["batches of 200"], atol=1e-5)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{args.rows} transitions, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        ratio, ratio_rough = median / medians["prefenvs"], median / medians["prefenvs, bfloat16"]
        print(f"{name:20s} {median:7.2f} s   {ratio:5.2f} x prefenvs   {ratio_rough:5.2f} x prefenvs in bfloat16")
    off = np.abs(rewards["prefenvs, bfloat16"] - rewards["prefenvs"])
    spread = np.std(rewards["prefenvs"])
    print(f"bfloat16 is off by {off.mean():.5f} on average, {off.max():.5f} at most; rewards vary by {spread:.4f}")


if __name__ == "__main__":
    main()
