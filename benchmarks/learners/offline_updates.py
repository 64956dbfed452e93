"""Gradient steps per second of IQL and CPL against plain loops of the same maths, and d3rlpy's IQL, in one run.

    python -m benchmarks.learners.offline_updates [--rounds 5] [--device cpu] [--threads 2] [--d3rlpy PYTHON]

The plain loops are what single-file implementations do: one module for each critic, an optimiser for each network, a
batch chosen by NumPy and copied to the device, targets moved parameter by parameter, losses read at every step. All
take turns; the figure of each is its best round's rate, the ratio the median over rounds. --d3rlpy is the interpreter
of an environment with d3rlpy, whose IQL then takes part in a process of its own that waits while others run.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn.functional import softplus

from prefenvs.agents import CPL, IQL, CPLConfig, IQLConfig
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.preferences import Preference, make_pairs
from prefenvs.trajectories import Trajectories

OBSERVATIONS, ACTIONS, EPISODE = 17, 6, 1_000
D3RLPY = """
import sys, time, numpy as np, d3rlpy
import torch
torch.set_num_threads(int(sys.argv[1]))
rng = np.random.default_rng(0)
n = 50_000
dataset = d3rlpy.dataset.MDPDataset(
    rng.normal(size=(n, 17)).astype(np.float32), rng.uniform(-1, 1, (n, 6)).astype(np.float32),
    rng.normal(size=n).astype(np.float32), np.zeros(n, np.float32), np.arange(1, n + 1) % 1000 == 0)
iql = d3rlpy.algos.IQLConfig(batch_size=256).create(device=sys.argv[2])
iql.build_with_dataset(dataset)
def steps(count):
    for _ in range(count):
        iql.update(dataset.sample_transition_batch(256))
steps(20)
for line in sys.stdin:
    begin = time.perf_counter()
    steps(int(line))
    print("rate", int(line) / (time.perf_counter() - begin), flush=True)
"""


def make_data(steps: int) -> OfflineDataset:
    rng = np.random.default_rng(0)
    trajectories = Trajectories(
        rng.normal(size=(steps, OBSERVATIONS)).astype(np.float32),
        rng.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
        np.arange(EPISODE, steps + 1, EPISODE),
        rng.normal(size=steps),
    )
    return OfflineDataset("random", trajectories)


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers[: -2 if dropout else -1])


class PlainIQL:
    """IQL as a single file has it."""

    def __init__(self, dataset: OfflineDataset, config: IQLConfig, device: str) -> None:
        c, hidden = config, list(config.hidden)
        self.config, self.device, self.rng = config, device, np.random.default_rng(0)
        self.q = nn.ModuleList(mlp([OBSERVATIONS + ACTIONS, *hidden, 1]) for _ in range(2)).to(device)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.v = mlp([OBSERVATIONS, *hidden, 1]).to(device)
        self.actor = mlp([OBSERVATIONS, *hidden, ACTIONS]).to(device)
        self.log_std = nn.Parameter(torch.zeros(ACTIONS, device=device))
        self.q_adam = torch.optim.Adam(self.q.parameters(), lr=c.learning_rate)
        self.v_adam = torch.optim.Adam(self.v.parameters(), lr=c.learning_rate)
        self.a_adam = torch.optim.Adam([*self.actor.parameters(), self.log_std], lr=c.learning_rate)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.a_adam, 1_000_000)
        data = dataset.transitions()
        assert data.true_rewards is not None
        self.arrays = [data.observations, data.actions, data.next_observations, data.true_rewards, data.terminals]

    def step(self) -> None:
        """Make one gradient step."""
        c = self.config
        index = self.rng.integers(len(self.arrays[0]), size=c.batch_size)
        o, a, o2, r, d = (torch.as_tensor(x[index]).to(self.device) for x in self.arrays)
        oa = torch.cat([o, a], 1)
        with torch.no_grad():
            q_low = torch.min(*(q(oa) for q in self.q_target)).squeeze(-1)
            next_v = self.v(o2).squeeze(-1)
        v = self.v(o).squeeze(-1)
        u = q_low - v
        v_loss = (torch.abs(c.expectile - (u < 0).float()) * u**2).mean()
        self.v_adam.zero_grad()
        v_loss.backward()
        self.v_adam.step()
        target = r + (1.0 - d) * c.discount * next_v
        q_loss = sum(((q(oa).squeeze(-1) - target) ** 2).mean() for q in self.q) / 2
        self.q_adam.zero_grad()
        q_loss.backward()
        self.q_adam.step()
        with torch.no_grad():
            for target_p, p in zip(self.q_target.parameters(), self.q.parameters(), strict=True):
                target_p.copy_((1 - c.target_rate) * target_p + c.target_rate * p)
        weight = torch.exp(c.inv_temperature * u.detach()).clamp(max=c.weight_clip)
        mean = torch.tanh(self.actor(o))
        policy = torch.distributions.Normal(mean, self.log_std.clamp(-20, 2).exp())
        a_loss = (weight * -policy.log_prob(a).sum(-1)).mean()  # type: ignore[no-untyped-call]
        self.a_adam.zero_grad()
        a_loss.backward()
        self.a_adam.step()
        self.schedule.step()
        _ = v_loss.item(), q_loss.item(), a_loss.item()


class PlainCPL:
    """CPL's contrastive stage with segments in NumPy, each batch copied to the device."""

    def __init__(self, preferences: list[Preference], config: CPLConfig, device: str) -> None:
        self.config, self.device, self.rng = config, device, np.random.default_rng(0)
        self.actor = nn.Sequential(mlp([OBSERVATIONS, *config.hidden, ACTIONS], config.dropout), nn.Tanh()).to(device)
        self.adam = torch.optim.Adam(self.actor.parameters(), lr=config.learning_rate)
        sides = [[preference.query.segments[i] for preference in preferences] for i in (0, 1)]
        self.observations = [np.stack([segment.observations for segment in side]) for side in sides]
        self.actions = [np.stack([segment.actions for segment in side]) for side in sides]
        chances = [one.probabilities[1] for one in preferences if one.probabilities is not None]
        self.labels = np.array(chances, np.float32)

    def step(self) -> None:
        """Make one gradient step."""
        c = self.config
        index = self.rng.integers(len(self.labels), size=c.batch_size)
        o = torch.cat([torch.as_tensor(x[index]).to(self.device) for x in self.observations])
        a = torch.cat([torch.as_tensor(x[index]).to(self.device) for x in self.actions])
        y = torch.as_tensor(self.labels[index]).to(self.device)
        log_probs = -torch.square(self.actor(o) - a).sum(-1)
        first, second = (c.alpha * log_probs).sum(-1).chunk(2)
        loss = y * softplus(c.conservative * first - second) + (1 - y) * softplus(c.conservative * second - first)
        loss, bc = loss.mean(), -log_probs.mean()
        self.adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adam.step()
        _ = loss.item(), bc.item(), ((second > first) == (y > 0.5)).float().mean().item()


def rate(step: Callable[[], object], count: int, device: str) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        step()
    if device != "cpu":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - begin)


def compare(title: str, ways: dict[str, Callable[[int], float]], count: int, rounds: int) -> None:
    """Let the ways take turns, and print their best rates and the first one's median ratio to each other."""
    for way in ways.values():
        way(max(count // 10, 2))
    rates = [{name: way(count) for name, way in ways.items()} for _ in range(rounds)]
    first, *others = ways
    print(f"{title}: {first} {max(r[first] for r in rates):.1f} gradient steps/s")
    for other in others:
        ratio = statistics.median(r[first] / r[other] for r in rates)
        print(f"  {other} {max(r[other] for r in rates):.1f}; ratio {ratio:.2f}")


def ours(learner: IQL | CPL) -> Callable[[int], float]:
    def run(count: int) -> float:
        begin = time.perf_counter()
        learner.learn(count, reset_num_timesteps=False)
        if learner.device.type != "cpu":
            torch.cuda.synchronize()
        return count / (time.perf_counter() - begin)

    return run


def d3rlpy_way(python: str, threads: int, device: str) -> Callable[[int], float]:
    process = subprocess.Popen(
        [python, "-c", D3RLPY, str(threads), "cpu" if device == "cpu" else "cuda:0"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    told, heard = process.stdin, process.stdout
    assert told is not None
    assert heard is not None

    def run(count: int) -> float:
        print(count, file=told, flush=True)
        for line in heard:
            if line.startswith("rate "):
                return float(line.split()[1])
        raise SystemExit("d3rlpy ended early; see its message above")

    return run


def measure_memory(device: str) -> None:
    """Print what a learner adds to a data set of a million steps, over the size of its transitions as arrays."""
    dataset = make_data(1_000_000)
    transition = 2 * OBSERVATIONS + ACTIONS + 2
    arrays = 4 * transition * len(dataset.trajectories.observations)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    begin = time.perf_counter()
    learner = IQL(dataset, rewards=dataset.trajectories.true_rewards, device=device)
    seconds = time.perf_counter() - begin
    assert learner.data is not None
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    grown = after - before
    on_device = learner.data.nbytes
    print(f"1,000,000 steps, as arrays of transitions {arrays / 1e6:.0f} MB, loaded in {seconds:.2f} s")
    print(
        f"  on the device {on_device / 1e6:.0f} MB ({on_device / arrays:.2f} times), on a CPU mostly the data set's own"
    )
    print(f"  the process's peak grew by {grown / 1e6:.0f} MB ({grown / arrays:.2f} times)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200, help="IQL's gradient steps in a round; CPL makes a twentieth")
    parser.add_argument("--d3rlpy", default=None, help="interpreter of an environment that has d3rlpy")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measure_memory(options.device)
    dataset = make_data(50_000)
    rewards = dataset.trajectories.true_rewards
    plain = PlainIQL(dataset, IQLConfig(), options.device)
    ways = {
        "prefenvs": ours(IQL(dataset, rewards=rewards, device=options.device)),
        "plain loop": lambda count: rate(plain.step, count, options.device),
    }
    if options.d3rlpy:
        ways["d3rlpy"] = d3rlpy_way(options.d3rlpy, options.threads, options.device)
    compare("IQL, 2x256, batches of 256", ways, options.steps, options.rounds)
    segments = dataset.trajectories.sample(2_000, 64, np.random.default_rng(0))
    preferences = [Preference(query, np.array([1.0, 0.0])) for query in make_pairs(segments)]
    config = CPLConfig(pretrain_updates=0, warmup_updates=0)
    loop = PlainCPL(preferences, config, options.device)
    ways = {
        "prefenvs": ours(CPL(dataset, preferences, config, device=options.device)),
        "plain loop": lambda count: rate(loop.step, count, options.device),
    }
    count = max(options.steps // (20 if options.device == "cpu" else 1), 5)
    compare("CPL, 2x512, batches of 96 pairs of 64 steps", ways, count, options.rounds)


if __name__ == "__main__":
    main()
