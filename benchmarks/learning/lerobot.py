"""ACT by LeRobot's own trainer, weighed by a reward that was learned from preferences over recordings.

    pip install ./examples/lerobot_weighted_act       # in LeRobot's environment
    python -m benchmarks.learning.lerobot --lerobot lerobot-env/bin/python --folder drawer \
        [--out docs/results/measured/lerobot]

Data: a robot arm closes a drawer, by Meta-World's script, or by the same script that takes the drawer for 0.3 m away.
The data set holds one camera and the position of the hand, nothing of the drawer. Three trainings a seed differ in
their weights alone: none, by labels of the true return, by labels of a coin. Success is measured in the simulation.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import tyro

import prefenvs
from prefenvs.datasets import OfflineDataset, load_dataset, write_lerobot
from prefenvs.datasets.collecting import CollectionPlan, collect
from prefenvs.datasets.recorded.progress import KAPPA
from prefenvs.datasets.sources import ScriptedPolicy, Source
from prefenvs.envs.rendering.renderer import Renderer
from prefenvs.internal.csv_tables import write_table
from prefenvs.segments import Array
from prefenvs.tasks import find_task
from prefenvs.trajectories import Trajectories

TASK, SIDE, CHUNK, ACTED, HAND = "metaworld-drawer-close-v3", 64, 20, 10, 4
"""`ACTED`: steps of a chunk that are taken; `HAND`: what a robot measures in itself, where its hand is and how open."""
DRAWER = 5
"""Entry of the observation that tells how far the drawer is open; no policy sees it."""
AWAY = np.array([0.25, -0.15, 0.1])
TITLES = {"plain": "none", "coin": "by labels of a coin", "oracle": "by labels of the true return"}
SERVE = f"""
import sys, numpy as np, torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot_policy_weighted_act import WeightedACTPolicy
out, sys.stdout = sys.stdout.buffer, sys.stderr
policy = WeightedACTPolicy.from_pretrained(sys.argv[1]).eval()
before, after = make_pre_post_processors(policy.config, sys.argv[1])
while state := sys.stdin.buffer.read({4 * HAND}):
    state = np.frombuffer(state, np.float32).copy()
    picture = np.frombuffer(sys.stdin.buffer.read({3 * SIDE * SIDE}), np.uint8).reshape({SIDE}, {SIDE}, 3).copy()
    seen = {{"observation.state": torch.from_numpy(state),
            "observation.images.camera": torch.from_numpy(picture).permute(2, 0, 1) / 255}}
    policy.reset()
    with torch.no_grad():
        actions = [after(policy.select_action(before(dict(seen)))).numpy()[0] for _ in range({ACTED})]
    out.write(np.array(actions, np.float32).tobytes()); out.flush()
"""
"""Reads an observation, writes the actions that the policy takes before it looks again."""


@dataclass(frozen=True)
class Options:
    """What is made and trained."""

    lerobot: Path
    """Python of an environment with LeRobot 0.4.4 and the plug-in, beside which `lerobot-train` lies."""
    folder: Path
    """Where data, labels, rewards and policies are kept; what is there is not made again."""
    good: int = 16
    """Episodes of the script."""
    bad: int = 24
    """Episodes of the misled script."""
    pairs: int = 150
    """Labels."""
    steps: int = 200
    """Updates of a policy, of 8 samples."""
    arms: tuple[Literal["plain", "oracle", "coin"], ...] = ("plain", "oracle", "coin")
    """Weights of the trainings: none, by a reward of labels of the true return, by one of labels of a coin."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the trainings."""
    episodes: int = 20
    """Episodes in which a policy is measured."""
    out: Path | None = None
    """Write weights.csv and policies.csv into this folder."""


class MisledScript:
    """Meta-World's script, that takes the object for somewhere else."""

    def __init__(self, script: ScriptedPolicy) -> None:
        self.script = script

    def predict(self, observation: Any, *state: Any, **options: Any) -> tuple[Array, None]:
        """Return the script's actions [N, 4] for observations with the object moved."""
        moved = np.array(observation)
        moved[:, 4:7] += AWAY
        return self.script.predict(moved)


def load_script(source: Source, *_: Any) -> Any:
    script = ScriptedPolicy(find_task(TASK))
    return script if source.policy == "scripted" else MisledScript(script)


def make_dataset(options: Options) -> Path:
    """Collect, and write what a robot would have recorded as a LeRobot data set."""
    folder = options.folder / "data"
    if not folder.exists():
        sources = (Source("scripted", 0.1, 0.0, options.good), Source("misled", 0.1, 0.0, options.bad))
        plan = CollectionPlan(TASK, sources, after_success=10)
        whole = collect(plan, options.folder / "simulated", load=load_script, progress=report)
        data = whole.trajectories
        short = np.minimum(data.lengths, 100)
        rows = np.concatenate([begin + np.arange(n) for begin, n in zip(data.begins, short, strict=True)])
        assert data.true_rewards is not None
        assert data.states is not None
        seen = replace(
            data,
            observations=data.observations[rows, :HAND],
            actions=data.actions[rows],
            true_rewards=data.true_rewards[rows],
            states=data.states[rows],
            ends=np.cumsum(short),
            final_observations=None,
            terminated=None,
        )
        write_lerobot(replace(whole, trajectories=seen), folder, size=SIDE)
    return folder


def report(episode: Any) -> None:
    print(episode.label, "success" if episode.success else "no success", flush=True)


def run(*command: object) -> str:
    """Run a command, keep what it says, and stop with it where it fails."""
    print("$", *command, flush=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return done.stdout


def learn_reward(options: Options, data: Path, rater: str) -> Path:
    """Label pairs, fit a reward of pictures and hand to them, and return the progress that it makes."""
    progress = options.folder / f"{rater}.parquet"
    store = options.folder / f"{rater}.sqlite"
    own = [sys.executable, "-m", "prefenvs"]
    if not progress.exists():
        pairs = ("--dataset", data, "--pairs", options.pairs, "--segment-length", CHUNK)
        run(*own, "rate", *pairs, "--oracle", rater, "--store", store, "--no-progress")
        how = ("--preferences", store, "--folder", options.folder / rater, "--chunk", CHUNK, "--proprioception")
        encoder = ("--encoder", "benchmarks.learning.lerobot:encoder")
        print(run(*own, "reward", data, *how, *encoder, "--progress-to", progress))
    return progress


def encoder() -> Any:
    """Return two convolutions with fixed random weights, from pictures [N, 3, 64, 64] to features."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, 4), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 5, 3), torch.nn.Flatten()
    )
    layers.size = SIDE  # type: ignore[assignment]
    return layers


def train(options: Options, data: Path, seed: int, weights: Path | None) -> Path:
    """Train ACT by `lerobot-train` and return its checkpoint."""
    name = f"act-{'plain' if weights is None else weights.stem}-{seed}"
    folder = options.folder / name
    flags = {
        "dataset.repo_id": "me/drawer", "dataset.root": data, "dataset.video_backend": "pyav", "seed": seed,
        "policy.type": "weighted_act", "policy.push_to_hub": "false", "policy.device": "cpu",
        "policy.pretrained_backbone_weights": "null", "policy.chunk_size": CHUNK, "policy.n_action_steps": ACTED,
        "policy.dim_model": 128, "policy.n_heads": 4, "policy.dim_feedforward": 256, "policy.n_encoder_layers": 1,
        "policy.use_vae": "false", "policy.optimizer_lr": 5e-4, "batch_size": 8, "steps": options.steps,
        "num_workers": 0, "wandb.enable": "false", "save_freq": options.steps, "log_freq": 50, "output_dir": folder,
    }  # fmt: skip
    if weights is not None:
        flags |= {"use_rabc": "true", "rabc_progress_path": weights}
    last = folder / "checkpoints" / "last" / "pretrained_model"
    if not last.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(options.lerobot.with_name("lerobot-train"), *(f"--{key}={value}" for key, value in flags.items()))
    return last


def measure(options: Options, checkpoint: Path) -> dict[str, float]:
    """Return the share of episodes in which a policy closes the drawer, and how far it moves it on average, in cm."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [str(options.lerobot), "-c", SERVE, str(checkpoint)]
    task, env = find_task(TASK), prefenvs.make(TASK)
    won, moved = [], []
    with (
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server,
        Renderer(task, SIDE, SIDE) as renderer,
    ):
        assert server.stdin is not None
        assert server.stdout is not None
        for episode in range(options.episodes):
            observation, info = env.reset(seed=10_000 + episode)
            closed, begun = 0.0, observation[DRAWER]
            for step in range(100):
                if step % ACTED == 0:
                    picture = renderer.frames(info["state"][None], info.get("scene"))[0]
                    server.stdin.write(observation[:HAND].astype(np.float32).tobytes() + picture.tobytes())
                    server.stdin.flush()
                    chunk = np.frombuffer(server.stdout.read(ACTED * 16), np.float32).reshape(ACTED, 4)
                observation, _, _, _, info = env.step(np.clip(chunk[step % ACTED], -1, 1))
                closed = float(info[task.success_key or ""])
                if closed:
                    break
            won.append(closed)
            moved.append(100 * (observation[DRAWER] - begun))
        server.stdin.close()
    env.close()
    return {"success": float(np.mean(won)), "moved": float(np.mean(moved))}


def weigh(progress: Array, data: Trajectories) -> Array:
    """Return LeRobot's weights of all steps but the last of each episode, by its reward-aligned behaviour cloning."""
    first = np.setdiff1d(np.arange(len(progress)), data.ends - 1)
    last = np.repeat(data.ends - 1, data.lengths - 1)
    gain = progress[np.minimum(first + CHUNK, last)] - progress[first]
    low, spread = max(gain.mean(), 0.0) - 2 * gain.std(), gain.std()
    shares = np.clip((gain - low) / (4 * spread + 1e-6), 0.0, 1.0)
    return np.where(gain > KAPPA, 1.0, np.where(gain >= 0.0, shares, 0.0))


def describe_weights(progress: Array | None, data: Trajectories, good: Array) -> tuple[str, str]:
    """Return the share of the weight on good episodes, and how many of these lie in the half of more learned reward."""
    own = np.repeat(good, data.lengths - 1)
    if progress is None:
        return f"{own.mean():.0%}", ""
    weights, rewards = weigh(progress, data), progress[data.ends - 1] / (data.lengths - 1)
    better = np.argsort(rewards)[len(rewards) // 2 :]
    return f"{weights[own].sum() / weights.sum():.0%}", str(good[better].sum())


def write_tables(folder: Path, options: Options, data: OfflineDataset, arms: dict[str, Path | None],
                 results: dict[str, dict[str, float]]) -> None:  # fmt: skip
    """Write what the weights fall on, and what the policies came to."""
    assert data.successes is not None
    good, rows, weights = data.successes > 0.0, [], []
    for arm in [arm for arm in TITLES if arm in options.arms]:
        path = arms[arm]
        progress = None if path is None else pq.read_table(path)["progress_sparse"].to_numpy()
        weights.append((TITLES[arm], *describe_weights(progress, data.trajectories, good)))
        found = [results[f"{arm}-{seed}"] for seed in options.seeds]
        pairs = np.array([[one["success"], one["moved"]] for one in found])
        rows.append([TITLES[arm], *(f"{won:.0%}, {moved:.1f} cm" for won, moved in [*pairs, pairs.mean(0)])])
    heads = "share on the script that succeeds", f"of its {good.sum()} episodes among the better {len(good) // 2}"
    write_table(folder / "weights.csv", ("weights", *heads), weights)
    write_table(folder / "policies.csv", ("weights", *(f"seed {seed}" for seed in options.seeds), "mean"), rows)


def main(options: Options) -> None:
    """Make what is missing, train, measure, and print what each training came to."""
    options.folder.mkdir(parents=True, exist_ok=True)
    data = make_dataset(options)
    loaded = load_dataset(data)
    print("success of the data's episodes", None if loaded.successes is None else float(loaded.successes.mean()))
    arms: dict[str, Path | None] = {"plain": None}
    arms |= {rater: learn_reward(options, data, rater) for rater in ("oracle", "coin")}
    kept = options.folder / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    for name, seed in itertools.product(options.arms, options.seeds):
        found = results.get(f"{name}-{seed}")
        if found is None:
            found = results[f"{name}-{seed}"] = measure(options, train(options, data, seed, arms[name]))
            kept.write_text(json.dumps(results, indent=2) + "\n")
        print(f"{name} {seed}: closed in {found['success']:.0%}, moved by {found['moved']:.1f} cm", flush=True)
    if options.out is not None:
        write_tables(options.out, options, loaded, arms, results)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
