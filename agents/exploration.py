"""State-entropy exploration: the intrinsic reward of PEBBLE's unsupervised phase (Lee et al. 2021, section 4.1)."""

from __future__ import annotations

from typing import Any

import torch


def nearest_distances(states: torch.Tensor, others: torch.Tensor, k: int, chunk: int = 16_384) -> torch.Tensor:
    """Return the Euclidean distance of each of B states to its k-th nearest neighbour among `others`, itself apart.

    states: [B, d], each also present in others: [N, d]. The candidates come from one matrix product per chunk; the
    distances of the k + 1 winners are then computed from the differences, free of the product's cancellation.
    """
    keep = min(k + 1, len(others))
    # Around their mean the states' norms are small, and less of the product cancels out.
    mean = others.mean(0)
    centred = states - mean
    values = torch.empty(len(states), 0, device=states.device, dtype=states.dtype)
    indices = torch.empty(len(states), 0, device=states.device, dtype=torch.int64)
    for start in range(0, len(others), chunk):
        part = others[start : start + chunk] - mean
        # |s - o|^2 without the term |s|^2, which is the same for every o.
        scores = torch.addmm(part.square().sum(1)[None], centred, part.T, alpha=-2.0)
        near, order = scores.topk(min(keep, len(part)), dim=1, largest=False, sorted=False)
        values, indices = torch.cat([values, near], 1), torch.cat([indices, order + start], 1)
        values, order = values.topk(min(keep, values.shape[1]), dim=1, largest=False, sorted=False)
        indices = indices.gather(1, order)
    distances = (states[:, None] - others[indices]).norm(dim=2)
    furthest: torch.Tensor = distances.amax(1)
    return furthest


class RunningStd:
    """Standard deviation of a stream of batches (Chan et al.'s parallel update)."""

    def __init__(self) -> None:
        self.count, self.mean, self.sum_of_squares = 0.0, 0.0, 0.0

    def update(self, values: torch.Tensor) -> float:
        """Add a batch [B] and return the standard deviation of all values so far."""
        count, mean = float(values.numel()), float(values.mean())
        squares = float(values.var(unbiased=False)) * count
        delta, total = mean - self.mean, self.count + count
        self.sum_of_squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        return float((self.sum_of_squares / total) ** 0.5)


class StateEntropy:
    """r(s) = the distance from s to its k-th nearest neighbour among the states seen, over its running deviation."""

    def __init__(self, k: int = 5, max_states: int | None = None, seed: int = 0) -> None:
        """k: neighbour; max_states: compare with at most so many states, drawn anew each time (None: all of them)."""
        self.k, self.max_states = k, max_states
        self.std = RunningStd()
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, states: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Return intrinsic rewards [B] for states [B, obs] against the states seen [N, obs]."""
        if self.max_states is not None and len(seen) > self.max_states:
            draw = torch.randint(len(seen), (self.max_states,), generator=self._generator)
            seen = seen[draw.to(seen.device)]
        distances = nearest_distances(states, seen, self.k)
        return distances / max(self.std.update(distances), 1e-8)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {"count": self.std.count, "mean": self.std.mean, "sum_of_squares": self.std.sum_of_squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.std.count, self.std.mean, self.std.sum_of_squares = state["count"], state["mean"], state["sum_of_squares"]
