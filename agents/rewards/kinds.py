"""The reward models, beside the ensemble, that data are labelled by: their settings, and how each is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from prefenvs.agents.rewards.groups import GroupReward, GroupRewardConfig
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble
from prefenvs.agents.rewards.pearl import GaussianReward, GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from prefenvs.preferences import Preference

Kind = Literal["transformer", "gaussian", "image", "groups"]
"""Preference Transformer, PEARL's robust reward, an ensemble on frames rendered from states, or groups of raters."""
KindConfig = PreferenceTransformerConfig | GaussianRewardConfig | ImageRewardConfig | GroupRewardConfig


def kind_settings(kind: Kind, small: bool = False) -> KindConfig:
    """Return the published settings of a kind (Kim et al. 2023; Liu et al. 2024; Wang et al. 2024).

    small: a smaller network and fewer passes, for a CPU.
    """
    if kind == "image":
        return ImageRewardConfig(epochs=20) if small else ImageRewardConfig()
    if kind == "groups":
        return GroupRewardConfig(width=64, epochs=100) if small else GroupRewardConfig()
    config_type = PreferenceTransformerConfig if kind == "transformer" else GaussianRewardConfig
    return config_type(width=64, heads=2, epochs=100, batch_size=64) if small else config_type()


def fit_kind(
    kind: Kind,
    config: KindConfig,
    preferences: list[Preference],
    task: str,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: Path | None = None,
) -> Any:
    """Fit a reward model to preferences, or read the one that an earlier start of the run left in its folder.

    encoder: a CLIP model, with images.
    """
    kept = None if folder is None else folder / "reward.pt"
    if kept is not None and kept.is_file():
        if kind == "image":
            return ImageRewardEnsemble.load(kept, device, encoder, task)
        if kind == "groups":
            return GroupReward.load(kept, device)
        return (PreferenceTransformer if kind == "transformer" else GaussianReward).load(kept, device)
    segment = preferences[0].query.segments[0]
    sizes = segment.observations.shape[1], segment.actions.shape[1]
    model: Any
    if isinstance(config, ImageRewardConfig):
        model = ImageRewardEnsemble(task, config, encoder, seed, device)
    elif isinstance(config, GroupRewardConfig):
        model = GroupReward(*sizes, config, seed, device)
    elif isinstance(config, GaussianRewardConfig):
        model = GaussianReward(*sizes, config, seed, device)
    else:
        model = PreferenceTransformer(*sizes, config, seed, device)
    figures = model.fit(preferences, progress=None)
    frames = f" {len(model.table)} frames," if isinstance(model, ImageRewardEnsemble) else ""
    print(f"reward model: {figures['labels']:.0f} labels,{frames} accuracy {figures['accuracy']:.1%}", flush=True)
    return model
