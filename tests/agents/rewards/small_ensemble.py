"""Small reward ensembles, for the tests of reward models."""

from __future__ import annotations

from prefenvs.agents.rewards.ensemble import RewardConfig, RewardEnsemble

SMALL = RewardConfig(width=32, layers=2, batch_size=32, epochs=20)


def make_model(config: RewardConfig = SMALL, seed: int = 0) -> RewardEnsemble:
    return RewardEnsemble(3, 2, config, seed=seed, device="cpu")
