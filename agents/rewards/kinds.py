"""The reward models, beside the ensemble, that data are labelled by: their settings, and how each is fitted."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from prefenvs.agents.rewards import ensemble, groups
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.groups import GroupReward, GroupRewardConfig
from prefenvs.agents.rewards.image import ensemble as image
from prefenvs.agents.rewards.image import observed
from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble
from prefenvs.agents.rewards.image.observed import PixelReward
from prefenvs.agents.rewards.pearl import GaussianReward, GaussianRewardConfig
from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer, PreferenceTransformerConfig
from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_zip
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel

Kind = Literal["transformer", "gaussian", "image", "groups"]
"""Preference Transformer, PEARL's robust reward, an ensemble on frames rendered from states, or groups of raters."""
KindConfig = PreferenceTransformerConfig | GaussianRewardConfig | ImageRewardConfig | GroupRewardConfig


class Row(NamedTuple):
    """A reward model's class, its published settings, and those of a smaller network and fewer passes, for a CPU."""

    model: type[Any]
    published: KindConfig
    small: KindConfig


SEQUENCES: dict[str, Any] = {"width": 64, "heads": 2, "epochs": 100, "batch_size": 64}
KINDS: dict[Kind, Row] = {
    "transformer": Row(
        PreferenceTransformer, PreferenceTransformerConfig(), PreferenceTransformerConfig(**SEQUENCES)
    ),  # Kim et al. 2023
    "gaussian": Row(GaussianReward, GaussianRewardConfig(), GaussianRewardConfig(**SEQUENCES)),  # Liu et al. 2024
    "image": Row(ImageRewardEnsemble, ImageRewardConfig(), ImageRewardConfig(epochs=20)),  # Wang et al. 2024
    "groups": Row(GroupReward, GroupRewardConfig(), GroupRewardConfig(width=64, epochs=100)),
}
FORMATS: dict[str, type[Any]] = {
    ensemble.FORMAT: RewardEnsemble,
    groups.FORMAT: GroupReward,
    observed.FORMAT: PixelReward,
    GaussianReward.format: GaussianReward,
    PreferenceTransformer.format: PreferenceTransformer,
}
"""Reward models of observations and actions, by the formats of their files."""


def kind_settings(kind: Kind, small: bool = False) -> KindConfig:
    """Return the published settings of a kind, or the small ones."""
    return KINDS[kind].small if small else KINDS[kind].published


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
    row, images = KINDS[kind], kind == "image"
    if kept is not None and kept.is_file():
        return row.model.load(kept, device, *((encoder, task) if images else ()))
    segment = preferences[0].query.segments[0]
    sizes = segment.observations.shape[1], segment.actions.shape[1]
    model: Any = row.model(task, config, encoder, seed, device) if images else row.model(*sizes, config, seed, device)
    figures = model.fit(preferences, progress=None)
    frames = f" {len(model.table)} frames," if images else ""
    print(f"reward model: {figures['labels']:.0f} labels,{frames} accuracy {figures['accuracy']:.1%}", flush=True)
    return model


def read_reward(path: Path) -> RewardModel:
    """Return the reward model of observations and actions that a file holds, whichever it is, on the CPU.

    Raises PrefenvsError for one of rendered or recorded pictures, and for a file of anything else.
    """
    try:
        check_zip(path)
        written = torch.load(path, map_location="cpu", weights_only=True)["format"]
    except Exception:  # a model of the user's own may be anything
        written = None
    if written == image.FORMAT:
        raise PrefenvsError(
            f"{path} holds a reward of rendered or recorded pictures, not of observations and actions: use it from "
            "Python, ImageRewardEnsemble.load(path)"
        )
    if written not in FORMATS:
        raise PrefenvsError(f"{path} is no reward model of this library: it holds {written or 'no format of one'}")
    model: RewardModel = FORMATS[written].load(path, "cpu")
    return model
