"""What simulated raters share: from the value of each step to answers, through a teacher's irrationalities."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import sequence
from prefenvs.oracles.simulated.immediate import ImmediateOracle
from prefenvs.oracles.simulated.teachers import CROWDS, TEACHERS, Teacher, find_teacher
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.trajectories import Trajectories

EPISODES = 10
"""Episodes that the mean return of the policy is taken over."""
POOL = 2000
"""Segment scores kept for quantiles, and differences likewise, for each segment length."""
ROUNDING = 1e-9
"""Scores that differ by less, relative to the sum of absolute step values, are equal."""


class SyntheticOracle(ImmediateOracle):
    """A rater that answers at once, by a value of each step that its subclass computes.

    Answers depend on the seed and on the order of the calls. Queries that are asked together may have different
    numbers K of segments and different segment lengths T, but the segments of one query have the same T.
    """

    kind = "synthetic"

    def __init__(
        self, teacher: str | Teacher = "oracle", seed: int | None = None, soft: bool = False, annotator: str = ""
    ) -> None:
        """Make a rater.

        teacher: a `Teacher`, or a name: B-Pref's oracle, mistake, noisy, skip, myopic, equal; unsure; one of `CROWDS`.
        soft: answer with the chance that each segment would have been preferred, mistakes included, instead of a draw.
        annotator: name of the simulated person, so that several can be told apart; the teacher's name if empty.
        """
        super().__init__()
        self.teacher = find_teacher(teacher) if isinstance(teacher, str) else teacher
        preset = next((name for name, known in (TEACHERS | CROWDS).items() if known == self.teacher), "teacher")
        self.name = f"{self.kind}-{preset}"
        self.annotator = annotator or preset
        self.soft = soft
        # A stream of its own: with the plain seed a rater would err by the numbers that its queries are drawn with.
        self._rng = np.random.default_rng(None if seed is None else sequence(seed, "rater"))
        self._sessions = 0
        # Mean true reward per step of the recent episodes; None before the first look.
        self._reward_rate: float | None = None
        # Scores and differences asked so far by segment length; count, sum and sum of squares of all step values.
        self._scores: dict[int, Array] = {}
        self._differences: dict[int, Array] = {}
        self._moments = np.zeros(3)
        self._warned = False

    @abstractmethod
    def step_values(self, segments: Sequence[Segment]) -> Array:
        """Return the value of each step, [N, T] float64, for N segments of one length.

        T may be smaller than the segments' length where a rater cannot judge their last steps.
        """

    def ask(self, queries: Sequence[Query]) -> None:
        """Answer; raises PrefenvsError if a segment lacks what the rater needs, and then answers none of them."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, query in enumerate(queries):
            lengths = {len(segment) for segment in query.segments}
            if len(lengths) > 1:
                raise PrefenvsError(f"a simulated rater compares segments of one length, got {sorted(lengths)} steps")
            groups.setdefault((len(query.segments), lengths.pop()), []).append(i)
        valued = []
        for (count, _), members in groups.items():
            flat = np.asarray(self.step_values([s for i in members for s in queries[i].segments]), np.float64)
            if not np.all(np.isfinite(flat)):
                raise PrefenvsError(
                    f"{self.name}: the value of a step of a queried segment is NaN or infinity; it must be finite"
                )
            valued.append(flat.reshape(len(members), count, -1))
        answers: list[Preference | None] = [None] * len(queries)
        for members, values in zip(groups.values(), valued, strict=True):
            skipped, probabilities = self._judge(values)
            for i, skip, row in zip(members, skipped, probabilities, strict=True):
                answers[i] = Preference(queries[i], None if skip else row, self.annotator, self.name)
        self._answers.extend(answer for answer in answers if answer is not None)

    def observe(self, trajectories: Trajectories) -> None:
        """Take the mean reward per step of the last 10 episodes as the scale of thresholds, before a session."""
        self._sessions += 1
        if trajectories.true_rewards is None or not len(trajectories):
            return
        returns, lengths = trajectories.returns[-EPISODES:], trajectories.lengths[-EPISODES:]
        self._reward_rate = float(returns.sum() / lengths.sum())

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later answers depend on, as plain numbers, lists and dicts that JSON can hold.

        Raises PrefenvsError while answers wait to be collected, since they would be lost.
        """
        if self._answers:
            raise PrefenvsError(
                f"{self.name} holds {len(self._answers)} answers: collect() them before saving its state"
            )
        return {
            "rng": self._rng.bit_generator.state,
            "sessions": self._sessions,
            "reward_rate": self._reward_rate,
            "scores": {str(length): pool.tolist() for length, pool in self._scores.items()},
            "differences": {str(length): pool.tolist() for length, pool in self._differences.items()},
            "moments": self._moments.tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; the teacher must be the same."""
        self._rng.bit_generator.state = state["rng"]
        self._sessions, self._reward_rate = state["sessions"], state["reward_rate"]
        self._scores = {int(length): np.array(pool) for length, pool in state["scores"].items()}
        self._differences = {int(length): np.array(pool) for length, pool in state["differences"].items()}
        self._moments = np.array(state["moments"])

    def _judge(self, values: Array) -> tuple[Array, Array]:
        """Return skipped [Q] bool and probabilities [Q, K] for step values [Q, K, T]."""
        teacher, length = self.teacher, values.shape[2]
        scores = values.sum(axis=2)
        best = scores.max(axis=1)
        self._remember(values, scores)
        skip_below, tie_below, guess_below = self._thresholds(length)
        skipped = best <= skip_below if teacher.skip > 0 and skip_below is not None else np.zeros(len(best), bool)
        probabilities = self._prefer(values)
        if teacher.unsure > 0 and guess_below is not None:
            close = best[:, None] - scores < guess_below
            unsure = close.sum(axis=1) > 1
            probabilities[unsure] = self._guess(close[unsure])
        if teacher.equal > 0 and tie_below is not None:
            near = best[:, None] - scores < tie_below
            if teacher.exact_ties == "guess" and teacher.threshold_scale == "quantile" and not self.soft:
                near |= self._fill_quantile(values, scores, tie_below)
            tied = near.sum(axis=1) > 1
            probabilities[tied] = near[tied] / near[tied].sum(axis=1, keepdims=True)
        return skipped, probabilities

    def _fill_quantile(self, values: Array, scores: Array, tie_below: float) -> Array:
        """Which segments [Q, K] are tied with the best although their difference is the threshold itself, by chance.

        Where many differences are equal (a sparse reward's are mostly 0), fewer than the share `equal` lie below it.
        """
        pool, ranked = self._differences[values.shape[2]], np.sort(scores, axis=1)
        reach = ROUNDING * float(np.abs(values).sum(axis=2).max())
        below, here = np.mean(pool < tie_below - reach), np.mean(np.abs(pool - tie_below) <= reach)
        chance = (self.teacher.equal - below) / here if here > 0 else 0.0
        drawn = self._rng.random(len(scores)) < chance
        level: Array = (np.abs(ranked[:, -1] - ranked[:, -2] - tie_below) <= reach) & drawn
        return level[:, None] & (ranked[:, -1:] - scores <= tie_below + reach)

    def _prefer(self, values: Array) -> Array:
        """Myopia, rationality and mistakes: probabilities [Q, K], one-hot unless soft or exactly tied."""
        teacher, (queries, count, length) = self.teacher, values.shape
        scores: Array = values @ teacher.gamma ** np.arange(length - 1, -1, -1.0)
        chances: Array
        if teacher.rational:
            chances = _shares_of_best(scores, ROUNDING * np.abs(values).sum(axis=2).max(axis=1), teacher.exact_ties)
        else:
            logits = teacher.beta / self._unit() * scores
            chances = np.exp(logits - logits.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
        if self.soft:
            # A mistake moves the preference to one of the K - 1 others, each alike.
            chances = (1.0 - teacher.mistake) * chances + teacher.mistake * (1.0 - chances) / (count - 1)
            return chances
        if not teacher.rational or teacher.exact_ties == "guess":
            draws: Array = self._rng.random((queries, 1))
            chosen = (draws > chances.cumsum(axis=1)[:, :-1]).sum(axis=1)
            chances = np.eye(count)[chosen]
        if teacher.mistake > 0:
            mistaken: Array = self._rng.random((queries, 1)) <= teacher.mistake
            others: Array = self._rng.integers(1, count, (queries, 1))
            moved = np.take_along_axis(chances, (np.arange(count) - others) % count, axis=1)
            chances = np.where(mistaken, moved, chances)
        return chances

    def _guess(self, close: Array) -> Array:
        """Return probabilities [Q, K] of a rater who draws among segments [Q, K] alike; one-hot unless soft."""
        shares: Array = close / close.sum(axis=1, keepdims=True)
        if self.soft:
            return shares
        chosen = (self._rng.random((len(close), 1)) > shares.cumsum(axis=1)[:, :-1]).sum(axis=1)
        drawn: Array = np.eye(close.shape[1])[chosen]
        return drawn

    def _thresholds(self, length: int) -> tuple[float | None, float | None, float | None]:
        """Skip, tie and guess thresholds for segments of `length` steps; None where they do nothing."""
        teacher = self.teacher
        if teacher.threshold_scale == "quantile":
            return (
                float(np.quantile(self._scores[length], teacher.skip)),
                float(np.quantile(self._differences[length], teacher.equal)),
                float(np.quantile(self._differences[length], teacher.unsure)),
            )
        if max(teacher.skip, teacher.equal, teacher.unsure) == 0:
            return None, None, None
        scale = teacher.threshold_scale if isinstance(teacher.threshold_scale, float | int) else self._policy(length)
        if scale <= 0:
            return None, None, None
        power = 2 if teacher.double_scale and self._sessions > 1 else 1
        return scale * teacher.skip**power or None, scale * teacher.equal**power or None, scale * teacher.unsure or None

    def _policy(self, length: int) -> float:
        """Score of a segment that is as good as the recent policy."""
        rate = self._reward_rate
        if rate is None:
            rate = float(self._moments[1] / self._moments[0])
            self._warn("observe() was never called with true rewards, so the queried segments stand for the policy")
        if rate <= 0:
            self._warn("the policy's mean return is not above 0, so nothing is skipped or tied")
        return rate * length

    def _warn(self, reason: str) -> None:
        if not self._warned:
            warnings.warn(f'{self.name}: {reason}; threshold_scale="quantile" needs neither', stacklevel=6)
        self._warned = True

    def _remember(self, values: Array, scores: Array) -> None:
        """Add to the pools that quantiles and standard units are taken from; the present queries count."""
        self._moments += (values.size, values.sum(), np.square(values).sum())
        if self.teacher.threshold_scale != "quantile":
            return
        length, ranked = values.shape[2], np.sort(scores, axis=1)
        for pools, new in ((self._scores, scores.ravel()), (self._differences, ranked[:, -1] - ranked[:, -2])):
            pools[length] = np.concatenate([pools.get(length, np.zeros(0)), new])[-POOL:]

    def _unit(self) -> float:
        """Size of one unit of score."""
        if self.teacher.units == "raw":
            return 1.0
        count, total, squares = self._moments
        deviation = float(np.sqrt(max(squares / count - (total / count) ** 2, 0.0)))
        return deviation or 1.0


def _shares_of_best(scores: Array, rounding: Array, exact_ties: str) -> Array:
    """One-hot of the best score [Q, K]; among equal ones the shares are equal, or all for the first."""
    best = scores >= (scores.max(axis=1) - rounding)[:, None]
    if exact_ties == "first":
        best &= best.cumsum(axis=1) == 1
    shares: Array = best / best.sum(axis=1, keepdims=True)
    return shares
