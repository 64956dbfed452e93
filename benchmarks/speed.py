"""Every speed comparison of this folder in one table of ratios, written with machine and versions to a file.

A ratio says how many times longer the reference takes than prefenvs for the same work, measured in turns in the same
process. Each comparison is also a script of its own, with options and more figures: sac_update, ppo_update,
knn_entropy, pebble_run, offline_updates, seeds, segment_sampling, query_selection, reward_training, relabelling,
rendering, store. Where D3RLPY_PYTHON names the interpreter of an environment that has d3rlpy, its IQL takes part too.

Run: python -m benchmarks.speed [--threads 1] [--quick] [--only sac ...] [--out benchmarks/results/DATE.md]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.data import query_selection, segment_sampling, store
from benchmarks.interleaved import HEAD, Row, compare, from_seconds, machine
from benchmarks.learners import knn_entropy, offline_updates, pebble_run, ppo_update, sac_update, seeds
from benchmarks.rewards import relabelling, reward_training
from prefenvs import Trajectories
from prefenvs.agents import BC, CPL, IQL, BCConfig, CPLConfig, IQLConfig, RewardConfig, RewardEnsemble
from prefenvs.agents.nets.kernels import onednn_is_exact, products
from prefenvs.agents.nets.mlp import Precision
from prefenvs.agents.offline.single_loss import SingleLossLearner
from prefenvs.envs.rendering.gl import gl_backend
from prefenvs.preferences import Preference, make_pairs
from prefenvs.queries import k_center
from prefenvs.runs import provenance

RESULTS = Path(__file__).parent / "results"


def sac(quick: bool) -> list[Row]:
    return sac_update.measure(rounds=5 if quick else 25)


def ppo(quick: bool) -> list[Row]:
    return ppo_update.measure(rounds=3 if quick else 15)


def entropy(quick: bool) -> list[Row]:
    return knn_entropy.measure(rounds=2 if quick else 7)


def pebble(quick: bool) -> list[Row]:
    if quick:
        return pebble_run.measure(steps=2_000, chunk=200)
    return pebble_run.measure(steps=50_000, chunk=2_500)


def offline(quick: bool) -> list[Row]:
    """Learners as they are, compiled, and in bfloat16."""
    dataset = offline_updates.make_data(20_000)
    rewards = dataset.trajectories.true_rewards
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = make_pairs(dataset.trajectories.sample(1_000, 64, np.random.default_rng(0)))
    preferences = [Preference(query, np.array([1.0, 0.0])) for query in pairs]
    rounds, rows = 3 if quick else 9, []

    def three(make: Callable[[Precision], SingleLossLearner[Any]]) -> dict[str, SingleLossLearner[Any]]:
        name = type(make("float32")).__name__
        ways = {"": make("float32"), ", compiled": make("float32").compile(), ", bfloat16": make("bfloat16")}
        return {f"agents.{name}{way}": learner.learn(3) for way, learner in ways.items()}

    def learn(learner: SingleLossLearner[Any], count: int) -> Callable[[], object]:
        return lambda: learner.learn(count, reset_num_timesteps=False)

    def step(plain: Any, count: int) -> Callable[[], object]:
        return lambda: [plain.step() for _ in range(count)]

    for width in (256, 128):
        config = IQLConfig(hidden=(width, width))
        learners = three(lambda p: IQL(dataset, rewards=rewards, config=replace(config, precision=p), device=device))  # noqa: B023
        plain = {"a single-file loop": step(offline_updates.PlainIQL(dataset, config, device), 100)}
        ways = {way: learn(learner, 100) for way, learner in learners.items()}
        rows += compare(f"100 updates of IQL, 2x{width}, batch 256", ways, plain, rounds)
    cpl = CPLConfig(pretrain_updates=0, warmup_updates=0)
    learners = three(lambda p: CPL(dataset, preferences, replace(cpl, precision=p), device=device))
    plain = {"a single-file loop": step(offline_updates.PlainCPL(preferences, cpl, device), 4)}
    rows += compare("4 updates of CPL, 96 pairs", {w: learn(one, 4) for w, one in learners.items()}, plain, rounds)
    bc = BCConfig(hidden=(128, 128))
    ways = {w: learn(one, 100) for w, one in three(lambda p: BC(dataset, config=replace(bc, precision=p))).items()}
    eager = {"agents.BC": ways.pop("agents.BC")}
    return rows + compare("100 updates of BC, 2x128, batch 256", ways, eager, rounds)


def d3rlpy(quick: bool) -> list[Row]:
    """Its IQL needs an environment of its own; it waits in a process there while ours runs, and the other way round."""
    python = os.environ["D3RLPY_PYTHON"]
    dataset, count = offline_updates.make_data(50_000), 50
    learner = IQL(dataset, rewards=dataset.trajectories.true_rewards, device="cpu")
    steps = offline_updates.d3rlpy_way(python, torch.get_num_threads(), "cpu")
    return compare(
        f"{count} updates of IQL, 2x256, batch 256",
        {"agents.IQL": lambda: learner.learn(count, reset_num_timesteps=False)},
        {"d3rlpy's IQL": lambda: steps(count)},
        3 if quick else 9,
    )


def many_seeds(quick: bool) -> list[Row]:
    device, rounds = "cuda" if torch.cuda.is_available() else "cpu", 2 if quick else 5
    count = 3 if quick else 10
    return seeds.measure(count, device, rounds) + seeds.measure_rewards(count, device, rounds)


def reward(quick: bool) -> list[Row]:
    rng = np.random.default_rng(0)
    size = reward_training.OBSERVATIONS + reward_training.ACTIONS
    inputs = rng.standard_normal((500, 2, 50, size)).astype(np.float32)
    labels = inputs[..., 0].sum(-1).argmax(-1)
    fit = reward_training.ensemble(inputs, labels, "float32")
    references = {"a loop over members": reward_training.plain_loop(inputs, labels)}
    with tempfile.TemporaryDirectory() as folder:
        references["imitation's EnsembleTrainer"] = reward_training.imitation_trainer(inputs, labels, folder)
        what = "a pass over 500 pairs of 50 steps, 3 members"
        return compare(what, {"RewardEnsemble.fit": _fast(fit)}, references, 2 if quick else 7)


def relabel(quick: bool) -> list[Row]:
    count = 20_000 if quick else 200_000
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((count, relabelling.OBSERVATIONS), np.float32)
    actions = rng.uniform(-1, 1, (count, relabelling.ACTIONS)).astype(np.float32)
    model = RewardEnsemble(relabelling.OBSERVATIONS, relabelling.ACTIONS, RewardConfig(), seed=0)
    members = relabelling.member_networks(model)
    return compare(
        f"relabelling {count} transitions, 3 members",
        {"RewardEnsemble": _fast(lambda: model.mean_and_std(observations, actions))},
        {"members one by one, batches of 200": lambda: relabelling.relabel_in_batches(members, observations, actions)},
        2 if quick else 5,
    )


def sampling(quick: bool) -> list[Row]:
    rng = np.random.default_rng(0)
    observations, actions = (rng.normal(size=(100_000, size)).astype(np.float32) for size in (24, 6))
    ends = np.arange(1_000, 100_001, 1_000)
    pool = Trajectories(observations, actions, ends, rng.normal(size=100_000))
    assert pool.true_rewards is not None
    parts = [np.split(array, ends[:-1]) for array in (pool.observations, pool.actions, pool.true_rewards)]
    episodes = [(o.copy(), a.copy(), r.copy()) for o, a, r in zip(*parts, strict=True)]
    references: dict[str, Callable[[], object]] = {
        "a loop over segments": lambda: segment_sampling.sample_by_loop(episodes, 1_000, 50, rng),
        "B-Pref's way": lambda: segment_sampling.sample_by_stack(episodes, 1_000, 50, rng),
    }
    fragments = segment_sampling.imitation_sampler(episodes, 1_000, 50)
    if fragments is not None:
        references["imitation's RandomFragmenter"] = fragments
    ours = {"Trajectories.sample": lambda: pool.sample(1_000, 50, rng)}
    return compare("1000 segments of 50 steps", ours, references, 3 if quick else 15)


def selection(quick: bool) -> list[Row]:
    rng = np.random.default_rng(0)
    features, centres = (rng.normal(size=(n, 2_400)).astype(np.float32) for n in (200, 100))
    return compare(
        "k-centre choice of 10 among 200 pairs",
        {"prefenvs.queries": lambda: k_center(features, centres, 10)},
        {"distances rebuilt for each": lambda: query_selection.k_center_rebuilt(features, centres, 10)},
        1 if quick else 3,
    )


def rendering(quick: bool) -> list[Row]:
    import prefenvs
    from benchmarks.raters import rendering as frames
    from prefenvs.envs.rendering.renderer import Renderer

    rows = []
    for task_id in ("HalfCheetah-v5", "metaworld-drawer-open-v3"):
        task = prefenvs.find_task(task_id)
        states, scene, model = frames.record_states(task_id, 10)
        plain = frames.Reference(task, model, scene, 256)
        with Renderer(task, 256, 256) as fast:
            ours = {"prefenvs.Renderer": lambda: [fast.frame(state, scene) for state in states]}  # noqa: B023
            theirs = {"mujoco.Renderer, default flags": lambda: [plain.frame(state) for state in states]}  # noqa: B023
            rows += compare(f"10 frames of {task_id}, 256 x 256", ours, theirs, 2 if quick else 5)
        plain.close()
    return rows


def storing(quick: bool) -> list[Row]:
    options = store.Options(queries=2_000 if quick else 10_000, single=100)
    found: list[tuple[dict[str, float], dict[str, float]]] = []
    for seed in range(2 if quick else 3):
        with tempfile.TemporaryDirectory() as name:
            plain = store.measure_plain(Path(name), options, seed)
            found.append((store.measure_store(Path(name), options, seed), plain))
    rows = []
    for name in found[0][1]:
        per_item = ([1.0 / rates[i][name] for rates in found] for i in (0, 1))
        rows.append(from_seconds(f"an item of: {name.replace('/s', '')}", "Store", "a row for each label", *per_item))
    return rows


def _fast(run: Callable[[], object]) -> Callable[[], object]:
    """Run as the agents do, by the fastest products that are exact."""

    def inside() -> None:
        with products():
            run()

    return inside


COMPARISONS: dict[str, Callable[[bool], list[Row]]] = {
    "sac": sac,
    "ppo": ppo,
    "offline": offline,
    "seeds": many_seeds,
    "reward": reward,
    "relabel": relabel,
    "entropy": entropy,
    "sampling": sampling,
    "selection": selection,
    "store": storing,
    "rendering": rendering,
    "pebble": pebble,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="PyTorch threads; small networks are slower with more")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, shorter runs")
    parser.add_argument("--only", nargs="*", choices=list(COMPARISONS), default=list(COMPARISONS))
    parser.add_argument("--out", type=Path, default=RESULTS / f"{date.today()}.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    # MuJoCo takes the backend that is set when it is first imported.
    gl_backend()
    kernels = "oneDNN's, exact here" if onednn_is_exact() else "PyTorch's own"
    commit = str(provenance()["commit"])[:7]
    about = f"{machine()}; commit {commit}; float32 products: {kernels}."
    lines = [f"# Speed, {date.today()}", "", about, "", HEAD]
    print(*lines, sep="\n", flush=True)
    failed = []
    if "D3RLPY_PYTHON" in os.environ:
        COMPARISONS["d3rlpy"] = d3rlpy
        args.only.append("d3rlpy")
    for name in args.only:
        begin = time.perf_counter()
        try:
            rows = [row.line for row in COMPARISONS[name](args.quick)]
        except Exception:
            traceback.print_exc()
            failed.append(name)
            continue
        lines += rows
        print(*rows, sep="\n", flush=True)
        print(f"({name} took {time.perf_counter() - begin:.0f} s)", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")
    print(f"written to {args.out}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
