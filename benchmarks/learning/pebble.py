"""PEBBLE against the same agent on the true reward, on two tasks of different families, sized for 2 CPU cores.

    python benchmarks/learning/pebble.py [--seeds 3] [--workers 2] [--folder runs/pebble-learning]

Runs `prefenvs train pebble` once for each task, learner and seed (finished ones are skipped, interrupted ones resumed),
then prints the table of docs/pebble.md and draws its curves.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from prefenvs.curves import draw_learning_curve
from prefenvs.evaluate import evaluate, random_policy
from prefenvs.runs import Run

TASKS = {
    "metaworld-door-close-v3": "--steps 40000 --labels 1000 --per-session 60 --segment-length 50",
    "Reacher-v5": "--steps 15000 --labels 500 --per-session 40 --segment-length 10",
}
COMMON = (
    "--preset small --selector uniform --interact 1000 --unsupervised-steps 1500 --evaluate-every 5000 --no-progress"
)
LEARNERS = {"preferences": "", "true reward (upper bound)": "--true-reward"}


def command(task: str, learner: str, seed: int) -> list[str]:
    options = f"--task {task} {TASKS[task]} {COMMON} --seed {seed} {LEARNERS[learner]}"
    return ["train", "pebble", *options.split()]


def folder_of(root: Path, task: str, learner: str, seed: int) -> Path:
    return root / f"{task}-{learner.split()[0]}-{seed}"


def run_cell(root: Path, task: str, learner: str, seed: int) -> None:
    folder = folder_of(root, task, learner, seed)
    if (folder / "summary.json").exists():
        return
    arguments = [*command(task, learner, seed), "--folder", str(folder)]
    if (folder / "checkpoint").exists():
        arguments = ["train", "pebble", "--resume", str(folder), "--no-progress"]
    subprocess.run([sys.executable, "-m", "prefenvs", *arguments], check=True, capture_output=True)


def random_return(task: str) -> float:
    import prefenvs

    policy = random_policy(prefenvs.make(task).action_space, seed=0)
    return evaluate(policy, task, episodes=20, seed=2).mean_return


def report(root: Path, seeds: int) -> None:
    print("| task | learns from | labels | steps | last return: mean (each seed) | share | success |")
    print("|---|---|---|---|---|---|---|")
    for task in TASKS:
        floor = random_return(task)
        rows, curves = {}, {}
        for learner in LEARNERS:
            runs = [Run.open(folder_of(root, task, learner, seed)) for seed in range(seeds)]
            rows[learner] = [run.rows("evaluations") for run in runs]
            curves[learner] = [
                {"steps": points[0]["steps"], "mean_return": float(np.mean([point["mean_return"] for point in points]))}
                for points in zip(*rows[learner], strict=True)
            ]
        upper = curves["true reward (upper bound)"][-1]["mean_return"]
        for learner, points in curves.items():
            last = [seed_rows[-1] for seed_rows in rows[learner]]
            success = np.mean([row["success"] for row in last])
            end = points[-1]["mean_return"]
            solved = "" if np.isnan(success) else f"{success:.0%}"
            each = ", ".join(f"{row['mean_return']:.1f}" for row in last)
            print(
                f"| {task} | {learner} | {last[0]['labels']:.0f} | {last[0]['steps']:.0f} | "
                f"{end:.1f} ({each}) | {(end - floor) / (upper - floor):.0%} | {solved} |"
            )
        print(f"| {task} | nothing: random actions | 0 | | {floor:.1f} | 0% | |")
        picture = Path("docs/images") / f"pebble-{task}.png"
        draw_learning_curve(
            curves,
            picture,
            f"{task}, {f'mean of {seeds} seeds' if seeds > 1 else 'seed 0'}",
            baselines={"random actions": floor},
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/pebble-learning"))
    options = parser.parse_args()
    cells = [(task, learner, seed) for seed in range(options.seeds) for task in TASKS for learner in LEARNERS]
    with ThreadPoolExecutor(options.workers) as pool:
        for _ in tqdm(pool.map(lambda cell: run_cell(options.folder, *cell), cells), total=len(cells), desc="runs"):
            pass
    report(options.folder, options.seeds)


if __name__ == "__main__":
    main()
