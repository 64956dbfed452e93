"""SAC updates of PEBBLE against Stable-Baselines3's, on the same networks, batches and buffer contents.

Both sides sample from their replay buffers and update critics, actor, temperature and target critics. PEBBLE's actor
bounds its log-std by a tanh where Stable-Baselines3's clips it; all else is the same computation. In bfloat16 the
layers between the first and the last multiply in that type.

Run: python -m benchmarks.learners.sac_update [--threads 1] [--rounds 15] [--updates 20] [--size 256:256:17]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure

from benchmarks.interleaved import HEAD, Row, compare, machine
from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.mlp import Precision
from prefenvs.agents.online.replay import RelabelBuffer
from prefenvs.agents.online.sac import PebblePolicy, update

ACTIONS = 6
# Width of both hidden layers, batch, observation: SAC's usual size, the small preset's on Meta-World, one with a larger
# batch, and B-Pref's on DeepMind Control.
SIZES = ((256, 256, 17), (128, 256, 39), (256, 512, 39), (1024, 1024, 24))


class Blank(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces of the right sizes; never stepped."""

    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)

    def __init__(self, observations: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (observations,), np.float32)


def make_agent(width: int, observations: int, batch: int, ours: bool, device: str) -> SAC:
    agent = SAC(
        PebblePolicy if ours else "MlpPolicy",
        Blank(observations),
        batch_size=batch,
        buffer_size=100_000,
        policy_kwargs={"net_arch": [width] * 2},
        replay_buffer_class=RelabelBuffer if ours else None,
        seed=0,
        device=device,
    )
    agent.set_logger(configure(None, []))
    rng, buffer = np.random.default_rng(0), agent.replay_buffer
    assert buffer is not None
    for name in ("observations", "next_observations", "actions", "rewards"):
        array = getattr(buffer, name)
        array[:] = np.tanh(rng.standard_normal(array.shape, np.float32))
    buffer.full = True
    return agent


def updates(agent: SAC, width: int, batch: int, count: int, precision: Precision) -> Callable[[], None]:
    """Return a function that takes `count` of our updates."""
    if precision == "bfloat16":
        agent.policy.round_inner()  # type: ignore[operator]

    def run() -> None:
        with products(width):
            for _ in range(count):
                metrics = update(agent, agent.replay_buffer.draw(batch))  # type: ignore[union-attr]
        float(metrics["critic_loss"])

    return run


def measure(rounds: int = 15, updates_at_2x256: int = 20, sizes: Sequence[tuple[int, int, int]] = SIZES) -> list[Row]:
    """`updates_at_2x256`: updates in a round; fewer where they are larger."""
    rows = []
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for width, batch, observations in sizes:
        count = min(max(updates_at_2x256 * 256**3 // (width**2 * batch), 1), updates_at_2x256)
        theirs = make_agent(width, observations, batch, ours=False, device=device)
        ours = {
            f"prefenvs.agents.online.sac, {precision}": updates(
                make_agent(width, observations, batch, ours=True, device=device), width, batch, count, precision
            )
            for precision in ("float32", "bfloat16")
        }
        reference = {
            "Stable-Baselines3 SAC.train": lambda theirs=theirs, batch=batch, count=count: theirs.train(count, batch)
        }
        what = f"{count} SAC updates, 2x{width}, batch {batch}, {observations} observations"
        rows += compare(what, ours, reference, rounds)
    return rows


def width_batch_observations(text: str) -> tuple[int, int, int]:
    width, batch, observations = map(int, text.split(":"))
    return width, batch, observations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rounds": 15, "updates": 20, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--size", type=width_batch_observations, nargs="+", default=SIZES)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(HEAD, *(row.line for row in measure(args.rounds, args.updates, args.size)), sep="\n")


if __name__ == "__main__":
    main()
