"""Side by side timing: every round runs each way once, in turn, so that whatever disturbs the machine disturbs all."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of our way and of a reference, and how many times longer the reference took.

    Seconds are medians over rounds; ratio is the median of the rounds' ratios, low and high their quartiles.
    """

    what: str
    ours: str
    reference: str
    seconds: float
    reference_seconds: float
    ratio: float
    low: float
    high: float

    @property
    def line(self) -> str:
        """The row as a line of a Markdown table."""
        spread = f"{self.low:.2f} to {self.high:.2f}"
        times = f"{_time(self.seconds)} | {_time(self.reference_seconds)}"
        return f"| {self.what} | {self.ours} | {self.reference} | {times} | **{self.ratio:.2f}** | {spread} |"


HEAD = "| what | ours | reference | our time | its time | ratio | quartiles |\n|---|---|---|---:|---:|---:|---|"


def compare(
    what: str, ours: Mapping[str, Callable[[], object]], references: Mapping[str, Callable[[], object]], rounds: int
) -> list[Row]:
    """Time every way once in each round, after a round to warm up, and set each of ours against each reference."""
    ways = [*ours.items(), *references.items()]
    seconds: dict[str, list[float]] = {name: [] for name, _ in ways}
    for i in range(rounds + 1):
        # Every other round backwards, so that no way always follows the same one.
        for name, way in ways if i % 2 else reversed(ways):
            begin = time.perf_counter()
            way()
            if i:
                seconds[name].append(time.perf_counter() - begin)
    return [from_seconds(what, name, other, seconds[name], seconds[other]) for name in ours for other in references]


def from_seconds(what: str, ours: str, reference: str, seconds: Iterable[float], others: Iterable[float]) -> Row:
    """Make a row of the rounds' seconds."""
    mine, theirs = np.array(list(seconds)), np.array(list(others))
    low, ratio, high = np.quantile(theirs / mine, [0.25, 0.5, 0.75])
    middle, other = float(np.median(mine)), float(np.median(theirs))
    return Row(what, ours, reference, middle, other, float(ratio), float(low), float(high))


def machine() -> str:
    """Processor, threads and versions, in one line."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy", "stable-baselines3", "mujoco"))
    load = f"load {os.getloadavg()[0]:.1f} at the start"
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} PyTorch threads"
    return f"{processor}{device}, {cores}, {load}; Python {platform.python_version()}, {packages}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.2f} ms"
