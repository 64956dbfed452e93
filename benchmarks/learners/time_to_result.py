"""Seconds until a policy is good: the preset `reliable` against a plain stack, from the same rater and label budget.

The plain stack is `pebble_run`'s: Stable-Baselines3's SAC with B-Pref's procedures, in the settings of the preset
`small` (one update a step, plain critics, uniform replay, queries by disagreement). A policy is good once the mean true
return of an evaluation reaches `--share` of `--level`; evaluations are not timed. Both sides train in turns, a stage
each, until each is good or has done all steps; the curves of finished seeds are kept, and the same command again goes
on with the others.

Run: python -m benchmarks.learners.time_to_result
    [--task dmc-walker-walk-v0] [--level 950] [--steps 100000] [--per-session 20 --interact 1500] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import configure
from tqdm import tqdm

from benchmarks.interleaved import machine
from benchmarks.learners.pebble_run import PlainPEBBLE
from prefenvs.agents import PEBBLE
from prefenvs.agents.online.pebble import preset
from prefenvs.envs.vectors import make_envs
from prefenvs.evaluate import evaluate
from prefenvs.oracles import PartialReturnOracle
from prefenvs.runs import provenance
from prefenvs.tasks import find_task

SIDES: dict[str, tuple[type[PEBBLE], str]] = {"ours": (PEBBLE, "reliable"), "plain": (PlainPEBBLE, "small")}

Point = tuple[int, float, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What both sides do."""

    task: str
    labels: int
    steps: int
    every: int
    episodes: int
    per_session: int | None = None
    interact: int | None = None
    """Questions of a session and steps between sessions, of both sides; None for those of each preset."""


def train(side: str, plan: Plan, seed: int) -> Iterator[Point]:
    """Train, and give a point after each stage: environment steps, seconds of training, mean true return."""
    kind, name = SIDES[side]
    settings = preset(
        find_task(plan.task), name, labels=plan.labels, steps=plan.steps, per_session=plan.per_session,
        interact=plan.interact,
    )  # fmt: skip
    envs, rater = make_envs(plan.task, 1, seed), PartialReturnOracle("oracle", seed=seed)
    agent = kind("MlpPolicy", envs, rater, settings.config, seed=seed, **settings.options.keywords())
    agent.set_logger(configure(None, []))
    agent.start_feedback(plan.steps)
    # Stable-Baselines3 draws from generators that both sides and the evaluations share.
    state, seconds = _generators(), 0.0
    for steps in range(0, plan.steps + 1, plan.every):
        if steps:
            np.random.set_state(state[0])  # noqa: NPY002
            torch.set_rng_state(state[1])
            begin = time.perf_counter()
            agent.learn(plan.every, reset_num_timesteps=False)
            seconds += time.perf_counter() - begin
            state = _generators()
        found = evaluate(agent, plan.task, episodes=plan.episodes, seed=seed)
        yield steps, seconds, float(found.returns.mean())


def _generators() -> tuple[Any, torch.Tensor]:
    return np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def measure(plan: Plan, seed: int, goal: float) -> dict[str, list[Point]]:
    """Train both sides in turns, a stage each, until each has reached the goal or done all steps."""
    curves: dict[str, list[Point]] = {side: [] for side in SIDES}
    runs = {side: train(side, plan, seed) for side in SIDES}
    with tqdm(total=len(SIDES) * (plan.steps // plan.every + 1), desc=f"seed {seed}", unit="evaluation") as bar:
        while runs:
            for side in tuple(runs):
                point = next(runs[side], None)
                if point is not None:
                    curves[side].append(point)
                    bar.set_postfix_str(f"{side} {point[2]:.0f} at {point[0]}")
                    bar.update()
                if point is None or reached([point], goal):
                    del runs[side]
    return curves


def reached(curve: list[Point], goal: float) -> tuple[float, int] | None:
    """Return seconds and steps of the first evaluation after training that reaches the goal."""
    return next(((seconds, steps) for steps, seconds, value in curve if steps and value >= goal), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="dmc-walker-walk-v0")
    parser.add_argument("--level", type=float, default=950.0, help="mean return of the agent on the true reward")
    parser.add_argument("--share", type=float, default=0.8)
    for name, default in {"labels": 500, "steps": 100_000, "every": 5_000, "episodes": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--per-session", type=int, help="questions of a session on both sides; 20 in the suite learning"
    )
    parser.add_argument("--interact", type=int, help="steps between sessions; 1500 in the suite learning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--curves", type=Path, default=Path("runs/time_to_result.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    plan = Plan(args.task, args.labels, args.steps, args.every, args.episodes, args.per_session, args.interact)
    # A curve of other code is none of this one's.
    goal = args.share * args.level
    key = dataclasses.asdict(plan) | {"goal": goal, "commit": provenance()["commit"]}
    args.curves.parent.mkdir(parents=True, exist_ok=True)
    lines = args.curves.read_text().splitlines() if args.curves.exists() else []
    clean = not key["commit"].endswith("-dirty")
    kept = {r["seed"]: r["curves"] for r in map(json.loads, lines) if clean and r["plan"] == key}
    for seed in args.seeds:
        if seed not in kept:
            kept[seed] = measure(plan, seed, goal)
            with args.curves.open("a") as file:
                file.write(json.dumps({"plan": key, "seed": seed, "curves": kept[seed]}) + "\n")
        ours, plain = (reached(kept[seed][side], goal) for side in SIDES)
        told = [
            f"{side} {'never' if found is None else f'{found[0]:.0f} s ({found[1]} steps)'}"
            for side, found in zip(SIDES, (ours, plain), strict=True)
        ]
        total = kept[seed]["plain"][-1][1]
        ratio = (
            "" if ours is None else f", {'over ' if plain is None else ''}{(plain or (total,))[0] / ours[0]:.1f} times"
        )
        print(f"{plan.task}, {plan.labels} labels, seed {seed}, until {goal:.0f}: {', '.join(told)}{ratio}")


if __name__ == "__main__":
    main()
