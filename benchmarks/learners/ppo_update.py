"""One training phase of PrefPPO against Stable-Baselines3's PPO: the same networks, rollout and minibatches.

PrefPPO's has the Gaussian's log-probabilities in closed form, Adam on one vector, minibatches cut from tensors, metrics
read once, and other kernels for its products; it normalises its observations on top.

Run: python -m benchmarks.learners.ppo_update [--threads 1] [--rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.interleaved import HEAD, Row, compare, machine
from prefenvs.agents import PrefPPO, PrefPPOConfig
from prefenvs.agents.nets.kernels import products

OBSERVATIONS, ACTIONS, ENVS, STEPS = 24, 6, 8, 128


class Blank(gymnasium.Env[np.ndarray, np.ndarray]):
    """Spaces of walker-walk's sizes; never stepped."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (ACTIONS,), np.float32)


def make_agent(ours: bool) -> PPO:
    settings = {"n_steps": STEPS, "batch_size": 64, "n_epochs": 1, "seed": 0, "device": "cpu", "learning_rate": 5e-5}
    envs = DummyVecEnv([Blank] * ENVS)
    agent: PPO
    if ours:
        config = PrefPPOConfig(true_reward=True)
        agent = PrefPPO("MlpPolicy", envs, None, config, **settings)  # type: ignore[arg-type]
    else:
        network = {"net_arch": [256] * 3}
        agent = PPO("MlpPolicy", envs, gae_lambda=0.92, clip_range=0.4, policy_kwargs=network, **settings)  # type: ignore[arg-type]
    agent.set_logger(configure(None, []))
    rng, buffer = np.random.default_rng(0), agent.rollout_buffer
    for name in ("observations", "actions", "rewards", "advantages", "returns", "values"):
        array = getattr(buffer, name)
        array[:] = rng.standard_normal(array.shape, np.float32)
    buffer.log_probs[:] = -6.0
    buffer.full = True
    return agent


def fast(agent: PPO) -> Callable[[], None]:
    def run() -> None:
        with products():
            agent.train()

    return run


def measure(rounds: int = 7) -> list[Row]:
    reference = make_agent(ours=False)
    what = f"a PPO epoch of {ENVS * STEPS // 64} minibatches of 64, 3x256"
    return compare(
        what, {"PrefPPO.train": fast(make_agent(ours=True))}, {"Stable-Baselines3 PPO.train": reference.train}, rounds
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(HEAD, *(row.line for row in measure(args.rounds)), sep="\n")


if __name__ == "__main__":
    main()
