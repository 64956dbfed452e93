"""Published settings of the offline learners by domain, and a small set for machines without a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from agents.bc import BCConfig
from agents.cpl import CPLConfig
from agents.iql import IQLConfig
from agents.published import Preset

Variant = Literal["cpl", "cpl-kl", "cpl-bc"]

ADROIT = ("pen-", "door-", "hammer-", "relocate-", "kitchen", "Adroit", "FrankaKitchen")
"""Parts of the names of data sets and tasks from Adroit and Kitchen, whose data are few and narrow."""


def iql_settings(dataset: str, task: str, learned: bool = True, preset: Preset = "published") -> tuple[IQLConfig, int]:
    """Return IQL's settings for a data set, and gradient steps.

    Values of Kostrikov et al. (2022); on learned rewards, their transformation is Preference Transformer's (Kim et al.
    2023); on Meta-World networks and length are those of CPL's P-IQL (Hejna et al. 2024).
    """
    names = f"{dataset} {task}"
    config, steps = IQLConfig(reward_shift=0.5 if learned else 0.0), 1_000_000
    if "antmaze" in names.lower():
        rule: Literal["none", "range_from_min"] = "range_from_min" if learned else "none"
        config = IQLConfig(expectile=0.9, inv_temperature=10.0, reward_rule=rule, reward_shift=-1.0)
    elif task.startswith("metaworld-"):
        config, steps = IQLConfig(hidden=(512, 512)), 500_000
    elif any(part in names for part in ADROIT):
        config = IQLConfig(inv_temperature=0.5, dropout=0.1, reward_rule="range" if learned else "none")
    if preset == "small":
        config, steps = dataclasses.replace(config, hidden=(128, 128), learning_rate=1e-3, target_rate=0.01), 20_000
        config = dataclasses.replace(config, reward=dataclasses.replace(config.reward, width=128))
    return config, steps


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


def bc_settings(task: str, preset: Preset = "published") -> tuple[BCConfig, int]:
    """Return settings of behaviour cloning, and gradient steps: IQL's actor, or CPL's cloning stage on Meta-World."""
    if preset == "small":
        return BCConfig(loss="mse", hidden=(128, 128), learning_rate=1e-3), 20_000
    if task.startswith("metaworld-"):
        # One batch of the published stage holds 2 * 96 segments of 64 steps.
        network: dict[str, Any] = {"hidden": (512, 512), "dropout": 0.25}
        return BCConfig(loss="mse", learning_rate=1e-4, batch_size=12_288, **network), 500_000
    return BCConfig(), 1_000_000
