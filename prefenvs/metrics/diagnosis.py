"""Why a run learned or failed: is its reward right where the policy ended, and did the labels reach there?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import Share, credit
from prefenvs.metrics.agreement import Correlation, mean_rewards, preference_accuracy, return_correlation
from prefenvs.preferences import Preference
from prefenvs.protocols import RewardModel
from prefenvs.segments import Array, SegmentBatch
from prefenvs.tasks import has_reward
from prefenvs.trajectories import Trajectories

CHANCE = 0.5
NEAR = 0.95
"""A labelled step is near the policy's if so many of the policy's own steps are further from their fellows."""
MOST_STEPS = 20_000
"""Steps of each side that are compared at most."""


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What a run's reward model, labels and final policy say together.

    on_labels: share of the labels that the model orders as the rater did. on_policy: share of pairs of the final
    policy's own segments that it orders as the true return does; on_mixed: of pairs of one such segment and one
    labelled. correlation: of learned and true returns of the policy's segments. near: [N] share of each labelled
    segment's steps that lie where the final policy's own steps do, in the order of the labels. saturated: share of
    the policy's steps whose reward all but reaches the model's bound. learned, true: [S] returns of the segments; the
    true ones are left out, [0], where the task has no true reward.
    """

    on_labels: Share
    on_policy: Share
    on_mixed: Share
    correlation: Correlation
    near: Array
    saturated: float
    learned: Array
    true: Array

    def findings(self) -> list[str]:
        """Return what follows, in sentences, the weightiest first."""
        found = []
        reach = float(self.near.mean()) if len(self.near) else 0.0
        low, high = self.on_policy.interval
        if not len(self.true):
            pass
        elif not self.on_policy.count:
            found.append("All of the final policy's segments have the same true return: it does one thing only.")
        elif low <= CHANCE:
            found.append(
                f"The reward model orders the final policy's own segments no better than chance ({low:.0%} to "
                f"{high:.0%}), though {self.on_labels.value:.0%} of the labels: what it learned does not reach where "
                "the policy went."
            )
        elif self.on_policy.value < 0.75:
            found.append(
                f"The reward model orders {self.on_policy.value:.0%} of the final policy's own segments rightly: it "
                "tells good from bad, not good from best."
            )
        else:
            found.append(
                f"The reward model orders {self.on_policy.value:.0%} of the final policy's own segments rightly: if "
                "the return is low, the agent does not reach what the reward asks for; train it longer."
            )
        if reach < 0.1:
            found.append(
                f"Only {reach:.0%} of the labelled steps lie where the policy ended: ask to the end of the run, about "
                "the newest episodes (--selector near-on-policy), or more often."
            )
        if self.on_labels.count and self.on_labels.value < 0.6:
            found.append(
                f"The model fits {self.on_labels.value:.0%} of its own labels: the rater contradicts itself, or what "
                "it looks at is not in the observations."
            )
        if self.saturated > 0.5:
            found.append(
                f"{self.saturated:.0%} of the policy's steps earn the highest reward there is: the model cannot tell "
                "good from best; longer segments or fewer epochs of fitting leave it room."
            )
        return found


def diagnose(
    model: RewardModel,
    preferences: Sequence[Preference],
    episodes: Trajectories,
    length: int,
    pairs: int = 1_000,
    seed: int = 0,
) -> Diagnosis:
    """Compare a reward model and the labels it learned from with a policy's episodes.

    episodes: of the final policy, with true rewards (privileged: this is evaluation). length: steps of a segment;
    pairs: of segments, drawn uniformly. Raises PrefenvsError without a label, true rewards or an episode that long.
    """
    answered = [preference for preference in preferences if preference.best is not None]
    if not answered:
        raise PrefenvsError(
            f"none of the {len(preferences)} answers names one best segment: there is nothing to compare"
        )
    if episodes.observations.ndim != 2:
        raise PrefenvsError(f"{episodes.task!r} observes pictures: what lies near what is known of vectors alone")
    if len(episodes.observations) < 2:
        raise PrefenvsError("the policy's episodes have one step in all, too few to compare with: run more of them")
    if episodes.true_rewards is None:
        raise PrefenvsError(f"the episodes of {episodes.task!r} carry no true rewards to compare with")
    rng = np.random.default_rng(seed)
    length = min(length, int(episodes.lengths.max()))
    first, second = (episodes.sample(pairs, length, rng) for _ in range(2))
    labelled = _labelled(answered, length)
    learned = [_returns(model, batch) for batch in (first, second)]
    true = [_true(batch) for batch in (first, second)]
    mixed = Share(0.0, 0)
    if labelled is not None and labelled.true_rewards is not None:
        rows = rng.integers(len(labelled), size=pairs)
        known = _returns(model, labelled)[rows], _true(labelled)[rows]
        mixed = _agreement(np.stack([learned[0], known[0]], 1), np.stack([true[0], known[1]], 1))
    rewards = mean_rewards(model, first.observations, first.actions)
    return Diagnosis(
        Share(preference_accuracy(model, answered) * len(answered), len(answered)),
        _agreement(np.stack(learned, 1), np.stack(true, 1)),
        mixed,
        return_correlation(model, first),
        _nearness(answered, episodes, rng),
        float((rewards > 0.98).mean()) if rewards.max() <= 1.0 else 0.0,
        learned[0],
        true[0] if has_reward(episodes.task) else true[0][:0],
    )


def _labelled(preferences: Sequence[Preference], length: int) -> SegmentBatch | None:
    """The labelled segments of that length as one batch."""
    segments = [s for p in preferences for s in p.query.segments if len(s) == length]
    if not segments:
        return None
    rewards = [segment.true_rewards for segment in segments]
    known = [reward for reward in rewards if reward is not None]
    return SegmentBatch(
        np.stack([segment.observations for segment in segments]),
        np.stack([segment.actions for segment in segments]),
        np.stack(known) if len(known) == len(segments) else None,
    )


def _returns(model: RewardModel, batch: SegmentBatch) -> Array:
    returns: Array = mean_rewards(model, batch.observations, batch.actions).sum(axis=1)
    return returns


def _true(batch: SegmentBatch) -> Array:
    assert batch.true_rewards is not None
    returns: Array = batch.true_rewards.sum(axis=1, dtype=np.float64)
    return returns


def _agreement(learned: Array, true: Array) -> Share:
    """How many pairs [N, 2] learned returns order as the true ones do, of those that the true ones decide."""
    decided = true[:, 0] != true[:, 1]
    preferred = np.take_along_axis(learned, true.argmax(axis=1)[:, None], axis=1)
    return Share(float(credit(learned, preferred)[decided].sum()), int(decided.sum()))


def _nearness(preferences: Sequence[Preference], episodes: Trajectories, rng: np.random.Generator) -> Array:
    """Share of each labelled segment's steps that lie among the policy's, [N], by distance to the nearest of these.

    Observations are scaled by their deviation over labels and policy together. A step lies among the policy's if it is
    no further from them than all but 5% of the policy's own steps are from their nearest fellow of another episode.
    """
    segments = [segment for preference in preferences for segment in preference.query.segments]
    steps = np.concatenate([segment.observations for segment in segments])
    own = episodes.observations
    both = np.concatenate([steps, own])
    scale = np.maximum(both.std(0), 1e-2 * max(float(both.std(0).max()), 1e-8))
    which = np.repeat(np.arange(len(episodes)), episodes.lengths)
    chosen = rng.permutation(len(own))[:MOST_STEPS]
    half = which[chosen] % 2 == 0
    if half.all() or not half.any():
        half = np.arange(len(chosen)) % 2 == 0
    reference, held_out = own[chosen][half] / scale, own[chosen][~half] / scale
    tree = KDTree(reference)
    limit = np.quantile(tree.query(held_out, workers=1)[0], NEAR)
    near = tree.query(steps / scale, workers=1)[0] <= limit
    ends = np.cumsum([len(segment) for segment in segments])
    shares: Array = np.add.reduceat(near.astype(np.float64), np.concatenate([[0], ends[:-1]])) / np.diff(
        ends, prepend=0
    )
    return shares
