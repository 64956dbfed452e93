"""SURF: pseudo-labels on unlabelled queries and temporal cropping (Park et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefenvs.agents.rewards.losses import preference_loss
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from prefenvs.preferences import Query
from prefenvs.segments import Segment


@dataclass(frozen=True)
class SurfConfig:
    """Semi-supervised reward learning; the defaults are those of the published scripts.

    The segments handed to `RewardEnsemble.fit` are the rated ones with `margin` more steps on either side.
    """

    margin: NonNegativeInt = 5
    """Steps around the rated segment, and how much a crop may be shorter or longer than it."""
    threshold: PositiveFraction = 0.99
    """Confidence from which a member's own prediction becomes a pseudo-label."""
    weight: NonNegativeFloat = 1.0
    """Weight of the loss on pseudo-labels."""
    ratio: PositiveInt = 4
    """Unlabelled queries for each labelled one in a batch."""

    def __post_init__(self) -> None:
        if self.margin < 0 or self.ratio < 1 or self.weight < 0:
            raise PrefenvsError(f"SURF needs margin >= 0, ratio >= 1 and weight >= 0, got {self}")
        if not 0.0 < self.threshold <= 1.0:
            raise PrefenvsError(f"surf threshold={self.threshold} is not a probability in (0, 1]")


def centre_query(query: Query, margin: int) -> Query:
    """Return the query that a rater is asked: each segment without `margin` steps at either end."""
    return Query(tuple(_centre(segment, margin) for segment in query.segments))


def _centre(segment: Segment, margin: int) -> Segment:
    if len(segment) <= 2 * margin:
        raise PrefenvsError(
            f"a segment of {len(segment)} steps has no centre with a margin of {margin} steps on either side"
        )
    inner = slice(margin, len(segment) - margin)
    cut = {name: getattr(segment, name) for name in ("observations", "actions", "true_rewards", "states")}
    cut = {name: None if array is None else array[inner] for name, array in cut.items()}
    return replace(segment, start=segment.start + margin if segment.start >= 0 else -1, **cut)


def centre_returns(rewards: Tensor, margin: int) -> Tensor:
    """Sum rewards [..., T] over the rated steps, those without the margins."""
    return rewards[..., margin : rewards.shape[-1] - margin].sum(-1)


def crop_returns(rewards: Tensor, margin: int, generator: torch.Generator) -> Tensor:
    """Sum rewards [..., K, T] over a random crop of each segment.

    The crops of one query share a length drawn uniformly within `margin` of the rated length T - 2 margin; each
    begins anywhere (the published code's time shift and crop in one).
    """
    steps, shape = rewards.shape[-1], rewards.shape[:-1]
    rated = steps - 2 * margin
    length = torch.randint(max(rated - margin, 1), rated + margin + 1, (*shape[:-1], 1), generator=generator)
    begin = (torch.rand(shape, generator=generator) * (steps + 1 - length)).long()
    step = torch.arange(steps)
    inside = (step >= begin[..., None]) & (step < (begin + length)[..., None])
    return (rewards * inside.to(rewards.device)).sum(-1)


def pseudo_label_loss(rewards: Tensor, config: SurfConfig, generator: torch.Generator) -> Tensor:
    """Return each unlabelled query's loss [M, B] from rewards [M, B, K, T]; it is 0 below the threshold (eq. 5)."""
    with torch.no_grad():
        belief = centre_returns(rewards, config.margin).softmax(-1)
        confidence, label = belief.max(-1)
        target = torch.nn.functional.one_hot(label, belief.shape[-1]).to(belief.dtype)
    loss = preference_loss(crop_returns(rewards, config.margin, generator), target)
    return config.weight * loss * (confidence >= config.threshold)
