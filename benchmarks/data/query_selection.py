"""k-center query selection: distances kept up to date against distances built anew for each choice, as in B-Pref.

Both choose M of N candidate pairs, farthest-first from C labelled pairs, by observations of both segments flattened.
The reference follows B-Pref's procedure: before each choice, the distances of all remaining candidates to all labelled
and chosen pairs, in blocks of 100 x 100, in torch. The two must choose the same pairs, or the script fails.

Run: python -m benchmarks.data.query_selection [--candidates 500] [--choose 50] [--labelled 200] [--length 50]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from prefenvs.queries import k_center

BLOCK = 100


def nearest_distances(rows: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Return each row's distance to its nearest centre, by differences."""
    nearest = []
    for block in torch.split(rows, BLOCK):
        parts = [torch.norm(block[:, None] - part[None], dim=-1).amin(dim=1) for part in torch.split(centers, BLOCK)]
        nearest.append(torch.stack(parts).amin(dim=0))
    return torch.cat(nearest)


def k_center_rebuilt(features: np.ndarray, centers: np.ndarray, count: int) -> list[int]:
    left = list(range(len(features)))
    chosen: list[int] = []
    for _ in range(count):
        known = np.concatenate([centers, features[chosen]], axis=0)
        nearest = nearest_distances(torch.from_numpy(features[left]), torch.from_numpy(known))
        chosen.append(left.pop(int(nearest.argmax())))
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"candidates": 500, "choose": 50, "labelled": 200, "length": 50, "observation": 24, "rounds": 3}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    size = 2 * args.length * args.observation
    features = rng.normal(size=(args.candidates, size)).astype(np.float32)
    centers = rng.normal(size=(args.labelled, size)).astype(np.float32)
    seconds: dict[str, list[float]] = {"kept": [], "rebuilt": []}
    for _ in range(args.rounds):
        begin = time.perf_counter()
        kept = k_center(features, centers, args.choose).tolist()
        middle = time.perf_counter()
        rebuilt = k_center_rebuilt(features, centers, args.choose)
        seconds["rebuilt"].append(time.perf_counter() - middle)
        seconds["kept"].append(middle - begin)
        if kept != rebuilt:
            raise SystemExit("the two ways chose different pairs")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{args.choose} of {args.candidates} pairs, {args.labelled} labelled, {size} numbers each; "
        f"median of {args.rounds} interleaved rounds; the same pairs chosen by both"
    )
    for name, value in medians.items():
        print(f"{name:8s} {1e3 * value:9.1f} ms   {value / medians['kept']:7.1f} x")


if __name__ == "__main__":
    main()
