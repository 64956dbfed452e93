"""The reward models of `prefenvs train iql --reward-model`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from prefenvs.agents.rewards.image.ensemble import ImageRewardEnsemble
    from prefenvs.agents.rewards.segment import SegmentReward
    from prefenvs.preferences import Preference


def fit_reward(
    kind: Literal["transformer", "gaussian"],
    preferences: list[Preference],
    preset: Literal["published", "small"],
    seed: int,
    device: str,
    folder: Path | None,
) -> SegmentReward[Any]:
    """Fit a reward model of segments, or read the one that an earlier start of the run left in its folder."""
    from prefenvs.agents.offline.presets_reward_free import gaussian_settings, transformer_settings
    from prefenvs.agents.offline.tables import check_answers
    from prefenvs.agents.rewards.pearl import GaussianReward
    from prefenvs.agents.rewards.preference_transformer import PreferenceTransformer

    kept = None if folder is None else folder / "reward.pt"
    model: SegmentReward[Any]
    if kept is not None and kept.is_file():
        loaded: type[SegmentReward[Any]] = PreferenceTransformer if kind == "transformer" else GaussianReward
        return loaded.load(kept, device)
    check_answers(preferences)
    segment = preferences[0].query.segments[0]
    sizes = segment.observations.shape[1], segment.actions.shape[1]
    if kind == "transformer":
        model = PreferenceTransformer(*sizes, transformer_settings(preset), seed=seed, device=device)
    else:
        model = GaussianReward(*sizes, gaussian_settings(preset), seed=seed, device=device)
    figures = model.fit(preferences, progress=None)
    print(f"reward model: {figures['labels']:.0f} labels, accuracy {figures['accuracy']:.1%} on them", flush=True)
    return model


def fit_image_reward(
    task: str,
    preferences: list[Preference],
    preset: Literal["published", "small"],
    encoder: str | None,
    seed: int,
    device: str,
    folder: Path | None,
) -> ImageRewardEnsemble:
    """Fit an image reward on frames of the segments' states, or read the one that the run's folder holds already."""
    from prefenvs.agents.offline.tables import check_answers
    from prefenvs.agents.rewards.image.ensemble import ImageRewardConfig, ImageRewardEnsemble

    kept = None if folder is None else folder / "reward.pt"
    if kept is not None and kept.is_file():
        return ImageRewardEnsemble.load(kept, device, encoder, task)
    check_answers(preferences)
    config = ImageRewardConfig(epochs=20) if preset == "small" else ImageRewardConfig()
    model = ImageRewardEnsemble(task, config, encoder, seed, device)
    figures = model.fit(preferences, progress=None)
    print(
        f"image reward: {figures['labels']:.0f} labels, {len(model.table)} frames, "
        f"accuracy {figures['accuracy']:.1%} on them",
        flush=True,
    )
    return model
