"""One training pass of a reward ensemble: prefenvs against a loop over members, and against the imitation library.

All train 3 networks of 3 x 256 hidden units on the same pairs of segments with HalfCheetah's sizes, in batches of 128
pairs. The plain loop follows B-Pref's procedure: for each batch and member, the batch's segments are picked from NumPy
arrays and copied, the two segments go through the network apart, and loss and accuracy are read by `.item()`.
imitation's `EnsembleTrainer` trains its members one after another on resamples of the same size. Rounds alternate
between the sides; printed are medians, and ratios of the references' medians to prefenvs's.

Run: python -m benchmarks.rewards.reward_training [--pairs 500] [--steps 50] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from gymnasium import spaces
from imitation.algorithms import preference_comparisons as theirs
from imitation.data.types import Trajectory
from imitation.rewards import reward_nets
from imitation.util.logger import configure
from torch import nn

from prefenvs import Preference, Query, Segment
from prefenvs.agents import RewardConfig, RewardEnsemble
from prefenvs.agents.nets.mlp import Precision
from prefenvs.segments import Array

OBSERVATIONS, ACTIONS, MEMBERS, WIDTH, BATCH = 17, 6, 3, 256, 128


def make_network() -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in (OBSERVATIONS + ACTIONS, WIDTH, WIDTH):
        layers += [nn.Linear(size, WIDTH), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(WIDTH, 1), nn.Tanh())


def plain_loop(inputs: Array, labels: Array) -> Callable[[], None]:
    """One pass of B-Pref's procedure over inputs [N, 2, T, obs + act] and labels [N]."""
    members = [make_network() for _ in range(MEMBERS)]
    optimizer = torch.optim.Adam([p for member in members for p in member.parameters()], lr=3e-4)
    first, second = inputs[:, 0].copy(), inputs[:, 1].copy()

    rng = np.random.default_rng(0)

    def run() -> None:
        orders = [rng.permutation(len(labels)) for _ in members]
        losses, correct = [], np.zeros(MEMBERS)
        for start in range(0, len(labels), BATCH):
            optimizer.zero_grad()
            total = torch.zeros(())
            for m, (member, order) in enumerate(zip(members, orders, strict=True)):
                rows = order[start : start + BATCH]
                target = torch.from_numpy(labels[rows]).long()
                sums = [member(torch.from_numpy(side[rows]).float()).sum(1) for side in (first, second)]
                logits = torch.cat(sums, -1)
                loss = nn.functional.cross_entropy(logits, target)
                total = total + loss
                losses.append(loss.item())
                correct[m] += (logits.argmax(1) == target).sum().item()
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return run


def imitation_trainer(inputs: Array, labels: Array, folder: str) -> Callable[[], None]:
    """One pass of imitation's `EnsembleTrainer` over the same pairs."""
    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)
    nets = [
        reward_nets.BasicRewardNet(observation_space, action_space, hid_sizes=(WIDTH,) * 3, activation=nn.LeakyReLU)
        for _ in range(MEMBERS)
    ]
    logger = configure(folder, format_strs=[])
    trainer = theirs.EnsembleTrainer(
        theirs.PreferenceModel(reward_nets.RewardEnsemble(observation_space, action_space, nets)),
        theirs.CrossEntropyRewardLoss(),
        rng=np.random.default_rng(0),
        batch_size=BATCH,
        epochs=1,
        custom_logger=logger,
    )

    def trajectory(rows: Array) -> Trajectory:
        seen = np.concatenate([rows, rows[-1:]])[:, :OBSERVATIONS]
        return Trajectory(seen, rows[:, OBSERVATIONS:], None, False)

    data = theirs.PreferenceDataset()
    pairs = [(trajectory(pair[0]), trajectory(pair[1])) for pair in inputs]
    data.push(pairs, (labels == 0).astype(np.float32))
    return lambda: trainer.train(data)


def ensemble(inputs: Array, labels: Array, precision: Precision) -> Callable[[], None]:
    """One pass of `RewardEnsemble.fit` over the same pairs, which it holds since an earlier fit."""
    model = RewardEnsemble(
        OBSERVATIONS, ACTIONS, RewardConfig(epochs=1, stop="never", precision=precision), device="cpu"
    )
    preferences = [
        Preference(Query(tuple(Segment(x[:, :OBSERVATIONS], x[:, OBSERVATIONS:], task="T") for x in pair)), target)
        for pair, target in zip(inputs, np.eye(2)[labels], strict=True)
    ]

    def run() -> None:
        model.fit(preferences)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"pairs": 500, "steps": 50, "rounds": 5, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((args.pairs, 2, args.steps, OBSERVATIONS + ACTIONS)).astype(np.float32)
    labels = inputs[..., 0].sum(-1).argmax(-1)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "prefenvs": ensemble(inputs, labels, "float32"),
            "prefenvs, bfloat16": ensemble(inputs, labels, "bfloat16"),
            "plain loop over members": plain_loop(inputs, labels),
            "imitation 1.0.1": imitation_trainer(inputs, labels, folder),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for i in range(args.rounds + 1):
            for name, run in sides.items():
                begin = time.perf_counter()
                run()
                if i:  # the first round warms up
                    seconds[name].append(time.perf_counter() - begin)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{args.pairs} pairs of {args.steps} steps, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, median in medians.items():
        ratio, rough = median / medians["prefenvs"], median / medians["prefenvs, bfloat16"]
        print(f"{name:24s} {median:7.3f} s   {ratio:5.2f} x prefenvs   {rough:5.2f} x prefenvs in bfloat16")


if __name__ == "__main__":
    main()
