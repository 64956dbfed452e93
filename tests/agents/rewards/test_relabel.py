from __future__ import annotations

import numpy as np
import pytest

from prefenvs.agents import IQL, GaussianReward, GaussianRewardConfig, IQLConfig, PreferenceTransformer
from prefenvs.agents import PreferenceTransformerConfig as TransformerConfig
from prefenvs.agents.rewards.relabel import relabel
from prefenvs.agents.rewards.segment import SegmentReward

from ..worlds import ACTIONS, drive, make_line_data, prefer_by_return

DATA = make_line_data()
LABELS = prefer_by_return(DATA, 150, 12)
# Episodes of 25 steps: rewards scaled to their time limit are too small to learn from in 400 steps.
CONFIG = IQLConfig(hidden=(64, 64), batch_size=64, learning_rate=1e-3, return_range=1000)
MODELS = [
    PreferenceTransformer(2, 1, TransformerConfig(width=16, heads=2, epochs=40, batch_size=50), device="cpu"),
    GaussianReward(2, 1, GaussianRewardConfig(width=32, backbone="mlp", epochs=40, batch_size=50), device="cpu"),
]


@pytest.mark.parametrize("model", MODELS, ids=["transformer", "gaussian"])
def test_iql_learns_from_the_rewards_of_segment_models(model: SegmentReward) -> None:
    """The rewards agree with the true ones, and the policy does better than the data they were learned on."""
    model.fit(LABELS)
    rewards = relabel(model, DATA.trajectories)
    assert rewards.shape == (1500,)
    assert np.corrcoef(rewards, DATA.trajectories.true_rewards)[0, 1] > 0.6
    agent = IQL(DATA, reward_model=model, config=CONFIG, device="cpu", action_space=ACTIONS)
    agent.learn(400)
    assert drive(agent) > DATA.trajectories.returns.mean() + 4.0
