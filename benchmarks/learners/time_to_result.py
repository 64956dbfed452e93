"""Seconds until a policy is good: the preset `reliable` against a plain stack, from the same rater and label budget.

The plain stack is `pebble_run`'s: Stable-Baselines3's SAC with B-Pref's procedures, in the settings of the preset
`small` (one update a step, plain critics, uniform replay, queries by disagreement). A policy is good once the mean true
return of an evaluation reaches `--share` of `--level`; evaluations are not timed. Each side's curve is written as it
comes, and the same command again goes on with what is missing.

Run: python -m benchmarks.learners.time_to_result
    [--task dmc-walker-walk-v0] [--level 950] [--steps 100000] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

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


@dataclasses.dataclass(frozen=True)
class Plan:
    """What both sides do."""

    task: str
    labels: int
    steps: int
    every: int
    episodes: int


def measure(side: str, plan: Plan, seed: int) -> list[tuple[int, float, float]]:
    """Train and return the curve: environment steps, seconds of training, mean true return."""
    kind, name = SIDES[side]
    settings = preset(find_task(plan.task), name, labels=plan.labels, steps=plan.steps)
    envs, rater = make_envs(plan.task, 1, seed), PartialReturnOracle("oracle", seed=seed)
    agent = kind("MlpPolicy", envs, rater, settings.config, seed=seed, **settings.options.keywords())
    agent.set_logger(configure(None, []))
    agent.start_feedback(plan.steps)
    curve, seconds = [], 0.0
    for steps in tqdm(range(0, plan.steps + 1, plan.every), desc=f"{side}, seed {seed}", unit="evaluation"):
        if steps:
            begin = time.perf_counter()
            agent.learn(plan.every, reset_num_timesteps=False)
            seconds += time.perf_counter() - begin
        state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - Stable-Baselines3's generators
        found = evaluate(agent, plan.task, episodes=plan.episodes, seed=seed)
        np.random.set_state(state[0])  # noqa: NPY002
        torch.set_rng_state(state[1])
        curve.append((steps, seconds, float(found.returns.mean())))
    return curve


def reached(curve: list[tuple[int, float, float]], goal: float) -> tuple[float, int] | None:
    """Return seconds and steps of the first evaluation that reaches the goal."""
    return next(((seconds, steps) for steps, seconds, value in curve if value >= goal), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="dmc-walker-walk-v0")
    parser.add_argument("--level", type=float, default=950.0, help="mean return of the agent on the true reward")
    parser.add_argument("--share", type=float, default=0.8)
    for name, default in {"labels": 500, "steps": 100_000, "every": 5_000, "episodes": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--curves", type=Path, default=Path("runs/time_to_result.jsonl"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    plan = Plan(args.task, args.labels, args.steps, args.every, args.episodes)
    # A curve of other code is none of this one's.
    goal, key = args.share * args.level, dataclasses.asdict(plan) | {"commit": provenance()["commit"]}
    args.curves.parent.mkdir(parents=True, exist_ok=True)
    lines = args.curves.read_text().splitlines() if args.curves.exists() else []
    kept = {(r["side"], r["seed"]): r["curve"] for r in map(json.loads, lines) if r["plan"] == key}
    for seed in args.seeds:
        for side in SIDES:
            if (side, seed) not in kept:
                kept[side, seed] = measure(side, plan, seed)
                with args.curves.open("a") as file:
                    file.write(json.dumps({"plan": key, "side": side, "seed": seed, "curve": kept[side, seed]}) + "\n")
        ours, plain = (reached(kept[side, seed], goal) for side in SIDES)
        told = [
            f"{side} {'never' if found is None else f'{found[0]:.0f} s ({found[1]} steps)'}"
            for side, found in zip(SIDES, (ours, plain), strict=True)
        ]
        total = kept["plain", seed][-1][1]
        ratio = (
            "" if ours is None else f", {'over ' if plain is None else ''}{(plain or (total,))[0] / ours[0]:.1f} times"
        )
        print(f"{plan.task}, {plan.labels} labels, seed {seed}, until {goal:.0f}: {', '.join(told)}{ratio}")


if __name__ == "__main__":
    main()
