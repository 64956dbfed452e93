"""A data set of `orbit:Orbit` as you might record one: somebody steers, and holds a direction for ten steps.

python steer.py writes 60 episodes into the folder data.
"""

from __future__ import annotations

from orbit import Orbit

from prefenvs import Trajectories, TrajectoryBuffer, make
from prefenvs.datasets import OfflineDataset, write_npz


def steer(episodes: int) -> Trajectories:
    """Return episodes of aimless steering."""
    env, buffer = make(Orbit), TrajectoryBuffer("orbit:Orbit", "steered", max_episodes=None)
    env.action_space.seed(0)
    for episode in range(episodes):
        observation, info = env.reset(seed=episode)
        for step in range(Orbit.max_episode_steps):
            if step % 10 == 0:
                action = env.action_space.sample()
            state = info["state"]
            following, _, _, _, info = env.step(action)
            buffer.add_step(
                0, observation, action, info["true_reward"], state, done=step == Orbit.max_episode_steps - 1
            )
            observation = following
    return buffer.trajectories()


if __name__ == "__main__":
    print(write_npz(OfflineDataset("steered", steer(60)), "data"))
