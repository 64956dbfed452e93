"""A whole PEBBLE run, from the first step to the last, against the same run put together the plain way.

The plain way is Stable-Baselines3's SAC as it is (its policy, optimisers, update, sampling and action selection) with
B-Pref's procedures around it: the state entropy by differences to every state, the reward of each new transition as it
comes, relabelling in batches of 200, a loop over ensemble members wherever rewards are predicted. Environment, rater,
recording of episodes and the fitting of the reward are shared. Both sides run their stages in turn: a round is
`--chunk` environment steps of each, so a round's ratio compares what happened at the same stage of training.

Run: python -m benchmarks.learners.pebble_run
    [--task metaworld-door-close-v3] [--steps 10000] [--chunk 1000] [--threads 1]
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import configure
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.policies import SACPolicy
from tqdm import tqdm

from benchmarks.interleaved import HEAD, Row, from_seconds, machine
from benchmarks.learners.knn_entropy import distances_by_differences
from benchmarks.rewards.relabelling import member_networks, relabel_in_batches
from prefenvs.agents import PEBBLE, RewardEnsemble
from prefenvs.agents.online.pebble import preset
from prefenvs.agents.online.sac import NETWORKS, SACConfig
from prefenvs.agents.registry import Settings
from prefenvs.envs.vectors import make_envs
from prefenvs.oracles import PartialReturnOracle
from prefenvs.segments import Array
from prefenvs.tasks import find_task

PASSES = 2
"""Of each fit over the labels, on both sides: until it predicts them it would take more on one by chance."""


class PlainPolicy(SACPolicy):
    """Stable-Baselines3's policy, whose critics can start afresh; it has no layer norm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        plain = {name: getattr(SACConfig, name) for name in NETWORKS}
        assert {name: kwargs.pop(name, plain[name]) for name in NETWORKS} == plain, "the plain way has plain critics"
        super().__init__(*args, **kwargs)

    def see(self, observations: Array) -> None:
        """Normalise nothing."""

    def reset_critic(self, learning_rate: float) -> None:
        """Forget the critics."""
        for layer in self.critic.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic.optimizer = torch.optim.Adam(self.critic.parameters(), lr=learning_rate)


class PlainPEBBLE(PEBBLE):
    """PEBBLE by Stable-Baselines3's own SAC and B-Pref's procedures."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": PlainPolicy}

    def _setup_model(self) -> None:
        super()._setup_model()
        assert self.log_ent_coef is not None
        self.ent_coef_optimizer = torch.optim.Adam([self.log_ent_coef], lr=self.ent_coef_learning_rate)
        self.members: list[torch.nn.Sequential] = []

    def update_reward(self) -> bool:
        """Hold a session if one is due, and take the members' new weights."""
        changed = super().update_reward()
        if changed:
            assert isinstance(self.reward_model, RewardEnsemble)
            self.members = member_networks(self.reward_model)
        return changed

    def learned_reward(self, observations: Array, actions: Array, ends: Array | None = None) -> tuple[Array, Array]:
        """Return rewards by a loop over members and batches of 200."""
        rewards = relabel_in_batches(self.members, observations, actions)
        return rewards, np.zeros_like(rewards)

    def _sample_action(self, *args: Any, **kwargs: Any) -> tuple[Array, Array]:
        return SAC._sample_action(self, *args, **kwargs)

    def _update(self, gradient_steps: int, batch_size: int) -> None:
        buffer = self.replay_buffer
        self._fill()
        for _ in range(gradient_steps):
            if not self.reward_learned:
                self._draw_intrinsic(batch_size)
            SAC.train(self, 1, batch_size)
            buffer.__dict__.pop("sample", None)

    def _draw_intrinsic(self, batch_size: int) -> None:
        """Let the next sample of the buffer carry intrinsic rewards."""
        buffer = self.replay_buffer
        batch = buffer.sample(batch_size)
        ring = buffer.all_observations[: buffer.added * buffer.n_envs]
        limit = self.config.entropy_states
        if limit is not None and len(ring) > limit:
            ring = ring[np.random.default_rng(self._n_updates).integers(len(ring), size=limit)]
        distances = distances_by_differences(batch.observations, ring)
        rewards = (distances / max(self.state_entropy.std.update(distances), 1e-8))[:, None]
        buffer.sample = lambda *_, **__: batch._replace(rewards=rewards)  # type: ignore[method-assign]


def settings_of(task_id: str, steps: int) -> Settings:
    """Return the small preset's settings with 1,000 labels, the stages fitted to a run of `steps`."""
    return preset(find_task(task_id), "small", labels=1_000, steps=steps, learning_starts=min(1_000, steps // 10))


def make_agent(kind: type[PEBBLE], task_id: str, settings: Settings) -> PEBBLE:
    """Return an agent that is ready for its first step."""
    config = settings.config
    config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, epochs=PASSES, stop="never"))
    rater = PartialReturnOracle("oracle", seed=0)
    agent = kind(
        "MlpPolicy", make_envs(task_id, 1, 0), rater, config, seed=0, device="auto", **settings.options.keywords()
    )
    agent.set_logger(configure(None, []))
    agent.start_feedback(settings.steps)
    return agent


def seconds_by_chunk(kind: type[PEBBLE], task_id: str, settings: Settings, chunk: int) -> Iterator[float]:
    """Train chunk by chunk and yield the seconds that each took."""
    agent = make_agent(kind, task_id, settings)
    for _ in range(settings.steps // chunk):
        begin = time.perf_counter()
        agent.learn(chunk, reset_num_timesteps=False)
        yield time.perf_counter() - begin


def compare_runs(what: str, task_id: str, settings: Settings, chunk: int) -> Row:
    ours, theirs = (seconds_by_chunk(kind, task_id, settings, chunk) for kind in (PEBBLE, PlainPEBBLE))
    chunks = range(settings.steps // chunk)
    bar = tqdm(chunks, desc=what, unit="chunk", disable=None)
    pairs = [(next(ours), next(theirs)) for _ in bar]
    row = from_seconds(what, "agents.PEBBLE", "SB3's SAC, B-Pref's way", *zip(*pairs, strict=True))
    total, reference = (sum(times) for times in zip(*pairs, strict=True))
    # Seconds and ratio of the whole run; the quartiles are those of its chunks.
    return dataclasses.replace(row, seconds=total, reference_seconds=reference, ratio=reference / total)


def measure(steps: int = 10_000, chunk: int = 1_000, task_id: str = "metaworld-door-close-v3") -> list[Row]:
    what = f"PEBBLE on {task_id}, {steps} steps, small preset"
    return [compare_runs(what, task_id, settings_of(task_id, steps), chunk)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="metaworld-door-close-v3")
    for name, default in {"steps": 10_000, "chunk": 1_000, "threads": torch.get_num_threads()}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(machine())
    print(HEAD, *(row.line for row in measure(args.steps, args.chunk, args.task)), sep="\n")


if __name__ == "__main__":
    main()
