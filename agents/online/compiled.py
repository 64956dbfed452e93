"""Updates as CUDA graphs: all kernels of one update launched at once, where launching them rules the time.

On a CPU there is nothing to gain: kernels start when they are called, and `torch.compile` made the critics' passes no
faster there. So elsewhere than on a CUDA device the function given runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch

Batch = tuple[torch.Tensor, ...]
Metrics = dict[str, torch.Tensor]


class Recording(NamedTuple):
    """A graph, the tensors it reads its batch from, and those it leaves its metrics in."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    metrics: Metrics


class GraphedUpdate:
    """Run an update of weights by its eager function a few times, then record it and replay the recording.

    The update takes a batch of tensors and returns metrics, works on tensors of one device, reads none of them from the
    host and keeps its weights and moments where they are. What it takes from Python (a learning rate, whether to move a
    target) is frozen in the recording: it belongs into `key`, and each key has a recording of its own. After anything
    that gives the weights or moments new memory, call `forget`.
    """

    def __init__(self, device: torch.device, warm_up: int = 3) -> None:
        """`warm_up`: eager updates before a recording, in which optimisers and libraries allocate what they keep."""
        self.device, self.warm_up = device, warm_up
        self.recordings: dict[Hashable, Recording] = {}
        self._calls: dict[Hashable, int] = {}

    def __call__(self, update: Callable[[Batch], Metrics], batch: Batch, key: Hashable) -> Metrics:
        """Make one update with `batch`; metrics are overwritten by the next call with the same key."""
        if self.device.type != "cuda":
            return update(batch)
        key = (key, *(part.shape for part in batch))
        if key not in self.recordings:
            self._calls[key] = self._calls.get(key, 0) + 1
            if self._calls[key] <= self.warm_up:
                return self._run_aside(update, batch)
            self.recordings[key] = self._record(update, batch)
        recording = self.recordings[key]
        for place, part in zip(recording.batch, batch, strict=True):
            place.copy_(part)
        recording.graph.replay()
        return recording.metrics

    def forget(self) -> None:
        """Drop all recordings; the next updates are eager, then recorded anew."""
        self.recordings.clear()
        self._calls.clear()

    def _run_aside(self, update: Callable[[Batch], Metrics], batch: Batch) -> Metrics:
        """Run on a stream of its own, as a recording will."""
        stream, current = torch.cuda.Stream(self.device), torch.cuda.current_stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            metrics = update(batch)
        current.wait_stream(stream)
        return metrics

    def _record(self, update: Callable[[Batch], Metrics], batch: Batch) -> Recording:
        """Record without running: the replay that follows is the update."""
        places = tuple(part.clone() for part in batch)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            metrics = update(places)
        return Recording(graph, places, metrics)
