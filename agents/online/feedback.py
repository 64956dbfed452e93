"""The preference loop: sample candidates, select queries, ask a rater, collect answers, fit the reward model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.errors import PrefenvsError, failure_told, near_matches
from prefenvs.internal.loading import import_object
from prefenvs.limits import NonNegativeInt, PositiveInt, check_settings
from prefenvs.metrics.accuracy import Share
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.protocols import QuerySelector, RewardModel
from prefenvs.queries import (
    POLICY_LIKELIHOOD,
    LogLikelihood,
    PolicyLikelihood,
    Selector,
    SelectQueries,
    find_selector,
)
from prefenvs.queries.lists import ListBuilder, ListMethod, ask_at_once, pairs_of
from prefenvs.segments import Array
from prefenvs.trajectories import TrajectoryBuffer

NEWEST = 10
"""Episodes that show the present policy, for `RewardConfig.agent_weight`."""
Schedule = Callable[[int, int, int], float]
"""Maps the first session's size, the environment steps made and the run's to a session's size; rounded down."""


def constant(size: int, steps: int, total: int) -> int:
    """Return the same size for each session."""
    return size


def decreasing(size: int, steps: int, total: int) -> int:
    """Return floor(n (T - t) / T), B-Pref's decreasing schedule."""
    return size * max(total - steps, 0) // total


def increasing(size: int, steps: int, total: int) -> int:
    """Return floor(n T / (T - t + 1)), B-Pref's increasing schedule."""
    return size * total // (max(total - steps, 0) + 1)


SCHEDULES: dict[str, Schedule] = {schedule.__name__: schedule for schedule in (constant, decreasing, increasing)}

if TYPE_CHECKING:
    GivenSelector = str | QuerySelector | SelectQueries
    GivenSchedule = str | Schedule
else:
    # What a command line can give, for those that read the fields' types.
    GivenSelector = GivenSchedule = str


def find_schedule(given: GivenSchedule) -> Schedule:
    """Return the schedule of a name (one of `SCHEDULES`, or `module:NAME`), or the function given."""
    found: object = given
    if isinstance(given, str):
        found = import_object(given, "schedule") if ":" in given else SCHEDULES.get(given)
    if not callable(found):
        known = f"{', '.join(SCHEDULES)}, module:NAME or a function"
        near = near_matches(given, tuple(SCHEDULES)) if isinstance(given, str) else ""
        raise PrefenvsError(f"schedule={given!r} is unknown: choose {known}.{near}")
    schedule: Schedule = found
    return schedule


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
    selector: GivenSelector = "disagreement"
    """How queries are chosen after the first session, which is always uniform: a name (see prefenvs.queries;
    policy-likelihood asks about what the present policy would do), `module:NAME`, a `QuerySelector` or a function."""
    schedule: GivenSchedule = "constant"
    """How the size of a session changes over the run: constant, decreasing, increasing, `module:NAME` or a function."""
    lists: ListMethod | None = None
    """Ask one question after the other, and learn from all pairs of the ranked lists that the answers make: lire, about
    two questions for each segment, or seqrank (see `prefenvs.queries.lists`). Questions are about segments of the
    selector's, are what the budget counts, and need a rater that answers at once."""
    list_questions: PositiveInt = 100
    """Questions of one list of lire, after which the next one begins."""
    unlabelled: NonNegativeInt = 10
    """For SURF: unlabelled queries drawn for each labelled one (in its scripts 10 on Meta-World, 100 on walker)."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.labels < self.per_session:
            raise PrefenvsError(
                f"a budget of {self.labels} labels is smaller than one session of {self.per_session}; "
                "raise --labels or lower --per-session"
            )
        if self.selector != POLICY_LIKELIHOOD:
            find_selector(self.selector)
        find_schedule(self.schedule)


class Feedback:
    """The state of the preference loop: the answers so far, the budget, and when the next session is due.

    A rater that answers late (a person, a model behind a network) never blocks: what has arrived is learned from at the
    next session, or at one of the looks in between, ten for each interval.
    """

    def __init__(
        self,
        config: FeedbackConfig,
        oracle: Oracle,
        reward_model: RewardModel,
        buffer: TrajectoryBuffer,
        first_session: int,
        total_steps: int,
        seed: int | None = None,
        log_likelihood: LogLikelihood | None = None,
    ) -> None:
        """log_likelihood: the policy's, for the selector policy-likelihood."""
        self.config, self.oracle, self.reward_model, self.buffer = config, oracle, reward_model, buffer
        self.total_steps = total_steps
        by_policy = config.selector == POLICY_LIKELIHOOD and log_likelihood is not None
        self.selector: QuerySelector = (
            PolicyLikelihood(log_likelihood) if by_policy else find_selector(config.selector)  # type: ignore[arg-type]
        )
        self.schedule = find_schedule(config.schedule)
        self.length = config.segment_length + 2 * oracle.margin
        self.next_session = self.next_look = first_session
        self.asked = self.sessions = 0
        self.fitted = False
        self.preferences: list[Preference] = []
        self.unlabelled: list[Query] = []
        self.predicted = Share(0.0, 0)
        self.rng = np.random.default_rng(seed)
        self.lists: ListBuilder | None = None
        if config.lists is not None:
            # A generator of its own, so that the answers alone tell what the lists are.
            self.lists = ListBuilder(config.lists, config.list_questions, np.random.default_rng([seed or 0, 1]))
        self._question: Query | None = None
        self._listed: set[str] = set()
        self._pairs: dict[str, Preference] = {}
        self._session_size(first_session)

    @property
    def labels(self) -> int:
        """Number of answers that were not skipped."""
        return sum(not preference.skipped for preference in self.preferences)

    def due(self, steps: int) -> bool:
        """Tell whether the loop is to be run after `steps` environment steps."""
        return self._may_ask(steps) or (steps >= self.next_look and self.oracle.pending > 0)

    def go_on(self, forgotten: int, total_steps: int) -> None:
        """Go on in a run of `total_steps`; forgotten: steps made so far that it does not count."""
        if self.sessions:
            self.next_session = max(self.next_session - forgotten, 0)
            self.next_look = max(self.next_look - forgotten, 0)
        self.total_steps = total_steps

    def run(self, steps: int) -> dict[str, float] | None:
        """Run the loop once: select and ask what is due, collect answers, and fit the reward model to all of them.

        Returns the fit's metrics, or None where nothing new could be learned (no answers yet, or only skips). The agent
        then relabels its experience and trains on.
        """
        answers: list[Preference] = []
        if self._may_ask(steps):
            size = self._session_size(steps)
            queries = self._select(size)
            if self.lists is None:
                self.oracle.ask(queries)
                self.asked += len(queries)
            else:
                answers = self._rank(self.lists, queries, size)
            self.sessions += 1
            self.next_session = steps + self.config.interact
        self.next_look = steps + max(self.config.interact // 10, 1)
        answers += self.oracle.collect()
        changed = self._add(answers)
        metrics = None
        if self.labels and (changed or not all(answer.skipped for answer in answers)):
            metrics = self._fit()
        status = {"steps": steps, "labels": self.labels, "budget": self.config.labels}
        self.oracle.report(status | self._describe_predicted())
        return metrics

    def refit(self) -> dict[str, float]:
        """Forget the reward and learn it anew from all answers; returns the fit's metrics."""
        assert isinstance(self.reward_model, RewardEnsemble)
        self.reward_model.trainer.restart()
        return self._fit()

    def _may_ask(self, steps: int) -> bool:
        return self.asked < self.config.labels and steps >= self.next_session and self._has_segments()

    def _session_size(self, steps: int) -> int:
        """Return how many queries a session has: what the schedule says, within the budget, and at least one."""
        with failure_told(f"the schedule fails after {steps} steps"):
            size = self.schedule(self.config.per_session, steps, self.total_steps)
        if not isinstance(size, int | float | np.number) or not math.isfinite(size):
            raise PrefenvsError(f"the schedule returned {size!r} after {steps} steps: it returns a number of queries")
        return max(min(int(size), self.config.labels - self.asked), 1)

    def count_most(self, every: int = 1) -> int:
        """Return how many labels can be asked until the run's end, if every session is held when it is due.

        every: environment steps between two moments at which one can be held.
        """
        due, most = self.next_session, 0
        while due < self.total_steps:
            held = max(due + -due % every, every)
            most += self._session_size(held)
            due = held + self.config.interact
        return min(most, self.config.labels)

    def _select(self, size: int) -> list[Query]:
        """Choose what is asked among segments of the recorded episodes; the first labels are drawn uniformly."""
        candidates = self.buffer.trajectories()
        self.oracle.observe(candidates)
        selector = self.selector if self.labels else Selector("uniform")
        queries = selector.select(candidates, size, self.length, self.reward_model, self.preferences, self.rng)
        if isinstance(self.reward_model, RewardEnsemble) and self.reward_model.config.surf is not None:
            self.unlabelled += self._draw_uniform(size * self.config.unlabelled, self.rng)
        return queries

    def _rank(self, lists: ListBuilder, queries: Sequence[Query], size: int) -> list[Preference]:
        """Ask at most `size` questions that put the segments of these queries into ranked lists; return the answers."""
        segments = {segment.hash: segment for query in queries for segment in query.segments}
        new = [segment for name, segment in segments.items() if name not in self._listed]
        answers: list[Preference] = []
        while len(answers) < size:
            while self._question is None:
                if not new:
                    return answers
                self._listed.add(new[0].hash)
                self._question = lists.add(new.pop(0))
            answers.append(ask_at_once(self.oracle, self._question))
            self.asked += 1
            self._question = lists.answer(answers[-1].probabilities)
        return answers

    def _rebuild(self, lists: ListBuilder) -> None:
        """Make the lists that the answers so far made, and the question that was open after them."""
        for answer in self.preferences:
            first, new = answer.query.segments
            self._listed |= {first.hash, new.hash}
            if self._question is None:
                if lists.begins:
                    lists.add(first)
                lists.add(new)
            self._question = lists.answer(answer.probabilities)

    def _learned_from(self) -> Sequence[Preference]:
        """Return the answers, or all pairs of the lists that they made."""
        if self.lists is None:
            return self.preferences
        like = self.preferences[-1]
        pairs = [pair for groups in self.lists.lists for pair in pairs_of(groups, like, None)]
        # The former objects where there are, since the reward model knows a query by its identity.
        self._pairs = {pair.query.id: self._pairs.get(pair.query.id, pair) for pair in pairs}
        return list(self._pairs.values())

    def _draw_uniform(self, count: int, rng: np.random.Generator) -> list[Query]:
        return Selector("uniform").select(self.buffer.trajectories(), count, self.length, None, (), rng)

    def _add(self, answers: Sequence[Preference]) -> bool:
        """Keep answers, the later ones in place of earlier ones; tell whether any earlier one was replaced."""
        new = {(answer.query.id, answer.annotator) for answer in answers}
        kept = [old for old in self.preferences if (old.query.id, old.annotator) not in new]
        replaced = len(kept) < len(self.preferences)
        latest = {(answer.query.id, answer.annotator): answer for answer in answers}
        self.preferences = [*kept, *latest.values()]
        return replaced

    def _fit(self) -> dict[str, float]:
        """Fit the reward model, and count what it predicted before it learned from it: of one look that is little."""
        if isinstance(self.reward_model, RewardEnsemble):
            agent = self._newest_steps() if self.reward_model.config.agent_weight else None
            reed = self.reward_model.config.reed
            steps = None if reed is None else self._transitions(reed.transitions)
            metrics = self.reward_model.fit(self._learned_from(), None, self.unlabelled, agent, steps)
        else:
            name = type(self.reward_model).__name__
            with failure_told(f"the reward model {name} fails to fit {len(self.preferences)} answers"):
                metrics = dict(self.reward_model.fit(self._learned_from()) or {})
        count = int(metrics.get("new", 0))
        # A model that has not learned yet predicts nothing.
        if count and self.fitted:
            self.predicted = Share(self.predicted.hits + metrics["new_accuracy"] * count, self.predicted.count + count)
        self.fitted = True
        if self.predicted.count:
            low, high = self.predicted.interval
            metrics |= {"predicted_accuracy": self.predicted.value, "predicted": float(self.predicted.count)}
            metrics |= {"predicted_low": low, "predicted_high": high}
        return metrics

    def _transitions(self, most: int) -> tuple[Array, Array, Array]:
        """Return observations, actions and next observations of at most so many recorded steps, drawn uniformly."""
        episodes = self.buffer.trajectories()
        rows = np.setdiff1d(np.arange(len(episodes.observations)), episodes.ends - 1)
        rows = self.rng.choice(rows, most, replace=False) if len(rows) > most else rows
        return episodes.observations[rows], episodes.actions[rows], episodes.observations[rows + 1]

    def _newest_steps(self) -> tuple[Array, Array]:
        """Return observations and actions of the newest episodes, which show the present policy."""
        episodes = self.buffer.trajectories()
        begin = int(episodes.begins[-NEWEST:][0])
        return episodes.observations[begin:], episodes.actions[begin:]

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

    def state_dict(self) -> dict[str, Any]:
        """Return the counters and the random state that a checkpoint has to keep, beside `preferences`."""
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
        if self.lists is not None:
            self._rebuild(self.lists)
        if unlabelled:
            print(f"not number for number the unbroken run: SURF's {unlabelled} unlabelled queries are drawn anew")
            self.unlabelled = self._draw_uniform(unlabelled, np.random.default_rng([self.asked, self.sessions]))
