"""Loading D4RL's files: prefenvs against the step-by-step conversion of D4RL's `qlearning_dataset`.

The script writes a file of D4RL's layout (HalfCheetah's sizes, a time limit every 1000 steps, no `next_observations`)
and turns it into transitions in two ways: prefenvs' `read_d4rl(...).transitions()`, and the published loop, which reads
all arrays and appends row after row to lists. The loop runs on the first --subset rows and its time is scaled to
--rows, since each row costs the same; both must give the same transitions there, or the script fails. Rounds alternate;
printed are medians and their ratio.

Then the memory that a process takes at its peak while it loads is put in relation to the size of the arrays that it
ends up with: by Linux's own count (VmHWM), in a process of its own. Last, how long the same data take from Minari.

Run: python -m benchmarks.data.datasets [--rows 1000000] [--subset 50000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from prefenvs.datasets import OfflineDataset, read_d4rl, read_minari, write_minari
from prefenvs.segments import Array

OBSERVATIONS, ACTIONS, HORIZON = 17, 6, 1000

# Peak memory before and after loading, in bytes, and the bytes of the arrays that are held at the end.
MEASURE = """
import sys
import prefenvs.datasets as datasets
import h5py, minari

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

before = status("VmRSS")
data = getattr(datasets, sys.argv[1])(sys.argv[2]).trajectories
names = ("observations", "actions", "true_rewards", "states", "final_observations")
print(before, status("VmHWM"), sum(getattr(data, n).nbytes for n in names if getattr(data, n) is not None))
"""


def write_file(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((rows, OBSERVATIONS), np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, ACTIONS)).astype(np.float32)
        file["rewards"] = rng.standard_normal(rows, np.float32)
        file["terminals"] = rng.random(rows) < 1e-4
        file["timeouts"] = np.arange(rows) % HORIZON == HORIZON - 1


def convert_row_by_row(path: Path, subset: int) -> dict[str, Array]:
    """The reference: one Python step for each transition."""
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][:subset] for name in file}
    columns: dict[str, list[Any]] = {name: [] for name in ("obs", "next_obs", "action", "reward", "done")}
    for i in range(len(arrays["rewards"]) - 1):
        if arrays["timeouts"][i]:
            continue
        columns["obs"].append(arrays["observations"][i].astype(np.float32))
        columns["next_obs"].append(arrays["observations"][i + 1].astype(np.float32))
        columns["action"].append(arrays["actions"][i].astype(np.float32))
        columns["reward"].append(arrays["rewards"][i].astype(np.float32))
        columns["done"].append(bool(arrays["terminals"][i]))
    return {name: np.array(column) for name, column in columns.items()}


def check_equal(dataset: OfflineDataset, reference: dict[str, Array]) -> None:
    ours, count = dataset.transitions(), len(reference["obs"])
    goes_on = ~reference["done"]
    np.testing.assert_array_equal(ours.rows[:count], dataset.qlearning_rows()[:count])
    np.testing.assert_array_equal(ours.observations[:count], reference["obs"])
    np.testing.assert_array_equal(ours.actions[:count], reference["action"])
    assert ours.true_rewards is not None
    np.testing.assert_array_equal(ours.true_rewards[:count], reference["reward"])
    np.testing.assert_array_equal(ours.terminals[:count] == 1, reference["done"])
    np.testing.assert_array_equal(ours.next_observations[:count][goes_on], reference["next_obs"][goes_on])


def measure_memory(reader: str, path: Path) -> tuple[float, float]:
    """Return megabytes that loading added at its peak, and megabytes of the arrays."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, reader, str(path)], capture_output=True, text=True, check=True
    )
    before, after, held = map(int, done.stdout.split())
    return (after - before) / 1e6, held / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 1_000_000, "subset": 50_000, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    subset = min(args.subset, args.rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.hdf5"
        write_file(path, args.rows)
        dataset = read_d4rl(path)
        check_equal(dataset, convert_row_by_row(path, subset))
        ours, theirs = [], []
        for _ in range(args.rounds):
            begin = time.perf_counter()
            read_d4rl(path).transitions()
            ours.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            convert_row_by_row(path, subset)
            theirs.append((time.perf_counter() - begin) * args.rows / subset)
        fast, slow = statistics.median(ours), statistics.median(theirs)
        print(f"{args.rows} transitions from a D4RL file, medians of {args.rounds} rounds")
        print(f"  prefenvs                {fast:8.3f} s")
        print(f"  row by row              {slow:8.3f} s (measured on {subset} rows, scaled)")
        print(f"  ratio                   {slow / fast:8.1f}")
        places = {"read_d4rl": path, "read_minari": write_minari(dataset, Path(folder) / "minari")}
        for reader, place in places.items() if Path("/proc/self/status").exists() else ():
            peak, held = measure_memory(reader, place)
            print(f"{reader}: {peak:.0f} MB more at the peak for {held:.0f} MB of arrays: ratio {peak / held:.2f}")
        times = []
        for _ in range(args.rounds):
            begin = time.perf_counter()
            read_minari(places["read_minari"])
            times.append(time.perf_counter() - begin)
        print(f"read_minari: {statistics.median(times):.3f} s for {len(dataset)} episodes")


if __name__ == "__main__":
    main()
