"""Agreement of a reward model with true returns and with raters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel, SequenceRewardModel, predict_segments
from prefenvs.segments import Array, SegmentBatch


class Correlation(NamedTuple):
    """Pearson's and Spearman's coefficients, each in [-1, 1]; NaN where one side does not vary."""

    pearson: float
    spearman: float


def return_correlation(model: RewardModel, segments: SegmentBatch) -> Correlation:
    """Correlate a model's returns of N >= 2 segments with their true returns (privileged: for evaluation only).

    The model's return of a segment is the sum over its steps of the ensemble's mean reward; nothing is discounted.
    Equal returns share their mean rank. Raises PrefenvsError for fewer than 2 segments, and segments without true
    rewards.
    """
    if segments.true_rewards is None:
        raise PrefenvsError(f"the segments of {segments.source or segments.task!r} carry no true rewards")
    if len(segments) < 2:
        raise PrefenvsError(f"a correlation needs at least 2 segments, got {len(segments)}")
    from scipy.stats import rankdata  # takes most of a second, which every training would wait at its start

    predicted = mean_rewards(model, segments.observations, segments.actions).sum(axis=1)
    true = segments.true_rewards.sum(axis=1)
    return Correlation(_pearson(predicted, true), _pearson(rankdata(predicted), rankdata(true)))


def preference_accuracy(model: RewardModel, preferences: Sequence[Preference]) -> float:
    """Return the share of answers in which the segment that the rater preferred has the model's greatest return.

    Counted are answers with one best segment: skips and ties are left out, and a soft label counts by its most probable
    segment, whatever its probability. Where the model gives its greatest return to k segments, the preferred one among
    them, the answer counts 1/k; so a constant model scores 1/2 on pairs (`prefenvs.metrics.accuracy.credit`). Raises
    PrefenvsError where no answer counts.
    """
    clear = [preference for preference in preferences if preference.best is not None]
    if not clear:
        raise PrefenvsError(f"none of the {len(preferences)} answers names one best segment")
    segments = [segment for preference in clear for segment in preference.query.segments]
    returns: dict[int, float] = {}
    for length in {len(segment) for segment in segments}:
        alike = [segment for segment in segments if len(segment) == length]
        observations, actions = (np.stack([getattr(s, name) for s in alike]) for name in ("observations", "actions"))
        predicted = mean_rewards(model, observations, actions).sum(axis=1).tolist()
        returns |= {id(segment): own for segment, own in zip(alike, predicted, strict=True)}
    return label_accuracy(clear, lambda segment: returns[id(segment)])


def mean_rewards(model: RewardModel, observations: Array, actions: Array) -> Array:
    """Return the members' mean reward [N, T] of segments [N, T, obs], whatever axes the model takes."""
    whole = isinstance(model, SequenceRewardModel)
    rewards = model.predict(observations, actions) if whole else predict_segments(model, observations, actions)
    mean: Array = rewards.mean(axis=0, dtype=np.float64)
    return mean


def _pearson(first: Array, second: Array) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / scale if scale > 0 else float("nan")
