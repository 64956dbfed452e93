"""Labels that somebody else collected, in a CSV file, and a policy from them: no environment is stepped."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from own_environment import Reach, nearer

import prefenvs
from prefenvs import Preference, Query, Trajectories, TrajectoryBuffer
from prefenvs.agents import IQL, IQLConfig, RewardConfig
from prefenvs.datasets import OfflineDataset
from prefenvs.evaluate import evaluate
from prefenvs.store import Store

LENGTH = 10
CHOICES = {"first": [1.0, 0.0], "second": [0.0, 1.0], "equal": [0.5, 0.5], "skip": None}


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
        rows.writerow(["episode_1", "step_1", "episode_2", "step_2", "choice"])
        for _ in range(count):
            places = [int(rng.integers(most)) for most in 2 * (len(episodes), 50 - LENGTH)]
            pair = episodes.cut(np.array(places[::2]), np.array(places[1::2]), LENGTH)
            rows.writerow([*places, ("first", "second")[nearer(pair[0], pair[1])]])


def read_csv(path: Path, episodes: Trajectories) -> list[Preference]:
    """Return each row as a preference between two segments of these episodes."""
    found = []
    with path.open() as file:
        for row in csv.DictReader(file):
            places = [[int(row[f"{name}_{side}"]) for side in (1, 2)] for name in ("episode", "step")]
            pair = episodes.cut(np.array(places[0]), np.array(places[1]), LENGTH)
            chances = CHOICES[row["choice"]]
            answer = None if chances is None else np.array(chances)
            found.append(Preference(Query((pair[0], pair[1])), answer, annotator="a company", oracle="human"))
    return found


if __name__ == "__main__":
    episodes = roll_out(100)
    write_csv(Path("labels.csv"), episodes, 400)
    preferences = read_csv(Path("labels.csv"), episodes)
    with Store("labels.sqlite") as store:  # kept for good; `prefenvs store stats labels.sqlite` looks into it
        store.add_preferences(preferences, run="labels.csv")
    config = IQLConfig(hidden=(64, 64), batch_size=128, learning_rate=1e-3, discount=0.95,
                       reward=RewardConfig(width=64, epochs=20))  # fmt: skip
    learner = IQL(OfflineDataset("aimless", episodes), preferences, config, seed=0, device="cpu")
    learner.learn(1_000)
    print(f"true return {evaluate(learner, 'own_environment:Reach').mean_return:.1f}, "
          f"of the data {episodes.returns.mean():.1f}")  # fmt: skip
