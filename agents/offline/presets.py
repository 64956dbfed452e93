"""Published settings of the offline learners by domain, and a small set for machines without a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from prefenvs.agents.offline.bc import BCConfig
from prefenvs.agents.offline.cpl import CPLConfig
from prefenvs.agents.offline.iql import IQLConfig
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.tasks import Task

Variant = Literal["cpl", "cpl-kl", "cpl-bc"]

Rewards = Literal["true", "mlp", "image", "transformer", "gaussian"]
"""What IQL learns from: the true rewards, or a reward model of `prefenvs train iql --reward-model`."""

Preset = Literal["published", "small"]


def iql_settings(task: Task, rewards: Rewards = "mlp", preset: Preset = "published") -> tuple[IQLConfig, int]:
    """Return IQL's settings for data of a task, and gradient steps.

    Locomotion, AntMaze, Adroit and Kitchen have those of Kostrikov et al. (2022); there learned rewards are scaled and
    shifted as by Preference Transformer (Kim et al. 2023). Meta-World has those of CPL's P-IQL (Hejna et al. 2024):
    batches of as many transitions as 96 pairs of segments of 64 steps have, and the raw reward of one network. That
    network is fitted first here, by as many batches as theirs in the first 50,000 steps of 10,000 labels, with
    LeakyReLU; transitions are drawn from all of the data. True rewards there, other reward models there, and all
    families that were not named are this project's choice: locomotion's settings.

    preset: "small" has networks of 2x128 and batches of 256 transitions.
    """
    learned = rewards != "true"
    config, steps = IQLConfig(reward_shift=0.5 if learned else 0.0), 1_000_000
    if task.domain == "antmaze":
        rule: Literal["none", "range_from_min"] = "range_from_min" if learned else "none"
        config = IQLConfig(expectile=0.9, inv_temperature=10.0, reward_rule=rule, reward_shift=-1.0)
    elif task.domain in ("adroit", "kitchen"):
        config = IQLConfig(inv_temperature=0.5, dropout=0.1, reward_rule="range" if learned else "none")
    elif task.family == "metaworld":
        config, steps = IQLConfig(), 500_000
        if preset == "published":
            config = _piql(raw=rewards == "mlp")
    if preset == "small":
        config, steps = dataclasses.replace(config, hidden=(128, 128), learning_rate=1e-3, target_rate=0.01), 20_000
        config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, width=128))
    return config, steps


def _piql(raw: bool) -> IQLConfig:
    network = RewardConfig(members=1, layers=2, width=512, output="identity", batch_size=96, epochs=480, stop="never")
    return IQLConfig(
        hidden=(512, 512),
        dropout=0.25,
        deterministic=True,
        orthogonal=True,
        batch_size=2 * 96 * 64,
        reward_rule="none" if raw else "range",
        reward=network,
    )


def cpl_settings(
    variant: Variant = "cpl", steps: int | None = None, preset: Preset = "published"
) -> tuple[CPLConfig, int]:
    """Return the settings of CPL or a variant (Hejna et al. 2024), and gradient steps.

    steps: of another number of steps than the published 500,000, cloning and warm-up take the same shares.
    """
    config = CPLConfig()
    if variant == "cpl-kl":
        config = CPLConfig(alpha=0.2, conservative=0.75, kl=True, rate_factor=0.1)
    elif variant == "cpl-bc":
        config = CPLConfig(conservative=1.0, bc_coefficient=1.0)
    total = steps or (20_000 if preset == "small" else 500_000)
    shares: dict[str, Any] = {"pretrain_updates": total * 2 // 5, "warmup_updates": total // 50}
    if preset == "small":
        small: dict[str, Any] = {
            "hidden": (128, 128),
            "learning_rate": 3e-4,
            "batch_size": 16,
            "pretrain_batch": 256,
            "dropout": 0.1,
        }
        return dataclasses.replace(config, **shares, **small), total
    return dataclasses.replace(config, **shares), total


def bc_settings(task: Task, preset: Preset = "published") -> tuple[BCConfig, int]:
    """Return settings of behaviour cloning, and gradient steps.

    On Meta-World those of CPL's cloning stage, for all of its 500,000 steps; elsewhere, where no publication is
    followed, those of IQL's actor without dropout.
    """
    if preset == "small":
        return BCConfig(loss="mse", hidden=(128, 128), learning_rate=1e-3), 20_000
    if task.family == "metaworld":
        # One batch of the published stage holds 2 * 96 segments of 64 steps.
        network: dict[str, Any] = {"hidden": (512, 512), "dropout": 0.25}
        return BCConfig(loss="mse", learning_rate=1e-4, batch_size=12_288, **network), 500_000
    return BCConfig(), 1_000_000
