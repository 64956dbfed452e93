"""SURF: pseudo-labels on unlabelled queries and temporal cropping (Park et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefenvs.agents.rewards.losses import preference_loss
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt, check_settings
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.protocols import Policy
from prefenvs.segments import Segment
from prefenvs.trajectories import Trajectories


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
        check_settings(self)


def centre_query(query: Query, margin: int) -> Query:
    """Return the query that a rater is asked: each segment without `margin` steps at either end."""
    return Query(tuple(_centre(segment, margin) for segment in query.segments))


def _centre(segment: Segment, margin: int) -> Segment:
    if len(segment) <= 2 * margin:
        raise PrefenvsError(
            f"a segment of {len(segment)} steps has no centre with a margin of {margin} steps on either side"
        )
    return segment.cut(margin, len(segment) - margin)


class CroppingOracle(Oracle):
    """Ask a rater about the centre of each segment, and return its answers over the uncropped segments.

    The learner samples segments with `margin` more steps at either end, which the rater does not see.
    """

    def __init__(self, rater: Oracle, margin: int) -> None:
        self.rater, self.margin, self.name = rater, margin, rater.name
        self.asked: list[Query] = []
        # By segment, because a rater may have compared the segments of different queries.
        self._uncropped: dict[str, Segment] = {}

    def ask(self, queries: Sequence[Query]) -> None:
        """Crop the queries and ask the rater."""
        self.rater.ask(self._crop(queries))

    def collect(self) -> list[Preference]:
        """Return the rater's new answers over the segments that `ask` was given."""
        return [self._uncrop(answer) for answer in self.rater.collect()]

    @property
    def waiting(self) -> bool:  # type: ignore[override]
        """Whether the rater blocks because the user asked for that."""
        return self.rater.waiting

    @property
    def pending(self) -> int:
        """Number of asked queries that are still unanswered."""
        return self.rater.pending

    def follow(self, policy: Policy) -> None:
        """Pass on which policy is trained."""
        self.rater.follow(policy)

    def observe(self, trajectories: Trajectories) -> None:
        """Pass recent trajectories on."""
        self.rater.observe(trajectories)

    def report(self, status: Mapping[str, float | None]) -> None:
        """Pass the learner's status on."""
        self.rater.report(status)

    def state_dict(self) -> dict[str, Any]:
        """Return the rater's state and all uncropped queries: any of them may still be answered, or answered anew."""
        return {"rater": self.rater.state_dict(), "queries": list(self.asked)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._crop(state.get("queries", []))
        self.rater.load_state_dict(state["rater"])

    def _crop(self, queries: Sequence[Query]) -> list[Query]:
        crops = [centre_query(query, self.margin) for query in queries]
        self.asked += queries
        for crop, query in zip(crops, queries, strict=True):
            self._uncropped |= {part.hash: whole for part, whole in zip(crop.segments, query.segments, strict=True)}
        return crops

    def _uncrop(self, answer: Preference) -> Preference:
        whole = tuple(self._uncropped.get(segment.hash, segment) for segment in answer.query.segments)
        return replace(answer, query=Query(whole))


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
