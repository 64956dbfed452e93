"""Query selection: which pairs of segments are worth a rater's time.

`Selector` is what agents use. The scores and the k-center choice are pure functions over arrays. Nothing here reads a
true reward: candidates are cut from observations and actions alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import entr, expit

from prefenvs.errors import PrefenvsError, failure_told, near_matches
from prefenvs.internal.loading import import_object
from prefenvs.limits import AtLeastTwo, NonNegativeFloat, PositiveInt, check_settings
from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.protocols import QuerySelector, RewardModel, predict_segments
from prefenvs.segments import Array, SegmentBatch
from prefenvs.trajectories import Trajectories

# Steps of candidate segments that are in memory at once while the reward model scores them.
CHUNK_STEPS = 65_536


def preference_probabilities(returns: Array) -> Array:
    """Return each member's probability that the first segment of a pair is better, by Bradley and Terry.

    returns: [members, pairs, 2], the sum of each segment's predicted rewards. Result: [members, pairs].
    """
    probabilities: Array = expit(np.asarray(returns[..., 0] - returns[..., 1], np.float64))
    return probabilities


def disagreement(probabilities: Array) -> Array:
    """Return the population standard deviation over members, [pairs], for probabilities [members, pairs] (PEBBLE)."""
    score: Array = probabilities.std(axis=0)
    return score


def entropy(probabilities: Array) -> Array:
    """Return the mean over members of each member's binary entropy in nats, [pairs], for [members, pairs] (B-Pref).

    It is high where members are unsure, even where all agree that they are; see `bald` for the difference.
    """
    score: Array = _binary_entropy(probabilities).mean(axis=0)
    return score


def bald(probabilities: Array) -> Array:
    """Return the mutual information of answer and member in nats, [pairs], for probabilities [members, pairs].

    Entropy of the mean less mean of the entropies (Houlsby et al. 2011): members disagree, and each is sure of itself.
    """
    return _binary_entropy(probabilities.mean(axis=0)) - entropy(probabilities)


SCORES = {"disagreement": disagreement, "entropy": entropy, "bald": bald}
NAMES = (
    "uniform",
    "disagreement",
    "entropy",
    "bald",
    "k-center",
    "k-center-disagreement",
    "k-center-entropy",
    "near-on-policy",
)


LogLikelihood = Callable[[Array, Array], Array]
"""Maps observations [N, obs] and actions [N, act], in the units of the task, to the policy's log pi(a | s) [N]."""
POLICY_LIKELIHOOD = "policy-likelihood"


def k_center(features: Array, centers: Array, count: int) -> Array:
    """Choose `count` rows, each the farthest from all centres and all rows chosen before it (greedy farthest-first).

    features: [N, d]; centers: [C, d], C may be 0, and then the first choice is the row farthest from the mean.
    Result: [count] indices in the order of choice. Distances are Euclidean; each choice costs one product with [N, d].
    Raises PrefenvsError for more than there are.
    """
    if count > len(features):
        raise PrefenvsError(f"k-center cannot choose {count} of {len(features)} rows")
    # The distance is expanded into norms and products; around the mean, less of it cancels out.
    mean = features.mean(axis=0)
    features = features - mean
    squares = np.einsum("nd,nd->n", features, features)
    nearest = squares.copy() if not len(centers) else np.full(len(features), np.inf)
    rows = max(CHUNK_STEPS // max(len(features), 1), 1)
    for chunk in (centers[i : i + rows] - mean for i in range(0, len(centers), rows)):
        products = features @ chunk.T
        nearest = np.minimum(nearest, squares + (np.einsum("cd,cd->c", chunk, chunk) - 2 * products).min(axis=1))
    chosen = np.zeros(count, np.int64)
    for i in range(count):
        pick = chosen[i] = int(nearest.argmax())
        distances = squares + squares[pick] - 2 * (features @ features[pick])
        nearest = distances if i == 0 and not len(centers) else np.minimum(nearest, distances)
        nearest[pick] = -np.inf
    return chosen


def number_to_pair(numbers: Array) -> Array:
    """Return the pairs (i, j), i < j, [N, 2], of numbers [N]: pair (i, j) has number j (j - 1) / 2 + i."""
    second = ((1 + np.sqrt(1 + 8 * numbers.astype(np.float64))) / 2).astype(np.int64)
    # Floats run out of digits above 2^50 pairs, where the root may be one too large.
    second -= second * (second - 1) // 2 > numbers
    return np.stack([numbers - second * (second - 1) // 2, second], axis=1)


@dataclass(frozen=True)
class Selector:
    """A way to choose queries; `Selector.named` gives one with its published settings.

    name: one of `NAMES`. "uniform" and "near-on-policy" draw pairs at random; the others choose from a pool of
    candidates by the ensemble's opinion, by distance to what was asked before, or, where both are named, by distance
    among the better half by opinion (Lee et al. 2021, B-Pref).
    oversample: candidates per query asked; B-Pref's `large_batch`.
    last_episodes: draw only from the newest episodes; None for all. QPA (Hu et al. 2024) uses 10 for DeepMind Control.
    """

    name: str = "disagreement"
    oversample: PositiveInt = 10
    last_episodes: PositiveInt | None = None

    def __post_init__(self) -> None:
        name: object = self.name  # whatever a caller without types has given
        if not isinstance(name, str):
            given = "a function" if callable(name) else repr(name)
            raise PrefenvsError(f"a query selector is named, not given as {given}: choose one of {', '.join(NAMES)}")
        if self.name not in NAMES:
            known = f"choose one of {', '.join(NAMES)}.{near_matches(self.name, NAMES)}"
            raise PrefenvsError(f"unknown query selector {self.name!r}: {known}")
        check_settings(self)
        if self.name == "near-on-policy" and self.last_episodes is None:
            raise PrefenvsError("near-on-policy needs last_episodes, the number of newest episodes to draw from")

    @classmethod
    def named(cls, name: str) -> Selector:
        """Return the selector of a name with its published settings; near-on-policy draws from the last 10 episodes."""
        return cls(name, last_episodes=10 if name == "near-on-policy" else None)

    def select(
        self,
        pool: Trajectories,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
        rng: np.random.Generator,
    ) -> list[Query]:
        """Choose `count` pairs of segments of `length` steps.

        No pair comes twice, and none compares a segment with its like. Where the pool holds too few such pairs, fewer
        are returned, with a warning. `reward_model` may be None for selectors that do not ask its opinion; `labelled`
        are the earlier answers, whose pairs of the same length are k-center's first centres (skips do not count).
        Raises PrefenvsError for a count below 1.
        """
        _check_count(count)
        visible = replace(pool, true_rewards=None, states=None, scenes=None)
        candidates = count if self.name in ("uniform", "near-on-policy") else count * self.oversample
        # Unlike segments are the rule; where they are not, look ten times as far.
        for draws in (candidates, 10 * candidates):
            pairs = self._draw(visible, draws, length, rng)
            pairs = pairs[_differ(visible, pairs, length)][:candidates]
            if len(pairs) >= count:
                break
        if len(pairs) < count:
            warnings.warn(
                f"only {len(pairs)} of {count} queries: the pool holds no more pairs of unlike segments", stacklevel=2
            )
        chosen = pairs[self._choose(visible, pairs, min(count, len(pairs)), length, reward_model, labelled)]
        return make_pairs(pool.cut(chosen[:, :, 0].T.ravel(), chosen[:, :, 1].T.ravel(), length))

    def _draw(self, pool: Trajectories, count: int, length: int, rng: np.random.Generator) -> Array:
        """Draw distinct unordered pairs of distinct segments, uniformly: [N <= count, 2, (episode, start)]."""
        segments = _count_segments(pool, length, self.last_episodes)
        total = segments * (segments - 1) // 2
        numbers = rng.choice(total, size=min(count, total), replace=False)
        sides = rng.permuted(number_to_pair(numbers), axis=1)
        return np.stack(pool.locate(sides, length, self.last_episodes), axis=-1)

    def _choose(
        self,
        pool: Trajectories,
        pairs: Array,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
    ) -> Array:
        """Return the indices of the `count` pairs to ask."""
        if self.name in ("uniform", "near-on-policy"):
            return np.arange(count)
        opinion = self.name.removeprefix("k-center").removeprefix("-")
        kept = np.arange(len(pairs))
        if opinion:
            if reward_model is None:
                raise PrefenvsError(f"the selector {self.name!r} asks a reward model's opinion, but got None")
            scores = SCORES[opinion](preference_probabilities(_returns(pool, pairs, length, reward_model)))
            kept = np.argsort(-scores, kind="stable")
        if not self.name.startswith("k-center"):
            return kept[:count]
        if opinion:
            kept = kept[: max(len(pairs) // 2, count)]
        features = _cut(pool, pairs[kept], length).observations.reshape(len(kept), -1).astype(np.float32, copy=False)
        return kept[k_center(features, _centers(labelled, features.shape[1]), count)]


SelectQueries = Callable[
    [Trajectories, int, int, RewardModel | None, Sequence[Preference], np.random.Generator], list[Query]
]
"""A function with the arguments and the result of `QuerySelector.select`."""


@dataclass(frozen=True)
class OwnSelector:
    """A selector of the user's own, `choose`, which is named where it fails or returns no queries."""

    choose: SelectQueries
    name: str

    def select(
        self,
        pool: Trajectories,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
        rng: np.random.Generator,
    ) -> list[Query]:
        """Return what `choose` does; raises PrefenvsError where it fails, or returns anything but queries."""
        with failure_told(f"the selector {self.name} fails"):
            found: object = self.choose(pool, count, length, reward_model, labelled, rng)
        wanted = f"it returns at most {count} of prefenvs.Query, in a list"
        if not isinstance(found, list | tuple):
            raise PrefenvsError(f"the selector {self.name} returned {type(found).__name__}: {wanted}")
        if len(found) > count or not all(isinstance(query, Query) for query in found):
            kinds = ", ".join(sorted({type(query).__name__ for query in found}))
            raise PrefenvsError(f"the selector {self.name} returned {len(found)} of {kinds}: {wanted}")
        return list(found)


@dataclass(frozen=True)
class PolicyLikelihood:
    """Ask about segments that the present policy would produce (PoLiCER, 2026).

    Segments drawn uniformly from the newest episodes are ranked by the mean log-likelihood of their actions; rank k is
    chosen with probability in proportion to k^-temperature, without replacement, and the chosen are paired at random.
    """

    log_likelihood: LogLikelihood
    temperature: NonNegativeFloat = 1.0
    candidates: AtLeastTwo = 40
    """Segments drawn for each query."""
    last_episodes: PositiveInt = 100

    def __post_init__(self) -> None:
        check_settings(self)

    def select(
        self,
        pool: Trajectories,
        count: int,
        length: int,
        reward_model: RewardModel | None,
        labelled: Sequence[Preference],
        rng: np.random.Generator,
    ) -> list[Query]:
        """Choose `count` pairs of segments of `length` steps, fewer where the pool holds too few.

        Raises PrefenvsError for a count below 1, and a pool with fewer than two segments.
        """
        _check_count(count)
        visible = replace(pool, true_rewards=None, states=None, scenes=None)
        total = _count_segments(visible, length, self.last_episodes)
        drawn = rng.choice(total, size=min(self.candidates * count, total), replace=False)
        where = np.stack(visible.locate(drawn, length, self.last_episodes), axis=-1)
        likelihood = np.concatenate([self._score(visible, part, length) for part in _chunks(where, length)])
        ranks = np.empty(len(where))
        ranks[np.argsort(-likelihood, kind="stable")] = np.arange(1, len(where) + 1)
        # At a high temperature the last ranks must stay possible: as many are drawn as are asked for.
        odds = np.maximum(ranks**-self.temperature, np.finfo(np.float64).tiny)
        size = 2 * min(count, len(where) // 2)
        chosen = where[rng.choice(len(where), size=size, replace=False, p=odds / odds.sum())]
        pairs = chosen.reshape(-1, 2, 2)
        pairs = pairs[_differ(visible, pairs, length)]
        if len(pairs) < count:
            warnings.warn(
                f"only {len(pairs)} of {count} queries: the pool holds no more pairs of unlike segments", stacklevel=2
            )
        return make_pairs(pool.cut(pairs[:, :, 0].T.ravel(), pairs[:, :, 1].T.ravel(), length))

    def _score(self, pool: Trajectories, where: Array, length: int) -> Array:
        """Return the mean log-likelihood [N] of the segments at (episode, start) [N, 2]."""
        batch = pool.cut(where[:, 0], where[:, 1], length)
        flat = (array.reshape(-1, *array.shape[2:]) for array in (batch.observations, batch.actions))
        mean: Array = self.log_likelihood(*flat).reshape(len(where), length).mean(axis=1)
        return mean


def find_selector(given: str | QuerySelector | SelectQueries) -> QuerySelector:
    """Return the selector of a name (one of `NAMES`, or `module:NAME`), or the object or function given.

    Raises PrefenvsError for anything else.
    """
    found: object = given
    if isinstance(found, str):
        if found == POLICY_LIKELIHOOD:
            raise PrefenvsError(f"the selector {found!r} asks an agent's policy: choose another where there is none")
        if ":" not in found:
            return Selector.named(found)
        found = import_object(found, "selector")
    name = given if isinstance(given, str) else getattr(found, "__name__", type(found).__name__)
    if isinstance(found, type):
        found = found()
    if isinstance(found, Selector | PolicyLikelihood):
        return found
    if isinstance(found, QuerySelector) or callable(found):
        return OwnSelector(found.select if isinstance(found, QuerySelector) else found, name)
    raise PrefenvsError(
        f"the query selector {given!r} is no selector: give one of {', '.join(NAMES)}, module:NAME, a function, or an "
        "object with a method select"
    )


def _check_count(count: int) -> None:
    if count < 1:
        raise PrefenvsError(f"a selector chooses at least 1 query, got count={count}")


def _count_segments(pool: Trajectories, length: int, last_episodes: int | None) -> int:
    """Number of segments to draw from; raises PrefenvsError for fewer than two."""
    segments = pool.count_segments(length, last_episodes)
    if segments < 2:
        longest = int(pool.lengths[-(last_episodes or 0) :].max(initial=0))
        raise PrefenvsError(
            f"a query needs 2 segments of {length} steps, but the episodes to draw from hold {segments} (the "
            f"longest has {longest} steps); choose a shorter segment or collect more steps first"
        )
    return segments


def _binary_entropy(probabilities: Array) -> Array:
    total: Array = entr(probabilities) + entr(1.0 - probabilities)
    return total


def _cut(pool: Trajectories, pairs: Array, length: int) -> SegmentBatch:
    """Cut both segments of each pair, one after the other: a batch of 2 N segments."""
    return pool.cut(pairs[:, :, 0].ravel(), pairs[:, :, 1].ravel(), length)


def _chunks(pairs: Array, length: int) -> list[Array]:
    """Split pairs, or their indices, so that the segments of a part hold about `CHUNK_STEPS` steps."""
    return np.array_split(pairs, max(-(-2 * length * len(pairs) // CHUNK_STEPS), 1))


def _differ(pool: Trajectories, pairs: Array, length: int) -> Array:
    """Tell for each pair whether its segments differ in any observation or action, [N] bool.

    Where there are neither, as in videos, segments of different steps differ.
    """
    if not pool.observations[:1].size and not pool.actions[:1].size:
        differ: Array = np.any(pairs[:, 0] != pairs[:, 1], axis=-1)
        return differ
    differ = np.zeros(len(pairs), bool)
    # Most pairs differ in their first step; only the others are worth a look at the rest.
    for steps in (1, length):
        unsure = np.flatnonzero(~differ)
        for chunk in _chunks(unsure, steps):
            batch = _cut(pool, pairs[chunk], steps)
            for array in (batch.observations, batch.actions):
                differ[chunk] |= np.any(array[0::2] != array[1::2], axis=tuple(range(1, array.ndim)))
    return differ


def _returns(pool: Trajectories, pairs: Array, length: int, reward_model: RewardModel) -> Array:
    """Return every member's sum of predicted rewards over each segment, [members, N, 2]."""

    def predict(chunk: Array) -> Array:
        batch = _cut(pool, chunk, length)
        rewards = predict_segments(reward_model, batch.observations, batch.actions)
        returns: Array = rewards.sum(axis=-1, dtype=np.float64)
        return returns.reshape(len(returns), len(chunk), 2)

    return np.concatenate([predict(chunk) for chunk in _chunks(pairs, length)], axis=1)


def _centers(labelled: Sequence[Preference], size: int) -> Array:
    """Return the observations of answered pairs, flattened: [C, size]; pairs of another length are left out."""
    asked = [preference.query.segments for preference in labelled if not preference.skipped]
    rows = [segments for segments in asked if sum(segment.observations.size for segment in segments) == size]
    centers = np.zeros((len(rows), size), np.float32)
    for row, segments in zip(centers, rows, strict=True):
        np.concatenate([segment.observations.ravel() for segment in segments], out=row)
    return centers
