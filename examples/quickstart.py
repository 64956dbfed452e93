"""My environment, my rater, PEBBLE, a video: six lines."""

from own_environment import Reach, nearer

from prefenvs.agents import PEBBLE
from prefenvs.videos import record_policy

agent = PEBBLE.for_task(Reach, nearer, "small", steps=4_000, labels=100, per_session=20)
agent.learn(4_000, progress_bar=True)
record_policy(agent, "policy.mp4", episodes=3)
