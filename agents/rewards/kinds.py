"""The reward models, beside the ensemble, that data are labelled by: their settings, and how each is fitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

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
from prefenvs.errors import PrefenvsError, failure_told, near_matches
from prefenvs.internal.file_sizes import check_zip
from prefenvs.internal.loading import import_object
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel

Kind = Literal["transformer", "gaussian", "image", "groups"]
"""Preference Transformer, PEARL's robust reward, an ensemble on frames rendered from states, or groups of raters."""
KindConfig = PreferenceTransformerConfig | GaussianRewardConfig | ImageRewardConfig | GroupRewardConfig
ENSEMBLE = ("ensemble", "mlp")
"""Names of the ensemble of small networks, which is what learners take by default; the second is the older one."""


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


def check_kind(given: str, kinds: Sequence[str]) -> None:
    """Raise a PrefenvsError for a reward model that is neither one of these kinds nor `module:NAME`."""
    if given not in kinds and ":" not in given:
        known = f"{', '.join(kinds)}, or module:NAME of your own"
        what = "cannot be used here" if given in (*ENSEMBLE, *KINDS) else "is unknown"
        raise PrefenvsError(f"the reward model {given!r} {what}: choose {known}.{near_matches(given, tuple(kinds))}")


def _find(given: str) -> Any:
    """Return what makes the model of a name; rewards of rendered states take no observations."""
    if ":" in given:
        return import_object(given, "reward model")
    check_kind(given, ("ensemble", *(kind for kind in KINDS if kind != "image")))
    row = KINDS[cast(Kind, given)]
    return lambda **sizes: row.model(config=row.small, **sizes)


def make_reward_model(
    given: RewardModel | Callable[..., RewardModel] | str, observation_size: int, action_size: int, seed: int
) -> RewardModel:
    """Return the reward model given: an object, what makes one, `module:NAME` of either, or a kind with small settings.

    What makes one is called with observation_size, action_size and seed by name. Raises PrefenvsError where no model
    comes of it.
    """
    found: Any = _find(given) if isinstance(given, str) else given
    if isinstance(found, type) or (callable(found) and not isinstance(found, RewardModel)):
        with failure_told(
            f"the reward model {given!r} cannot be made", "it is called with observation_size, action_size and seed"
        ):
            found = found(observation_size=observation_size, action_size=action_size, seed=seed)
    missing = [name for name in ("predict", "fit", "save", "load") if not callable(getattr(found, name, None))]
    if missing:
        raise PrefenvsError(
            f"the reward model {found!r} has no {' and no '.join(missing)}: see prefenvs.protocols.RewardModel"
        )
    model: RewardModel = found
    return model


def fit_kind(
    kind: str,
    config: KindConfig | None,
    preferences: list[Preference],
    task: str,
    encoder: str | None = None,
    seed: int = 0,
    device: str = "auto",
    folder: Path | None = None,
) -> Any:
    """Fit a kind of reward model, or `module:NAME`, to preferences, or read what an earlier start left in its folder.

    encoder: a CLIP model, with images.
    """
    kept = None if folder is None else folder / "reward.pt"
    segment = preferences[0].query.segments[0]
    sizes = segment.observations.shape[1], segment.actions.shape[1]
    if ":" in kind:
        own: Any = make_reward_model(kind, *sizes, seed)
        if kept is not None and kept.exists():
            return type(own).load(kept)
        with failure_told(f"the reward model {kind} fails to fit {len(preferences)} answers"):
            own.fit(preferences)
        return own
    row, images = KINDS[cast(Kind, kind)], kind == "image"
    if kept is not None and kept.is_file():
        return row.model.load(kept, device, *((encoder, task) if images else ()))
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
