"""Segment sampling against three plain ways of doing it, on the same episodes, interleaved, median of several runs.

Each draws N segments of observations, actions and true rewards from finished episodes:
  loop      one segment at a time: choose an episode and a start, slice, stack at the end
  stack     B-Pref's way: stack all episodes into a new array, gather whole episodes, take the windows out of them
  imitation `RandomFragmenter` of the imitation package, if it is installed; its fragments are not stacked

Run: python -m benchmarks.data.segment_sampling [--episodes 100] [--horizon 1000] [--segments 1000] [--length 50]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from prefenvs import Trajectories

Episode = tuple[np.ndarray, np.ndarray, np.ndarray]


def sample_by_loop(episodes: list[Episode], count: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    valid = np.array([max(len(episode[0]) - length + 1, 0) for episode in episodes])
    parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    for _ in range(count):
        episode = episodes[rng.choice(len(episodes), p=valid / valid.sum())]
        start = rng.integers(len(episode[0]) - length + 1)
        for part, array in zip(parts, episode, strict=True):
            part.append(array[start : start + length])
    return [np.stack(part) for part in parts]


def sample_by_stack(episodes: list[Episode], count: int, length: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Needs episodes of one length, as B-Pref does."""
    inputs = np.array([np.concatenate(episode[:2], axis=1) for episode in episodes])
    rewards = np.array([episode[2] for episode in episodes])[:, :, None]
    horizon = inputs.shape[1]
    chosen = rng.choice(len(episodes), size=count, replace=True)
    starts = rng.choice(horizon - length, size=count, replace=True)
    rows = (np.arange(count) * horizon + starts)[:, None] + np.arange(length)
    return [np.take(array[chosen].reshape(count * horizon, -1), rows, axis=0) for array in (inputs, rewards)]


def imitation_sampler(episodes: list[Episode], count: int, length: int) -> Callable[[], Any] | None:
    try:
        from imitation.algorithms.preference_comparisons import RandomFragmenter
        from imitation.data.types import TrajectoryWithRew
    except ImportError:
        return None
    logging.getLogger().setLevel(logging.ERROR)
    fragmenter = RandomFragmenter(np.random.default_rng(0), warning_threshold=0)
    trajectories = [
        TrajectoryWithRew(obs=np.concatenate([o, o[-1:]]), acts=a, rews=r, infos=None, terminal=True)
        for o, a, r in episodes
    ]
    return lambda: fragmenter(trajectories, fragment_length=length, num_pairs=count // 2)


def measure(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each way; every round runs each once."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(rounds + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if i:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"episodes": 100, "horizon": 1000, "segments": 1000, "length": 50, "rounds": 15}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--observation", type=int, default=24)
    parser.add_argument("--action", type=int, default=6)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(0)
    steps = args.episodes * args.horizon
    pool = Trajectories(
        rng.normal(size=(steps, args.observation)).astype(np.float32),
        rng.normal(size=(steps, args.action)).astype(np.float32),
        np.arange(args.horizon, steps + 1, args.horizon),
        rng.normal(size=steps),
    )
    arrays = (pool.observations, pool.actions, pool.true_rewards)
    parts = [np.split(array, pool.ends[:-1]) for array in arrays if array is not None]
    # Each episode in memory of its own, as those that collect them one by one have them.
    episodes = [(o.copy(), a.copy(), r.copy()) for o, a, r in zip(*parts, strict=True)]
    ways: dict[str, Callable[[], Any]] = {
        "prefenvs": lambda: pool.sample(args.segments, args.length, rng),
        "loop": lambda: sample_by_loop(episodes, args.segments, args.length, rng),
        "stack": lambda: sample_by_stack(episodes, args.segments, args.length, rng),
    }
    fragments = imitation_sampler(episodes, args.segments, args.length)
    if fragments is not None:
        ways["imitation"] = fragments
    medians = measure(ways, args.rounds)
    print(
        f"{args.segments} segments of {args.length} steps from {args.episodes} episodes of {args.horizon} steps, "
        f"{args.observation} observations, {args.action} actions; median of {args.rounds} interleaved rounds"
    )
    for name, seconds in medians.items():
        print(f"{name:10s} {1e3 * seconds:9.2f} ms   {seconds / medians['prefenvs']:6.1f} x prefenvs' time")


if __name__ == "__main__":
    main()
