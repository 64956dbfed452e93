"""IQL, CPL and behaviour cloning on Meta-World data of mixed quality, three seeds each, sized for 2 CPU cores.

    python benchmarks/learning/offline.py [--seeds 3] [--workers 2] [--folder runs/offline-learning]

For each task `prefenvs collect` makes data of scripted policies with little and with much noise, and one IQL run on
true rewards serves as the expert whose values make the regret labels. Then `prefenvs train` runs once for each learner
and seed. What is finished is skipped, what was interrupted is resumed. Printed is the table of docs/offline.md: the
final policy's success and true return on evaluation seeds that training never used, never the best of a run, with 95%
intervals by bootstrap, stratified by task in the last column.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap
from tqdm import tqdm

from prefenvs.bench.statistics import interquartile_means, probability_of_improvement
from prefenvs.datasets.offline import load_dataset
from prefenvs.runs import Run

TASKS = tuple(
    f"metaworld-{task}-v3" for task in ("button-press", "door-open", "drawer-open", "plate-slide", "window-open")
)
MIX = "scripted:0.3=10 scripted:0.5:0.85=90"
COMMON = "--preset small --normalise-observations True --evaluate-every 1000000 --episodes 10 --no-progress"
REGRET = "--preferences regret:{expert} --regret-form visited --segment-length 64 --labels 1000"
LEARNERS = {
    "IQL, true reward (upper bound)": "iql --true-reward --steps 6000",
    "IQL, 1000 partial-return labels": "iql --preferences oracle --segment-length 64 --labels 1000 --steps 6000",
    "CPL, 1000 regret labels": f"cpl {REGRET} --steps 6000",
    "BC, best quarter by 1000 regret labels": f"bc --best-share 0.25 {REGRET} --steps 6000",
    "BC, best tenth by true return": "bc --best-share 0.1 --true-reward --steps 6000",
    "BC, all data": "bc --steps 6000",
}
EXPERT = "iql --true-reward --steps 8000"
EXPERT_SEED = 100
EPISODES = 30


def prefenvs(*arguments: str) -> str:
    command = [sys.executable, "-m", "prefenvs", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def train(folder: Path, options: str, seed: int, data: Path) -> None:
    """Train one learner, unless that is done, and measure its final policy on seeds of its own."""
    algorithm, *rest = options.split()
    if not (folder / "summary.json").exists():
        if (folder / "checkpoint").exists():
            prefenvs("train", algorithm, "--resume", str(folder), "--no-progress")
        else:
            arguments = [*rest, *COMMON.split(), "--dataset", str(data), "--seed", str(seed)]
            prefenvs("train", algorithm, *arguments, "--folder", str(folder))
    figures = folder / "final.json"
    if not figures.exists():
        measured = prefenvs("evaluate", str(folder), "--episodes", str(EPISODES), "--seed", "1000", "--json")
        figures.write_text(measured)


def prepare(root: Path, task: str) -> None:
    """Collect the data of a task and train its expert."""
    data = root / task / "data"
    if not data.exists():
        begun = data.with_name(data.name + ".partial").exists()
        new = [task, "--out", str(data), "--format", "npz", "--mix", *MIX.split()]
        prefenvs("collect", *(["--resume", str(data)] if begun else new), "--no-progress")
    train(root / task / "expert", EXPERT, EXPERT_SEED, data)


def cell(root: Path, task: str, learner: str, seed: int) -> Path:
    name = learner.split(" (")[0].replace(",", "").replace(" ", "-").lower()
    return root / task / f"{name}-{seed}"


def run_cell(root: Path, task: str, learner: str, seed: int) -> None:
    options = LEARNERS[learner].format(expert=root / task / "expert")
    train(cell(root, task, learner, seed), options, seed, root / task / "data")


def read(root: Path, learner: str, seeds: int, figure: str) -> np.ndarray:
    """Return a figure of the final policies, [seeds, tasks]."""
    files = [[cell(root, task, learner, seed) / "final.json" for task in TASKS] for seed in range(seeds)]
    return np.array([[json.loads(file.read_text())[figure] for file in row] for row in files], np.float64)


def report(root: Path, seeds: int) -> None:
    for task in TASKS:
        returns = load_dataset(root / task / "data").trajectories.returns
        low, middle, high = np.percentile(returns, (10, 50, 100))
        print(f"{task}: {len(returns)} episodes; true return {returns.mean():.0f} on average, "
              f"{low:.0f} / {middle:.0f} / {high:.0f} at 10%, 50%, best")  # fmt: skip
    scores = {learner: read(root, learner, seeds, "success") for learner in LEARNERS}
    returns = {learner: read(root, learner, seeds, "mean_return") for learner in LEARNERS}
    totals = interquartile_means(scores)
    print(f"\n| learner | {' | '.join(task.split('-', 1)[1] for task in TASKS)} | all tasks, IQM |")
    print("|---" * (len(TASKS) + 2) + "|")
    for learner in LEARNERS:
        cells = []
        for i in range(len(TASKS)):
            success, earned = scores[learner][:, i], returns[learner][:, i]
            cells.append(f"{success.mean():.0%} {interval(success)}, {earned.mean():.0f}")
        total = totals[learner]
        print(f"| {learner} | {' | '.join(cells)} | {total.value:.0%} [{total.low:.0%}, {total.high:.0%}] |")
    clone, cpl = scores["BC, all data"], scores["CPL, 1000 regret labels"]
    better = probability_of_improvement(cpl, clone)
    print(f"\nP(CPL beats BC) = {better.value:.2f} [{better.low:.2f}, {better.high:.2f}]")
    seed_note = f"{seeds} seeds" if seeds > 1 else "a single seed"
    commit = Run.open(root / TASKS[0] / "expert").record["commit"]
    print(f"{seed_note}, {EPISODES} evaluation episodes each, commit {commit}")


def interval(values: np.ndarray) -> str:
    """Return the 95% bootstrap interval of a mean over seeds."""
    if len(values) < 2 or np.ptp(values) == 0:
        return f"[{values.min():.0%}, {values.max():.0%}]"
    found = bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    return f"[{found.low:.0%}, {found.high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/offline-learning"))
    options = parser.parse_args()
    cells = [(task, learner, seed) for seed in range(options.seeds) for task in TASKS for learner in LEARNERS]
    with ThreadPoolExecutor(options.workers) as pool:
        done = pool.map(lambda task: prepare(options.folder, task), TASKS)
        for _ in tqdm(done, total=len(TASKS), desc="data and experts"):
            pass
        for _ in tqdm(pool.map(lambda c: run_cell(options.folder, *c), cells), total=len(cells), desc="runs"):
            pass
    report(options.folder, options.seeds)


if __name__ == "__main__":
    main()
