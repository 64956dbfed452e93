"""Many seeds at once: K learners in one group against the same K one after the other, and against a single one.

Run: python -m benchmarks.learners.seeds [--seeds 10] [--device cpu] [--threads 1] [--rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.interleaved import HEAD, Row, compare, machine
from benchmarks.learners.offline_updates import make_data
from prefenvs.agents import BC, CPL, IQL, BCConfig, CPLConfig, IQLConfig
from prefenvs.agents.offline.seeds import SeedGroup
from prefenvs.agents.offline.single_loss import SingleLossLearner
from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble, fit_ensembles
from prefenvs.preferences import Preference, make_pairs


def make_learners(seeds: int, device: str) -> dict[str, tuple[list[list[SingleLossLearner[Any]]], int]]:
    """Return three sets of K learners by what they are, and how many updates make a round."""
    dataset = make_data(20_000)
    rewards = dataset.trajectories.true_rewards
    pairs = make_pairs(dataset.trajectories.sample(400, 32, np.random.default_rng(0)))
    preferences = [Preference(query, np.array([1.0, 0.0])) for query in pairs]
    small = CPLConfig(hidden=(128, 128), batch_size=16, dropout=0.1, pretrain_updates=0, warmup_updates=0)

    def three(make: Callable[[int], SingleLossLearner[Any]]) -> list[list[SingleLossLearner[Any]]]:
        return [[make(seed) for seed in range(seeds)] for _ in range(3)]

    def iql(config: IQLConfig) -> list[list[SingleLossLearner[Any]]]:
        return three(lambda seed: IQL(dataset, config=config, rewards=rewards, seed=seed, device=device))

    return {
        "IQL, 2x256, batch 256": (iql(IQLConfig()), 20),
        "IQL, 2x128, batch 256": (iql(IQLConfig(hidden=(128, 128))), 20),
        "CPL, 2x128, 16 pairs of 32": (three(lambda s: CPL(dataset, preferences, small, seed=s, device=device)), 10),
        "BC, 2x128, batch 256": (
            three(lambda s: BC(dataset, config=BCConfig(hidden=(128, 128)), seed=s, device=device)),
            30,
        ),
    }


def measure(seeds: int = 10, device: str = "cpu", rounds: int = 7) -> list[Row]:
    rows = []
    for what, ((together, apart, single), updates) in make_learners(seeds, device).items():
        group = SeedGroup(together)

        def at_once(group: SeedGroup = group, updates: int = updates) -> None:
            group.learn(updates, reset_num_timesteps=False)
            _wait(device)

        def in_turn(learners: list[SingleLossLearner[Any]] = apart, updates: int = updates) -> None:
            for learner in learners:
                learner.learn(updates, reset_num_timesteps=False)
            _wait(device)

        def alone(learner: SingleLossLearner[Any] = single[0], updates: int = updates) -> None:
            learner.learn(updates, reset_num_timesteps=False)
            _wait(device)

        references: dict[str, Callable[[], object]] = {f"{seeds} in turn": in_turn, "one seed": alone}
        rows += compare(f"{updates} updates of {what}", {f"{seeds} seeds at once": at_once}, references, rounds)
    return rows


def measure_rewards(seeds: int = 10, device: str = "cpu", rounds: int = 7) -> list[Row]:
    """Three passes of reward ensembles over 200 pairs of 50 steps, their labels on the device already."""
    trajectories = make_data(20_000).trajectories
    config = RewardConfig(width=128, epochs=3, stop="never")
    labels = [
        [
            Preference(query, np.array([1.0, 0.0]))
            for query in make_pairs(trajectories.sample(400, 50, np.random.default_rng(seed)))
        ]
        for seed in range(seeds)
    ]
    sizes = trajectories.observations.shape[1], trajectories.actions.shape[1]

    def make() -> list[RewardEnsemble]:
        return [RewardEnsemble(*sizes, config, seed, device) for seed in range(seeds)]

    together, apart, single = make(), make(), make()[0]

    def in_turn() -> None:
        for model, own in zip(apart, labels, strict=True):
            model.fit(own)

    return compare(
        "3 passes of a reward ensemble, 3 x 3x128, 200 pairs of 50",
        {f"{seeds} seeds at once": lambda: fit_ensembles(together, labels)},
        {f"{seeds} in turn": in_turn, "one seed": lambda: single.fit(labels[0])},
        rounds,
    )


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(HEAD, *(row.line for row in measure(args.seeds, args.device, args.rounds)), sep="\n")
    print(*(row.line for row in measure_rewards(args.seeds, args.device, args.rounds)), sep="\n")


if __name__ == "__main__":
    main()
