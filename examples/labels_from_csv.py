"""Labels that somebody else collected, in a CSV file, and a policy from them: no environment is stepped."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from own_environment import Reach, nearer

import prefenvs
from prefenvs import Trajectories, TrajectoryBuffer
from prefenvs.agents import IQL, IQLConfig, RewardConfig
from prefenvs.datasets import OfflineDataset, read_label_table
from prefenvs.evaluate import evaluate
from prefenvs.store import Store

LENGTH = 10


def roll_out(episodes: int) -> Trajectories:
    """Return episodes of aimless moves; yours come from `prefenvs.datasets.load_dataset`."""
    env, buffer = prefenvs.make(Reach), TrajectoryBuffer("own_environment:Reach", "aimless", max_episodes=None)
    env.action_space.seed(0)
    for episode in range(episodes):
        observation, info = env.reset(seed=episode)
        for step in range(50):
            if step % LENGTH == 0:
                action = env.action_space.sample()
            state = info["state"]
            following, _, _, _, info = env.step(action)
            buffer.add_step(0, observation, action, info["true_reward"], state, done=step == 49)
            observation = following
    return buffer.trajectories()


def write_csv(path: Path, episodes: Trajectories, count: int) -> None:
    """Write what a labelling company might send: two segments by episode and first step, and a choice."""
    rng = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["episode_1", "start_1", "episode_2", "start_2", "choice"])
        for _ in range(count):
            places = [int(rng.integers(most)) for most in 2 * (len(episodes), 50 - LENGTH)]
            pair = episodes.cut(np.array(places[::2]), np.array(places[1::2]), LENGTH)
            rows.writerow([*places, ("first", "second")[nearer(pair[0], pair[1])]])


if __name__ == "__main__":
    episodes = roll_out(100)
    write_csv(Path("labels.csv"), episodes, 400)
    dataset = OfflineDataset("aimless", episodes)
    # In a shell: prefenvs labels import labels.csv --dataset DATA --segment-length 10. Columns may have other names.
    table = read_label_table("labels.csv", dataset, length=LENGTH, annotator="a company")
    print("\n".join(table.report()))
    preferences = table.preferences
    with Store("labels.sqlite") as store:  # kept for good; `prefenvs store stats labels.sqlite` looks into it
        store.add_preferences(preferences, run="labels.csv")
    config = IQLConfig(hidden=(64, 64), batch_size=128, learning_rate=1e-3, discount=0.95,
                       reward=RewardConfig(width=64, epochs=20))  # fmt: skip
    learner = IQL(dataset, preferences, config, seed=0, device="cpu")
    learner.learn(1_000)
    print(f"true return {evaluate(learner, 'own_environment:Reach').mean_return:.1f}, "
          f"of the data {episodes.returns.mean():.1f}")  # fmt: skip
