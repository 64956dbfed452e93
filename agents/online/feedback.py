"""Feedback sessions: when to ask, what to ask, and learning the reward from what has been answered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from prefenvs.accuracy import Share
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.agents.rewards.surf import centre_query
from prefenvs.choices import check_choices
from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeInt, PositiveInt
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.queries import Selector
from prefenvs.segments import Segment
from prefenvs.trajectories import TrajectoryBuffer


@dataclass(frozen=True)
class FeedbackConfig:
    """When and how much a rater is asked; the defaults are B-Pref's for walker-walk with 500 labels."""

    labels: PositiveInt = 500
    """Label budget; every query asked counts, skipped or not."""
    per_session: PositiveInt = 50
    """Queries in one session (the first value where a schedule changes it)."""
    interact: PositiveInt = 20_000
    """Environment steps between two sessions."""
    segment_length: PositiveInt = 50
    """Steps in one segment."""
    selector: str = "disagreement"
    """How queries are chosen after the first session, which is always uniform (see prefenvs.queries)."""
    schedule: Literal["constant", "decreasing", "increasing"] = "constant"
    """How the size of a session changes over the run."""
    unlabelled: NonNegativeInt = 10
    """For SURF: unlabelled queries drawn for each labelled one (in its scripts 10 on Meta-World, 100 on walker)."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.labels < self.per_session:
            raise PrefenvsError(
                f"a budget of {self.labels} labels is smaller than one session of {self.per_session}; "
                "raise --labels or lower --per-session"
            )
        for name in ("per_session", "interact", "segment_length"):
            if getattr(self, name) < 1:
                raise PrefenvsError(f"{name} must be at least 1, got {getattr(self, name)}")
        Selector.named(self.selector)


class Feedback:
    """The rater's side of training: holds the sessions and keeps every answer.

    An oracle that answers late (a person, a model behind a network) never blocks: what has arrived is learned from at
    the next session, or at one of the looks in between, ten for each interval.
    """

    def __init__(
        self,
        config: FeedbackConfig,
        oracle: Oracle,
        reward_model: RewardEnsemble,
        buffer: TrajectoryBuffer,
        first_session: int,
        total_steps: int,
        seed: int | None = None,
    ) -> None:
        self.config, self.oracle, self.reward_model, self.buffer = config, oracle, reward_model, buffer
        self.total_steps = total_steps
        self.next_session = self.next_look = first_session
        self.asked = self.sessions = 0
        self.fitted = False
        self.preferences: list[Preference] = []
        self.unlabelled: list[Query] = []
        self.predicted = Share(0.0, 0)
        surf = reward_model.config.surf
        # SURF learns from the rated segment with a margin of steps around it, which the rater does not see.
        self.margin = surf.margin if surf is not None else 0
        self.length = config.segment_length + 2 * self.margin
        self.wide: list[Query] = []
        self._wide: dict[str, Segment] = {}
        self.rng = np.random.default_rng(seed)
        # In a group of seeds all reward models are fitted at once.
        self.fit: Callable[[Sequence[Preference], Sequence[Query]], dict[str, float]] = self.fit_alone

    @property
    def labels(self) -> int:
        """Number of answers that were not skipped."""
        return sum(not preference.skipped for preference in self.preferences)

    def due(self, steps: int) -> bool:
        """Tell whether a session should be held after `steps` environment steps."""
        if self.asked < self.config.labels and steps >= self.next_session:
            return self._has_segments()
        return steps >= self.next_look and self.oracle.pending > 0

    def hold(self, steps: int) -> dict[str, float] | None:
        """Ask what is due, take what has been answered, and fit the reward model.

        Returns the fit's metrics, or None where nothing new could be learned (no answers yet, or only skips).
        """
        if self.asked < self.config.labels and steps >= self.next_session:
            self._ask(steps)
            self.next_session = steps + self.config.interact
        self.next_look = steps + max(self.config.interact // 10, 1)
        answers = [self._widen(answer) for answer in self.oracle.collect()]
        changed = self._add(answers)
        status: dict[str, float | None] = {"steps": steps, "labels": self.labels, "budget": self.config.labels}
        metrics = None
        if self.labels and (changed or not all(answer.skipped for answer in answers)):
            metrics = self.fit(self.preferences, self.unlabelled)
            self._pool(metrics)
        self.oracle.report(status | self._describe_predicted())
        return metrics

    def _pool(self, metrics: dict[str, float]) -> None:
        """Count the answers that the model predicted before it learned from them: of one look they are few."""
        count = int(metrics["new"])
        # A model that has not learned yet predicts nothing.
        if count and self.fitted:
            self.predicted = Share(self.predicted.hits + metrics["new_accuracy"] * count, self.predicted.count + count)
        self.fitted = True
        if self.predicted.count:
            low, high = self.predicted.interval
            metrics |= {"predicted_accuracy": self.predicted.value, "predicted": float(self.predicted.count)}
            metrics |= {"predicted_low": low, "predicted_high": high}

    def _describe_predicted(self) -> dict[str, float | None]:
        """Return the accuracy of what was predicted before it was learned, its 95% interval and how many labels."""
        share = self.predicted
        low, high = share.interval if share.count else (None, None)
        return {
            "held_out_accuracy": share.value if share.count else None,
            "held_out_low": low,
            "held_out_high": high,
            "held_out_count": share.count,
        }

    def fit_alone(self, preferences: Sequence[Preference], unlabelled: Sequence[Query]) -> dict[str, float]:
        """Fit the reward model to all answers and return the metrics."""
        return self.reward_model.fit(preferences, unlabelled=unlabelled)

    def _add(self, answers: list[Preference]) -> bool:
        """Keep answers, the later ones in place of earlier ones; tell whether any earlier one was replaced."""
        new = {(answer.query.id, answer.annotator) for answer in answers}
        kept = [old for old in self.preferences if (old.query.id, old.annotator) not in new]
        replaced = len(kept) < len(self.preferences)
        latest = {(answer.query.id, answer.annotator): answer for answer in answers}
        self.preferences = [*kept, *latest.values()]
        return replaced

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the random state that a checkpoint has to keep, beside `preferences` and `wide`."""
        names = ("next_session", "next_look", "asked", "sessions", "fitted")
        state: dict[str, Any] = {name: getattr(self, name) for name in names}
        state |= {"rng": self.rng.bit_generator.state, "oracle": self.oracle.state_dict()}
        return state | {"unlabelled": len(self.unlabelled), "predicted": [self.predicted.hits, self.predicted.count]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Unlabelled queries are not kept but drawn anew, as many, from the episodes that the buffer holds by now.
        """
        state = dict(state)
        self.rng.bit_generator.state = state.pop("rng")
        self.oracle.load_state_dict(state.pop("oracle"))
        unlabelled = state.pop("unlabelled", 0)
        self.predicted = Share(*state.pop("predicted", (0.0, 0)))
        for name, value in state.items():
            setattr(self, name, value)
        if unlabelled:
            self.unlabelled = self._draw_uniform(unlabelled, np.random.default_rng([self.asked, self.sessions]))

    def keep_margins(self, queries: Iterable[Query]) -> list[Query]:
        """Remember queries in `wide` until answers come, and return what the rater is to see of them, in order."""
        queries = list(queries)
        centres = [centre_query(query, self.margin) for query in queries]
        self.wide += queries
        for centre, query in zip(centres, queries, strict=True):
            # By segment: a rater may have compared the segments of different queries.
            self._wide |= {seen.hash: whole for seen, whole in zip(centre.segments, query.segments, strict=True)}
        return centres

    def _ask(self, steps: int) -> None:
        name = self.config.selector if self.labels else "uniform"
        trajectories = self.buffer.trajectories()
        self.oracle.observe(trajectories)
        size = self._session_size(steps)
        queries = Selector.named(name).select(
            trajectories, size, self.length, self.reward_model, self.preferences, self.rng
        )
        if self.margin:
            self.unlabelled += self._draw_uniform(size * self.config.unlabelled, self.rng)
            queries = self.keep_margins(queries)
        self.oracle.ask(queries)
        self.asked += len(queries)
        self.sessions += 1

    def _draw_uniform(self, count: int, rng: np.random.Generator) -> list[Query]:
        return Selector.named("uniform").select(self.buffer.trajectories(), count, self.length, None, (), rng)

    def _widen(self, answer: Preference) -> Preference:
        """Give an answer's segments the margins back that SURF trains on."""
        if not self.margin:
            return answer
        whole = tuple(self._wide.get(segment.hash, segment) for segment in answer.query.segments)
        return replace(answer, query=Query(whole))

    def _session_size(self, steps: int) -> int:
        """B-Pref's schedules in the budget: floor(n (T - t) / T) decreasing, floor(n T / (T - t + 1)) increasing."""
        size, total, left = self.config.per_session, self.total_steps, max(self.total_steps - steps, 0)
        if self.config.schedule == "decreasing":
            size = size * left // total
        elif self.config.schedule == "increasing":
            size = size * total // (left + 1)
        return max(min(size, self.config.labels - self.asked), 1)

    def _has_segments(self) -> bool:
        trajectories = self.buffer.trajectories()
        if trajectories.count_segments(self.length) >= 2:
            return True
        if len(trajectories) >= 20 and self.buffer.episodes_seen % 20 == 0:
            warnings.warn(
                f"no query could be asked yet: the last {len(trajectories)} episodes of {self.buffer.task!r} are all "
                f"shorter than segment_length={self.config.segment_length}; choose shorter segments",
                stacklevel=2,
            )
        return False
