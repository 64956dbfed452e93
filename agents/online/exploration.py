"""State-entropy exploration: the intrinsic reward of PEBBLE's unsupervised phase (Lee et al. 2021, section 4.1)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from prefenvs.agents.nets.kernels import round_rows
from prefenvs.segments import Array

# Candidates compared in one product: few enough for its result, B x 4096 numbers, to stay in a CPU's cache.
CHUNK = 4_096
# The k least of n numbers lie in the k groups with the least minima; groups of 16 make that the fastest way to them.
GROUP = 16
# Of normalised states: the largest entries, and the least deviation as a share of the largest.
LIMIT, FLOOR = 5.0, 1e-2
# Cells along each side of a picture, and pictures that are made numbers at a time.
CELLS, PICTURES = 8, 1_024


class Candidates(NamedTuple):
    """States to compare with: their differences to a centre [N, d], those squared and summed [N], the centre [d].

    Around a centre near their mean the norms are small, and less of the product in `nearest_distances` cancels out.
    The first `size` rows are states; the others fill up (see `round_rows`), with infinite norms.
    """

    centred: torch.Tensor
    norms: torch.Tensor
    centre: torch.Tensor
    size: int

    @classmethod
    def of(cls, states: torch.Tensor) -> Candidates:
        """Make candidates of states [N, d]."""
        centre = states.mean(0)
        centred = states - centre
        return cls(centred, centred.square().sum(1), centre, len(states))

    def select(self, rows: torch.Tensor) -> Candidates:
        """Return the candidates at `rows` [n]."""
        return Candidates(self.centred[rows], self.norms[rows], self.centre, len(rows))


def nearest_distances(states: torch.Tensor, others: torch.Tensor | Candidates, k: int) -> torch.Tensor:
    """Return the Euclidean distance of each of B states to its k-th nearest neighbour among `others`, itself apart.

    states: [B, d], each also present in others: [N, d]. The candidates come from one matrix product per chunk; the
    distances of the k + 1 winners are then computed from the differences, free of the product's cancellation.
    """
    if isinstance(others, torch.Tensor):
        others = Candidates.of(others)
    keep = min(k + 1, others.size)
    centred = states - others.centre
    values = torch.empty(len(states), 0, device=states.device, dtype=states.dtype)
    indices = torch.empty(len(states), 0, device=states.device, dtype=torch.int64)
    for start in range(0, len(others.centred), CHUNK):
        rows = slice(start, start + CHUNK)
        # |s - o|^2 without the term |s|^2, which is the same for every o.
        scores = torch.addmm(others.norms[None, rows], centred, others.centred[rows].T, alpha=-2.0)
        near, order = least(scores, keep)
        values, indices = torch.cat([values, near], 1), torch.cat([indices, order + start], 1)
    values, order = values.topk(keep, dim=1, largest=False, sorted=False)
    winners = others.centred[indices.gather(1, order)]
    furthest: torch.Tensor = (centred[:, None] - winners).norm(dim=2).amax(1)
    return furthest


def least(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the min(k, n) least of the n numbers in each row of `scores` [B, n], in any order, and their columns."""
    groups = scores.shape[1] // GROUP
    if groups < 2 * k:
        return scores.topk(min(k, scores.shape[1]), dim=1, largest=False, sorted=False)
    # Group g holds the columns g, g + groups, ...: the minima are then taken of whole rows at a time.
    grouped = scores[:, : groups * GROUP].unflatten(1, (GROUP, groups))  # type: ignore[no-untyped-call]
    best = grouped.amin(1).topk(k, dim=1, largest=False, sorted=False).indices
    columns = (best[:, None] + groups * torch.arange(GROUP, device=scores.device)[:, None]).flatten(1)
    rest = torch.arange(groups * GROUP, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat([columns, rest], 1)
    values, order = scores.gather(1, columns).topk(k, dim=1, largest=False, sorted=False)
    return values, columns.gather(1, order)


def compared(states: Array, device: torch.device) -> torch.Tensor:
    """Return states [N, d] as float32 on the device, or pictures [N, C, H, W] as `shrink` makes them."""
    if states.ndim == 2:
        return torch.from_numpy(states).to(device, torch.float32)
    parts = torch.split(torch.from_numpy(states), PICTURES)
    return torch.cat([shrink(part.to(device, torch.float32)) for part in parts])


def shrink(pictures: torch.Tensor) -> torch.Tensor:
    """Return pictures [N, C, H, W] of numbers up to 255 as averages of 8 x 8 cells, [N, 64 C] between 0 and 1.

    Distances between raw pixels cost hundreds of times as much, and say little: what moves by a pixel differs wholly.
    """
    return (functional.adaptive_avg_pool2d(pictures, CELLS) / 255.0).flatten(1)


class SeenStates:
    """The states of a replay buffer as candidates on the learner's device, brought up to date row by row."""

    def __init__(self) -> None:
        self._rows = Candidates(torch.empty(0, 0), torch.empty(0), torch.empty(0), 0)
        self._added = 0

    def update(self, ring: Array, added: int, device: torch.device) -> Candidates:
        """Take in what was written since the last call and return all candidates.

        ring: [capacity, d] states that are written round and round; added: how many have been written since the start.
        """
        held, new = min(added, len(ring)), added - self._added
        if held > len(self._rows.centred) or new >= held:
            # Room for as many again, around a new centre: each state is copied a few times in all.
            states = compared(ring[:held], device)
            room = torch.zeros(round_rows(min(2 * held, len(ring))) - held, *states.shape[1:], device=device)
            fresh = Candidates.of(states)
            unused = torch.full_like(room[:, 0], torch.inf)
            self._rows = Candidates(
                torch.cat([fresh.centred, room]), torch.cat([fresh.norms, unused]), fresh.centre, held
            )
        elif new:
            rows = np.arange(self._added, added) % len(ring)
            centred = compared(ring[rows], device) - self._rows.centre
            index = torch.from_numpy(rows).to(device)
            self._rows.centred[index] = centred
            self._rows.norms[index] = centred.square().sum(1)
        self._added = added
        end = round_rows(held)
        return Candidates(self._rows.centred[:end], self._rows.norms[:end], self._rows.centre, held)

    def state_dict(self) -> dict[str, Any]:
        """Return the centre, the room and the count of rows taken in; the states themselves are in the ring."""
        rows = self._rows
        return {"centre": rows.centre.tolist(), "room": len(rows.centred), "added": self._added}

    def restore(self, state: dict[str, Any], ring: Array, device: torch.device) -> None:
        """Take up what `state_dict` returned, with the states of `ring`, which holds the same rows as then."""
        held = min(state["added"], len(ring))
        self._added = int(state["added"])
        if not held:
            return
        centre = torch.tensor(state["centre"], dtype=torch.float32, device=device)
        centred = torch.zeros(state["room"], len(centre), device=device)
        norms = torch.full((state["room"],), torch.inf, device=device)
        centred[:held] = compared(ring[:held], device) - centre
        norms[:held] = centred[:held].square().sum(1)
        self._rows = Candidates(centred, norms, centre, held)


class RunningStd:
    """Standard deviation of a stream of batches (Chan et al.'s parallel update)."""

    def __init__(self) -> None:
        self.count, self.mean, self.sum_of_squares = 0.0, 0.0, 0.0
        self.low, self.high = math.inf, -math.inf

    def update(self, values: torch.Tensor) -> float:
        """Add a batch [B] and return the standard deviation of all values so far."""
        count, mean = float(values.numel()), float(values.mean())
        squares = float(values.var(unbiased=False)) * count
        delta, total = mean - self.mean, self.count + count
        self.sum_of_squares += squares + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        return float((self.sum_of_squares / total) ** 0.5)


class StateEntropy:
    """r(s) = the distance from s to its k-th nearest neighbour among the states seen, over its running deviation."""

    def __init__(
        self,
        k: int = 5,
        max_states: int | None = None,
        seed: int = 0,
        bounded: bool = False,
        normalised: bool = False,
    ) -> None:
        """k: neighbour; max_states: compare with at most so many states, drawn anew each time (None: all of them).

        bounded: rewards are (distance - mean) / (3 deviations), clipped to [-1, 1], as RIME has them. normalised:
        distances are between states of mean 0 and deviation 1 over those compared with, clipped to `LIMIT`.
        """
        self.k, self.max_states, self.bounded, self.normalised = k, max_states, bounded, normalised
        self.std, self.seen = RunningStd(), SeenStates()
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, states: torch.Tensor, seen: torch.Tensor | Candidates) -> torch.Tensor:
        """Return intrinsic rewards [B] for states [B, obs] against the states seen [N, obs]."""
        distances = self._distances(states, seen)
        deviation = max(self.std.update(distances), 1e-8)
        if self.bounded:
            return ((distances - self.std.mean) / (3.0 * deviation)).clamp(-1.0, 1.0)
        return distances / deviation

    def predictable(self, states: torch.Tensor, seen: torch.Tensor | Candidates) -> torch.Tensor:
        """Return what a reward bounded by 1 is warm-started with, [B] (RIME, Cheng et al. 2024, section 4.2).

        Distances less their mean so far, divided by the largest such difference so far.
        """
        scale = max(self.std.high - self.std.mean, self.std.mean - self.std.low, 1e-8)
        return ((self._distances(states, seen) - self.std.mean) / scale).clamp(-1.0, 1.0)

    def _distances(self, states: torch.Tensor, seen: torch.Tensor | Candidates) -> torch.Tensor:
        if states.dim() == 4:
            states = shrink(states)
        if isinstance(seen, torch.Tensor):
            seen = Candidates.of(seen)
        if self.max_states is not None and seen.size > self.max_states:
            draw = torch.randint(seen.size, (self.max_states,), generator=self._generator)
            seen = seen.select(draw.to(states.device))
        if self.normalised:
            others = seen.centred[: seen.size]
            spread, mean = torch.var_mean(others, 0, correction=0)
            scale = torch.rsqrt(torch.maximum(spread, FLOOR**2 * spread.amax()) + 1e-12)
            states, others = (((rows - mean) * scale).clamp(-LIMIT, LIMIT) for rows in (states - seen.centre, others))
            seen = Candidates.of(others)
        return nearest_distances(states, seen, self.k)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep."""
        return {
            "count": self.std.count,
            "mean": self.std.mean,
            "sum_of_squares": self.std.sum_of_squares,
            "low": self.std.low,
            "high": self.std.high,
            "generator": self._generator.get_state().tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for name in ("count", "mean", "sum_of_squares", "low", "high"):
            setattr(self.std, name, state.get(name, getattr(self.std, name)))
        if "generator" in state:
            self._generator.set_state(torch.tensor(state["generator"], dtype=torch.uint8))
