"""State-entropy rewards of a batch: candidates kept and compared by products, against differences to every state.

The reference is B-Pref's procedure: the replay's states are turned into a tensor anew for each batch, differences
[B, 500, d] are formed for 500 states at a time, and the k-th least of all their norms is taken. Both sides find the
same neighbours, which is checked.

Run: python -m benchmarks.learners.knn_entropy [--threads 1] [--rounds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.interleaved import HEAD, Row, compare, machine
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.online.exploration import SeenStates, nearest_distances

NEIGHBOUR = 5


def distances_by_differences(states: torch.Tensor, ring: np.ndarray) -> torch.Tensor:
    """Return the distance of each state [B, d] to its k-th nearest neighbour in the ring [N, d], itself apart."""
    seen = torch.as_tensor(np.array(ring)).to(states.device)
    parts = [torch.norm(states[:, None] - seen[None, i : i + 500], dim=-1) for i in range(0, len(seen), 500)]
    return torch.kthvalue(torch.cat(parts, 1), NEIGHBOUR + 1, dim=1).values


def measure(rounds: int = 5) -> list[Row]:
    rows = []
    for batch, held, size in ((256, 8_192, 39), (1_024, 9_000, 24)):
        rng = np.random.default_rng(0)
        ring, cache = rng.standard_normal((2 * held, size), np.float32), SeenStates()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        states = torch.from_numpy(ring[rng.integers(held - 8, size=batch)]).to(device)
        cache.update(ring, held - 8, device)

        added = iter(range(held - 7, 2 * held))

        def ours(
            ring: np.ndarray = ring,
            states: torch.Tensor = states,
            cache: SeenStates = cache,
            added: Iterator[int] = added,
        ) -> torch.Tensor:
            # One new state for each batch, as in training.
            with products():
                return nearest_distances(states, cache.update(ring, next(added), states.device), NEIGHBOUR)

        def theirs(ring: np.ndarray = ring, states: torch.Tensor = states, held: int = held) -> torch.Tensor:
            return distances_by_differences(states, ring[:held]).cpu()

        found = nearest_distances(states, torch.from_numpy(ring[:held]).to(device), NEIGHBOUR).cpu()
        torch.testing.assert_close(found, theirs(), atol=1e-4, rtol=1e-4)
        what = f"state entropy of {batch} states of {size} numbers among {held}"
        rows += compare(what, {"online.exploration": ours}, {"differences to every state": theirs}, rounds)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(HEAD, *(row.line for row in measure(args.rounds)), sep="\n")


if __name__ == "__main__":
    main()
