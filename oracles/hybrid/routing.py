"""Which queries are worth the costly rater: scores, a quota that is kept, and a router that learns from audits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefenvs.preferences import Preference, Query
from prefenvs.protocols import RewardModel, predict_segments
from prefenvs.queries import disagreement, preference_probabilities
from prefenvs.segments import Array, Segment

RECENT = 200
"""Scores that a score which comes alone is compared with."""
FEWEST = 20
"""Queries answered by both raters before a learned router is trusted."""


class Quota:
    """Choose the queries of the highest scores, but never more than a share of all that were scored."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.seen = self.sent = 0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def choose(self, scores: Array) -> Array:
        """Return which of the scores [Q] are chosen, [Q] bool; a score of 0 or below never is.

        Scores that come together compete with one another. Where so few come that the share of them is below one, they
        compete with recent ones as well: one is chosen only if it is among the highest share of those.
        """
        scores = np.asarray(scores, np.float64)
        self.seen += len(scores)
        self._recent.extend(scores.tolist())
        allowed = int(self.share * self.seen + 1e-9) - self.sent
        chosen = np.zeros(len(scores), bool)
        chosen[np.argsort(-scores, kind="stable")[: max(allowed, 0)]] = True
        chosen &= scores > 0
        if chosen.any() and len(scores) * self.share < 1:
            chosen &= scores >= np.quantile(self._recent, 1 - self.share, method="higher")
        self.sent += int(chosen.sum())
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return what later choices depend on, fit for JSON."""
        return {"seen": self.seen, "sent": self.sent, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.seen, self.sent = state["seen"], state["sent"]
        self._recent = deque(state["recent"], RECENT)


class LearnedRouter:
    """Predict how likely the costly rater would choose otherwise than the cheap one, from features of the query.

    After Hybrid Preferences (Miranda et al. 2025), which sends those queries to people that promise the greatest gain.
    There the gain is the predicted test score of a reward model trained on the mixture, known from many mixtures of a
    data set that both raters labelled in full. Here it is the chance that the label would change, learned from the
    queries that both have answered so far: a logistic regression on standardised features and their squares.
    """

    def __init__(self, penalty: float = 1.0) -> None:
        """penalty: of the squared weights, in units of one query's loss."""
        self.penalty = penalty
        self.examples: list[tuple[list[float], bool]] = []
        self._fitted: tuple[Array, Array, Array] | None = None

    def add(self, features: Array, changed: bool) -> None:
        """Learn from a query [F] that both raters answered; `changed` where they chose differently."""
        if self.examples and len(self.examples[0][0]) != len(features):
            # The features have changed, as a reward model was added.
            self.examples.clear()
        self.examples.append((np.asarray(features, np.float64).tolist(), changed))
        self._fitted = None

    @property
    def ready(self) -> bool:
        """Whether there are examples enough, of both kinds."""
        return len(self.examples) >= FEWEST and len({changed for _, changed in self.examples}) == 2

    def predict(self, features: Array) -> Array:
        """Return the chances [Q] that the costly rater would choose otherwise, for features [Q, F]."""
        if self._fitted is None:
            known = np.array([row for row, _ in self.examples])
            mean, spread = known.mean(0), known.std(0) + 1e-9
            changed = np.array([changed for _, changed in self.examples], np.float64)
            self._fitted = mean, spread, _fit_logistic(_expand((known - mean) / spread), changed, self.penalty)
        mean, spread, weights = self._fitted
        # What lies far outside of all that was seen is taken for the edge of it.
        return _logistic(_expand(np.clip((features - mean) / spread, -4.0, 4.0)) @ weights)


def measure_disagreement(model: RewardModel, queries: Sequence[Query]) -> Array:
    """Return how far the members of a reward ensemble disagree about each pair, [Q], as PEBBLE's selector does."""
    return disagreement(preference_probabilities(_returns(model, queries)))


def measure_uncertainty(answer: Preference) -> float:
    """Return how unsure a rater was, by its own answer: 0 for a certain one, 1 for a tie or a skip."""
    if answer.probabilities is None:
        return 1.0
    top = np.sort(answer.probabilities)[-2:]
    return float(1.0 - (top[1] - top[0]))


def describe_queries(
    queries: Sequence[Query], answers: Sequence[Preference], model: RewardModel | None = None
) -> Array:
    """Return what a learned router goes by, [Q, F] float64, for queries of two and the cheap rater's answers.

    How far the mean observations and the mean actions of the pair lie apart, how much the two move and act and how much
    one more than the other, the cheap rater's uncertainty, and, with a reward model, how far its mean preference lies
    from a toss and its members' spread.
    """
    rows = [
        [*_compare(query.segments[0], query.segments[1]), measure_uncertainty(answer)]
        for query, answer in zip(queries, answers, strict=True)
    ]
    found = np.asarray(rows, np.float64)
    if model is None:
        return found
    chances = preference_probabilities(_returns(model, queries))
    return np.column_stack([found, np.abs(chances.mean(0) - 0.5), chances.std(0)])


def _compare(first: Segment, second: Segment) -> list[float]:
    apart = [_mean(first.observations) - _mean(second.observations), _mean(first.actions) - _mean(second.actions)]
    moves = [np.abs(np.diff(s.observations, axis=0)).sum() / len(s) for s in (first, second)]
    acts = [np.square(np.asarray(s.actions, np.float64)).mean() for s in (first, second)]
    sizes = [float(np.linalg.norm(difference)) for difference in apart]
    return [*sizes, *(f(pair) for pair in (np.log1p(moves), np.log1p(acts)) for f in (_sum, _gap))]


def _sum(pair: Array) -> float:
    return float(pair[0] + pair[1])


def _gap(pair: Array) -> float:
    return float(abs(pair[0] - pair[1]))


def _mean(array: Array) -> Array:
    mean: Array = np.asarray(array, np.float64).reshape(len(array), -1).mean(0)
    return mean


def _returns(model: RewardModel, queries: Sequence[Query]) -> Array:
    """Return predicted returns [members, Q, 2]; one call for each length of segment."""
    groups: dict[int, list[int]] = {}
    segments = [segment for query in queries for segment in query.segments]
    for i, segment in enumerate(segments):
        groups.setdefault(len(segment), []).append(i)
    found: dict[int, Array] = {}
    for members in groups.values():
        observations = np.stack([segments[i].observations for i in members])
        rewards = predict_segments(model, observations, np.stack([segments[i].actions for i in members]))
        found |= dict(zip(members, rewards.sum(-1, dtype=np.float64).T, strict=True))
    flat = np.stack([found[i] for i in range(len(segments))], axis=1)
    return flat.reshape(len(flat), len(queries), 2)


def _expand(features: Array) -> Array:
    ones = np.ones((*features.shape[:-1], 1))
    expanded: Array = np.concatenate([ones, features, features**2], axis=-1)
    return expanded


def _logistic(x: Array) -> Array:
    chance: Array = 1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0)))
    return chance


def _fit_logistic(features: Array, targets: Array, penalty: float) -> Array:
    """Return the weights of a logistic regression by Newton's method; the constant is not penalised."""
    weights = np.zeros(features.shape[1])
    ridge = np.full(len(weights), penalty)
    ridge[0] = 1e-6
    for _ in range(50):
        chance = _logistic(features @ weights)
        slope = features.T @ (chance - targets) + ridge * weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        # A step that is too long would swing from one side to the other.
        weights -= step * min(1.0, 5.0 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return weights
