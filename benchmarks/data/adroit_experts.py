"""How D4RL's experts for the Adroit hand score on `d4rl-door-v1` and its like, beside what D4RL tells of them.

    python -m benchmarks.data.adroit_experts FOLDER [--episodes 20] [--out docs/results/measured/adroit_experts.csv]

FOLDER holds `dapg_expert_<task>.npz`, made from the pickled policies of hand_dapg (Rajeswaran et al. 2018): the layers
w0, b0, w1, b1, w2, b2 of a tanh network, in_shift, in_scale, out_shift, out_scale, log_std.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tyro

from prefenvs.datasets.d4rl.entries import find_d4rl
from prefenvs.evaluate import evaluate
from prefenvs.internal.csv_tables import write_table
from prefenvs.runs import provenance
from prefenvs.segments import Array

TASKS = ("door", "hammer", "pen", "relocate")


class Expert:
    """A policy of hand_dapg, whose actions are sampled as D4RL sampled them."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            self.arrays = {name: np.asarray(arrays[name], np.float64) for name in arrays.files}
        self.rng = np.random.default_rng(seed)

    def predict(
        self, observation: Array, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Array, None]:
        """Return actions [..., act] for observations [..., obs]."""
        part = self.arrays
        x = (np.asarray(observation, np.float64) - part["in_shift"]) / (part["in_scale"] + 1e-8)
        for layer in ("0", "1"):
            x = np.tanh(x @ part[f"w{layer}"].T + part[f"b{layer}"])
        mean = (x @ part["w2"].T + part["b2"]) * part["out_scale"] + part["out_shift"]
        noise = np.exp(part["log_std"]) * self.rng.standard_normal(mean.shape)
        return np.clip(mean + noise, -1.0, 1.0).astype(np.float32), None


def measure(folder: Path, task: str, episodes: int) -> list[str]:
    """Return a row of the table: mean return, its standard error, normalised score, success."""
    found = evaluate(Expert(folder / f"dapg_expert_{task}.npz"), f"d4rl-{task}-v1", episodes=episodes, seed=1)
    returns = np.asarray(found.returns)
    low, high = find_d4rl(f"{task}-expert-v1").scores or (np.nan, np.nan)
    score, error = 100.0 * (returns.mean() - low) / (high - low), returns.std() / episodes**0.5
    success = "–" if found.success_rate is None else f"{found.success_rate:.0%}"
    return [f"d4rl-{task}-v1", str(episodes), f"{returns.mean():,.0f} ± {error:,.0f}", f"{high:,.0f}", f"{score:.0f}",
            success]  # fmt: skip


def run(
    folder: tyro.conf.Positional[Path],
    episodes: int = 20,
    out: Path = Path("docs/results/measured/adroit_experts.csv"),
) -> None:
    """Measure each expert.

    Args:
        folder: Where the policies are.
        episodes: Of each.
        out: The table.
    """
    rows = []
    for task in TASKS:
        rows.append(measure(folder, task, episodes))
        print(*rows[-1], sep="; ", flush=True)
    head = ("task", "episodes", "mean return ± standard error", "D4RL's expert", "normalised score", "success")
    write_table(out, head, rows)
    print(f"{out}, at {provenance()['commit']}")


if __name__ == "__main__":
    tyro.cli(run)
